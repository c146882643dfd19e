"""What happens on the device: time the jobs of a file one after another, and write down each.

Runs without torch, onnx or an installed latprune: this module and all that it imports come to the
device inside the file of jobs.
"""

from __future__ import annotations

import io
import json
import lzma
import math
import sys
import time
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from latprune.errors import LatpruneError
from latprune.graph.layers import LayerShape
from latprune.latency.devices.jobs import MANIFEST, Manifest, header_of, read_header, read_results
from latprune.latency.journal import append_line, begun_lines
from latprune.latency.networks import steady, time_in_turns, time_whole
from latprune.latency.onnx_sessions import ProfiledSession, open_session
from latprune.latency.profiled import time_models
from latprune.latency.sentinel import SENTINEL, paced
from latprune.latency.target import Target, processor
from latprune.latency.timing import Measurement, clock_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from latprune.latency.devices.jobs import Job
    from latprune.latency.timing import Run

    Outcome = Mapping[str, Any]
    Write = Callable[[Mapping[str, Any]], None]

STDOUT = "-"
INTERRUPTED = 130
_TOGETHER = 16
_LINE_EVERY_S = 10.0


def run(jobs: str, results: str) -> int | str:
    """Time what is not done yet.

    Args:
        jobs: The file that was packed; models that it lacks lie beside it.
        results: The file to add to, or "-" for stdout.

    Returns:
        The exit status: 0 when all is timed, 1 or a sentence when something failed, 130 after
        Ctrl-C.
    """
    try:
        with zipfile.ZipFile(jobs) as packed:
            manifest = Manifest.from_text(packed.read(MANIFEST).decode())
            target = _target(manifest)
            done, write = _open(results, target)
            todo = [job for job in manifest.jobs if job.key not in done]
            if manifest.then and results != STDOUT:
                write({"then": list(manifest.then)})
            bench = _Bench(manifest, _Files(packed, Path(jobs).parent), done)
            shown = None if results == STDOUT else _Shown(len(todo), sys.stderr)
            return _time(todo, bench, write, shown)
    except (ValueError, LatpruneError, OSError, zipfile.BadZipFile, KeyError) as error:
        return f"error: {error}"


def _target(manifest: Manifest) -> Target:
    import onnxruntime

    wanted = manifest.target
    found = Target(
        device=processor(),
        runtime=wanted.runtime,
        runtime_version=str(onnxruntime.__version__),
        precision=wanted.precision,
        batch=wanted.batch,
        threads=wanted.threads,
    )
    if manifest.is_known and found != wanted:
        raise ValueError(f"these jobs are for {wanted.describe()}; this is {found.describe()}")
    return found


def _open(results: str, target: Target) -> tuple[Mapping[str, Outcome], Write]:
    """Give the lines of the jobs that are done, and the function that writes one."""
    if results == STDOUT:
        print(json.dumps(header_of(target)), flush=True)
        return {}, lambda entry: print(json.dumps(entry), flush=True)
    path = Path(results)
    lines = begun_lines(path, header_of(target))
    if (found := read_header(lines[0] if lines else "")) != target:
        raise ValueError(
            f"{path} holds what was timed on {found.describe()}; this is {target.describe()}. "
            f"Give another file."
        )
    return read_results(path, lines).entries, lambda entry: append_line(path, entry)


def _time(todo: Sequence[Job], bench: _Bench, write: Write, shown: _Shown | None) -> int:
    failed = done = 0
    try:
        for job, outcome in bench.time(todo):
            write({"job": job.key, **job.entry, **outcome})
            if job == bench.sentinel:
                continue
            done += 1
            failed += "failed" in outcome
            if shown is not None:
                shown.step(done, job.describe())
    except KeyboardInterrupt:
        said = f"interrupted: {done} of {len(todo)} are done and kept; the same command goes on"
        print(f"\n{said}", file=sys.stderr)
        return INTERRUPTED
    if shown is not None:
        shown.end(failed)
    return 1 if failed else 0


