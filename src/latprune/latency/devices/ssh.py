"""A device that is reached over ssh, with the system's own `ssh` and `scp`.

Files lie in one temporary folder over there for as long as the device is open. Results come back
line by line as they are made, so that a connection that dies loses nothing that was measured.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tempfile
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from latprune.errors import DeviceError
from latprune.latency.devices.jobs import Job, read_header
from latprune.latency.devices.packing import (
    RUNNER,
    Network,
    check_portable,
    layer_job,
    manifest_of,
    pack_network,
    write_jobs,
    write_runner,
)
from latprune.latency.sentinel import SENTINEL
from latprune.latency.table import LatencyTable
from latprune.latency.table_files import table_path
from latprune.latency.target import Target
from latprune.latency.timing import Comparison, Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from torch import Tensor, nn

    from latprune.graph.layers import LayerShape
    from latprune.latency.devices import CutName, Ready
    from latprune.latency.devices.jobs import Manifest

_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15")
_UNREACHED = 255  # what ssh ends with when it is ssh that failed
_JOBS = "jobs.zip"
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Address:
    """Where a device is.

    Attributes:
        host: As ssh takes it, with the user if there is one.
        port: None: as ssh is configured.
        python: The command over there.
    """

    host: str
    port: int | None = None
    python: str = "python3"

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read `ssh://[USER@]HOST[:PORT][/PATH/TO/PYTHON]`; a path may begin with `/~/`.

        Raises:
            ValueError: If it reads otherwise.
        """
        wanted = f"a device reads like ssh://user@host:22/usr/bin/python3, not {url!r}"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{wanted} ({error})") from None
        user, host = parts.username, parts.hostname
        if parts.scheme != "ssh" or not host or parts.query or parts.fragment:
            raise ValueError(wanted)
        if parts.password is not None:
            raise ValueError("a device's address holds no password: use a key that ssh finds")
        if not all(re.fullmatch(r"[\w.:%][\w.:%-]*", part) for part in (host, user or host)):
            raise ValueError(wanted)
        # `hostname` is in small letters, and a name in ssh's configuration may have others.
        at = parts.netloc.lower().rindex(host.lower())
        host = parts.netloc[at : at + len(host)]
        return cls(f"{user}@{host}" if user else host, port, _python(parts.path))

    def __str__(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"


def _python(path: str) -> str:
    if path in ("", "/"):
        return "python3"
    if path.startswith("/~/"):
        return "~/" + shlex.quote(path[3:])  # the shell over there knows whose home it is
    return shlex.quote(path)


class Ssh:
    """Times on a device that ssh reaches without asking for a password; see `Device`.

    It needs Python 3.10, numpy and ONNX Runtime over there. A network that is ready is a `Network`
    whose files lie over there. Close it, or use it in a `with`: that removes what lies over there.

    Attributes:
        address: Where it is.
    """

    def __init__(self, url: str) -> None:
        self.address = Address.parse(url)
        self._folder: str | None = None
        self._sent: set[str] = set()
        self._targets: dict[tuple[str, str, int, int], Target] = {}
        self._remove: Callable[[], object] | None = None

    def __enter__(self) -> Ssh:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove what lies on the device; nothing happens if that fails."""
        if self._remove is not None:
            self._remove()
        self._folder, self._remove = None, None
        self._sent.clear()

    def target(
        self,
        runtime: str = "onnxruntime",
        *,
        precision: str = "fp32",
        batch: int = 1,
        threads: int = 1,
    ) -> Target:
        """Ask the device for its processor and the version of its runtime."""
        settings = (runtime, precision, batch, threads)
        if settings not in self._targets:
            asked = Target(_UNKNOWN, runtime, _UNKNOWN, precision, batch, threads)
            check_portable(asked)
            lines = list(self._run(manifest_of([], asked, is_known=False)))
            self._targets[settings] = self._read_target(lines)
        return self._targets[settings]

    def table(self, target: Target, *, folder: Path | None = None) -> LatencyTable:
        """Open the target's table in a folder on this side."""
        return LatencyTable.open(table_path(target, folder=folder), target)

    def prepare(
        self, model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target
    ) -> Network:
        """Export a network and send it; what was sent once stays."""
        network = pack_network(model, example, target)
        missing = {n: content for n, content in network.files.items() if n not in self._sent}
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / name for name in missing]
            for path, content in zip(paths, missing.values(), strict=True):
                path.write_bytes(content)
            if paths:
                self._send(paths)
        self._sent |= missing.keys()
        return network._replace(files={})

    def open_anew(self, network: Ready) -> bool:
        """Leave it: every timing over there opens its networks anew."""
        del network
        return False

    def time(
        self,
        shapes: Sequence[LayerShape],
        networks: Sequence[tuple[str, Ready]],
        target: Target,
        *,
        reference: Measurement | None,
        apart: int = 0,
    ) -> Iterator[tuple[LayerShape | str, Measurement]]:
        """Time over there; every result comes as soon as it is made."""
        named = [(key, cast("Network", network)) for key, network in networks]
        what: list[LayerShape | str] = [*shapes, *(key for key, _ in named)]
        jobs = [layer_job(shape, target) for shape in shapes]
        jobs += [Job({"network": key}, (one.model,), one.inputs) for key, one in named]
        by_key = {job.key: one for job, one in zip(jobs, what, strict=True)}
        for job, result in self._results(jobs, target, reference, apart):
            yield by_key.get(job, SENTINEL), Measurement.from_json(result)

    def compare(
        self,
        dense: Ready,
        small: Ready,
        target: Target,
        *,
        limit_s: float,
        tolerance: float,
        enough: Callable[[Comparison], bool] | None = None,
        cut: CutName | None = None,
    ) -> Comparison:
        """Time two networks over there, until their ratio is known to `tolerance`."""
        del enough, cut
        pair = (cast("Network", dense), cast("Network", small))
        models = tuple(network.model for network in pair)
        job = Job({"compared": True}, models, pair[0].inputs, limit_s, tolerance)
        ((_, result),) = self._results([job], target, None)
        return Comparison.from_json(result["comparison"])

    def _results(
        self,
        jobs: Sequence[Job],
        target: Target,
        reference: Measurement | None,
        apart: int = 0,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        if not jobs:
            return
        manifest = manifest_of(jobs, target, is_known=True, reference=reference, apart=apart)
        asked = {job.key: job for job in (manifest.sentinel, *jobs)}
        waiting = {job.key for job in jobs}
        lines = self._run(manifest)
        self._read_target([next(lines, "")])
        for line in lines:
            result = json.loads(line)
            job = asked[result["job"]]
            waiting.discard(job.key)
            if "failed" in result:
                raise DeviceError(
                    f"{self.address} cannot time {job.describe()}: {result['failed']}"
                )
            yield job.key, result
        if waiting:
            raise DeviceError(f"{self.address} left {len(waiting)} of {len(jobs)} jobs undone")

    def _read_target(self, lines: Sequence[str]) -> Target:
        try:
            return read_header(lines[0])
        except (ValueError, IndexError) as error:
            raise DeviceError(f"{self.address} answered something else ({error})") from error

    def _run(self, manifest: Manifest) -> Iterator[str]:
        """Send jobs, start the runner, and give its lines as they come."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / _JOBS
            write_jobs(path, manifest)
            self._send([path])
        there = shlex.quote(self._open())
        python = self.address.python
        yield from self._lines(f"{python} {there}/{RUNNER} {there}/{_JOBS} -")

    def _lines(self, command: str) -> Iterator[str]:
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
            process = subprocess.Popen(
                self._ssh(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                encoding="utf-8",
                errors="replace",
            )
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    # A shell's greeting is no result, nor is what a dying connection cut off.
                    if line.startswith("{") and line.endswith("\n"):
                        yield line
                code = process.wait()
            finally:
                process.kill()
                process.stdout.close()
                process.wait()
            if code != 0:
                said.seek(0)
                raise self._failure("timing", code, said.read())

    def _open(self) -> str:
        """The folder over there, made with the first use."""
        if self._folder is None:
            said = self._finished("making a folder", self._ssh(_MAKE_FOLDER))
            # What a shell greets with is not to be removed later.
            made = re.search(r"^/.*/latprune\.\w{10}$", said, re.MULTILINE)
            if made is None:
                raise DeviceError(
                    f"{self.address} made no temporary folder; it says: {said.strip()}"
                )
            self._folder = made[0]
            remove = self._ssh(f"rm -rf {shlex.quote(self._folder)}")
            self._remove = weakref.finalize(self, _quietly, remove)
            with tempfile.TemporaryDirectory() as folder:
                try:
                    self._send([write_runner(Path(folder))])
                except DeviceError:
                    self.close()
                    raise
        return self._folder

    def _send(self, paths: Sequence[Path]) -> None:
        to = f"{_bracketed(self.address.host)}:{self._open()}/"
        port = () if self.address.port is None else ("-P", str(self.address.port))
        command = ["scp", "-q", *_OPTIONS, *port, *map(str, paths), to]
        self._finished("copying", command)

    def _ssh(self, command: str) -> list[str]:
        port = () if self.address.port is None else ("-p", str(self.address.port))
        return ["ssh", *_OPTIONS, *port, self.address.host, command]

    def _finished(self, doing: str, command: Sequence[str]) -> str:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
        except FileNotFoundError:
            raise DeviceError(
                f"there is no {command[0]} on this machine: install the OpenSSH client"
            ) from None
        if done.returncode != 0:
            raise self._failure(doing, done.returncode, done.stderr)
        return done.stdout

    def _failure(self, doing: str, code: int, said: str) -> DeviceError:
        words = " ".join(said.split()) or f"nothing but exit status {code}"
        if code == _UNREACHED:
            return DeviceError(
                f"no connection to {self.address} while {doing}; ssh says: {words}. What was "
                f"measured is kept. See that `ssh {self.address.host} true` works without asking"
            )
        return DeviceError(f"{doing} on {self.address} failed; it says: {words}")


_MAKE_FOLDER = 'mktemp -d "${TMPDIR:-/tmp}/latprune.XXXXXXXXXX"'


def _quietly(command: Sequence[str]) -> None:
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=30
        )


def _bracketed(host: str) -> str:
    """A host for scp, which takes a bare IPv6 address for a path."""
    user, at, name = host.rpartition("@")
    return f"{user}{at}[{name}]" if ":" in name else host