class _Bench:
    """Times jobs, at the pace that the device had when its table was begun."""

    def __init__(self, manifest: Manifest, files: _Files, done: Mapping[str, Outcome]) -> None:
        self.sentinel = manifest.sentinel
        self._files = files
        self._threads = manifest.target.threads
        self._apart = manifest.apart
        self._clock = clock_for(self._threads)
        self._open = partial(ProfiledSession, threads=self._threads)
        self._reference = manifest.reference
        if self._reference is None and self.sentinel.key in done:
            self._reference = Measurement.from_json(done[self.sentinel.key])

    def time(self, todo: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Time layers, then networks; the sentinel comes first where nobody knows it."""
        layers = [job for job in todo if job.is_layer]
        if self._reference is None and any(job.is_paced for job in todo):
            ((_, self._reference),) = self._timed([])
            yield self.sentinel, self._reference.to_json()
        for begin in range(0, len(layers), _TOGETHER):
            yield from self._layers(layers[begin : begin + _TOGETHER])
        for job in todo:
            if not job.is_layer:
                yield job, _outcome(partial(self._networks, job))

    def _timed(self, jobs: Sequence[Job]) -> list[tuple[Job, Measurement]]:
        """Time layers beside the sentinel, which is given too where there is no reference."""
        models: list[tuple[Job | LayerShape, bytes]] = [(job, self._model(job)) for job in jobs]
        sentinel = (SENTINEL, self._model(self.sentinel))
        timed = time_models(
            models, self._open, clock=self._clock, sentinel=sentinel, apart=self._apart
        )
        return [
            (self.sentinel if isinstance(key, LayerShape) else key, measurement)
            for key, measurement in paced(timed, reference=self._reference)
        ]

    def _model(self, job: Job) -> bytes:
        return self._files.read(job.models[0])

    def _layers(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Time layers together; if one of them fails, each by itself, to know which."""
        try:
            timed = self._timed(jobs)
        except Exception:
            for job in jobs:
                yield job, _outcome(partial(self._alone, job))
            return
        for job, measurement in timed:
            yield job, measurement.to_json()

    def _alone(self, job: Job) -> Outcome:
        ((_, measurement),) = self._timed([job])
        return measurement.to_json()

    def _pace(self) -> float:
        assert self._reference is not None
        models = [(self.sentinel, self._model(self.sentinel))]
        ((_, now),) = time_models(models, self._open, clock=self._clock)
        return self._reference.median_ms / now.median_ms

    def _networks(self, job: Job) -> Outcome:
        runs = [self._files.network(name, job.inputs, self._threads) for name in job.models]
        if len(runs) == 1:
            return time_whole(runs[0], clock=self._clock, pace=self._pace).to_json()
        compared = time_in_turns(
            *runs,
            clock=self._clock,
            limit_s=job.limit_s,
            enough=lambda found: steady(found, tolerance=job.tolerance),
        )
        return {"comparison": compared.to_json()}


def _outcome(timed: Callable[[], Outcome]) -> Outcome:
    try:
        return timed()
    except Exception as error:  # whatever a runtime raises, the other jobs can go on
        return {"failed": " ".join(f"{type(error).__name__}: {error}".split())}


class _Files:
    """Models and inputs: in the file of jobs, or beside it."""

    def __init__(self, packed: zipfile.ZipFile, beside: Path) -> None:
        self._packed = packed
        self._names = set(packed.namelist())
        self._beside = beside

    def read(self, name: str) -> bytes:
        """Give a file's content."""
        packed = name in self._names
        content = self._packed.read(name) if packed else (self._beside / name).read_bytes()
        return lzma.decompress(content) if name.endswith(".xz") else content

    def network(self, name: str, inputs: Sequence[str], threads: int) -> Run:
        """Open a whole network, ready to run."""
        session = open_session(self.read(name), threads=threads)
        values = [np.load(io.BytesIO(self.read(each)), allow_pickle=False) for each in inputs]
        names = [wanted.name for wanted in session.get_inputs()]
        feeds = dict(zip(names, values, strict=True))

        def run_once() -> None:
            session.run(None, feeds)

        return run_once


class _Shown:
    """How far it is and how long it will take, on a terminal or as lines."""

    def __init__(self, total: int, file: TextIO) -> None:
        self._total, self._file = total, file
        self._begin = self._last = time.monotonic()

    def step(self, done: int, what: str) -> None:
        """Show that `done` are done; in a file only now and then."""
        now = time.monotonic()
        on_screen = self._file.isatty()
        if not on_screen and now - self._last < _LINE_EVERY_S:
            return
        self._last = now
        left_s = math.ceil((now - self._begin) / done * (self._total - done))
        line = f"{done}/{self._total}, about {left_s // 60}:{left_s % 60:02} left: {what}"
        end, start = ("", "\r\x1b[K") if on_screen else ("\n", "")
        print(f"{start}{line}", end=end, file=self._file, flush=True)

    def end(self, failed: int) -> None:
        """Say that it is over."""
        start = "\r\x1b[K" if self._file.isatty() else ""
        note = f"{failed} of {self._total} jobs failed" if failed else "everything is timed"
        print(f"{start}{note}", file=self._file, flush=True)
