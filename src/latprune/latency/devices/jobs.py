"""What is to be timed on a device, and what it answers, as files.

`jobs.zip` holds `manifest.json`, serialised ONNX models, the networks' inputs as `.npy`, and the
modules of latprune that time them. The device answers in JSON lines: a header with its target,
then one line per job that is also a line of that target's table. Needs numpy alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from latprune.errors import DamagedResults
from latprune.latency.target import Target
from latprune.latency.timing import Measurement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

JOBS, RESULTS, VERSION = "latprune-jobs", "latprune-results", 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Job:
    """One layer, one network, or two networks in turns.

    Attributes:
        entry: How a table names the result: by `shape`, `network` or `cut`.
        models: Names of the files to run: one, or the dense and the small network's.
        inputs: Names of the files that whole networks read, in order.
        limit_s: Of timing two networks.
        tolerance: The standard error of their ratio at which timing ends, relative.
        again: Tells timings of the same two networks apart: 0, 1, ….
    """

    entry: Mapping[str, Any]
    models: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    limit_s: float = 0.0
    tolerance: float = 0.0
    again: int = 0

    @property
    def is_layer(self) -> bool:
        """Whether it is a single layer's."""
        return "shape" in self.entry

    @property
    def is_paced(self) -> bool:
        """Whether its time is brought to a pace; two networks in turns are their own measure."""
        return len(self.models) == 1

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that differ whenever any field does."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def describe(self) -> str:
        """Give a few words for people."""
        if not self.is_layer:
            return "the whole network" if "network" in self.entry else "two networks in turns"
        shape = self.entry["shape"]
        return f"{shape['kind']} {shape['in_channels']} → {shape['out_channels']}"


@dataclass(frozen=True)
class Manifest:
    """The list of what is to be timed, and how.

    Attributes:
        target: Runtime, precision, batch and threads. The device and the runtime's version count
            only if `is_known`.
        is_known: Whether the jobs are for just this device.
        jobs: In the order in which to time them.
        sentinel: The layer that tells the device's pace.
        reference: What the sentinel took when the device's table was begun; None: it begins now.
        then: The command to give where the jobs were packed, once the results are read.
        apart: Bytes to read between two runs of a layer; see `Device.time`.
    """

    target: Target
    is_known: bool
    jobs: tuple[Job, ...]
    sentinel: Job
    reference: Measurement | None = None
    then: tuple[str, ...] = ()
    apart: int = 0

    def to_text(self) -> str:
        """Give the content of the file."""
        header = {"format": JOBS, "version": VERSION}
        return json.dumps({**header, **asdict(self)})

    @classmethod
    def from_text(cls, text: str) -> Manifest:
        """Read what `to_text` gave.

        Raises:
            ValueError: If it is something else.
        """
        try:
            stored = json.loads(text)
            _check_format(stored, JOBS)
            reference = stored["reference"]
            return cls(
                target=Target.from_json(stored["target"]),
                is_known=bool(stored["is_known"]),
                jobs=tuple(map(_job, stored["jobs"])),
                sentinel=_job(stored["sentinel"]),
                reference=None if reference is None else Measurement.from_json(reference),
                then=tuple(stored["then"]),
                apart=int(stored["apart"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the manifest is damaged ({error!r})") from error


@dataclass(frozen=True)
class Results:
    """What a device answered.

    Attributes:
        target: The device.
        entries: Lines for its table, by job.
        failed: Per job that failed a sentence.
        then: The command to give next.
    """

    target: Target
    entries: Mapping[str, Mapping[str, Any]]
    failed: Mapping[str, str]
    then: tuple[str, ...] = field(default=())


def header_of(target: Target) -> dict[str, Any]:
    """Give the first line of a file of results."""
    return {"format": RESULTS, "version": VERSION, "target": target.to_json()}


def read_header(line: str) -> Target:
    """Read the first line of a file of results.

    Raises:
        ValueError: If it is something else.
    """
    try:
        header = json.loads(line)
        _check_format(header, RESULTS)
        return Target.from_json(header["target"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not the header of results ({error!r})") from error


def read_results(path: Path, lines: Sequence[str]) -> Results:
    """Read the lines of a file of results.

    A job that failed and was timed later did not fail. Empty lines, which two that write at once
    may leave, say nothing.

    Args:
        path: For messages.
        lines: All that were written in full.

    Raises:
        DamagedResults: If a line is not what a device writes.
    """
    if not lines:
        raise DamagedResults(path, "line 1", "the file is empty")
    entries: dict[str, Mapping[str, Any]] = {}
    failed: dict[str, str] = {}
    then: tuple[str, ...] = ()
    left = iter(lines)
    try:
        target = read_header(next(left))
        for line in filter(None, left):
            entry = json.loads(line)
            if "then" in entry:
                then = tuple(map(str, entry["then"]))
                continue
            key = str(entry.pop("job"))
            if "failed" in entry:
                failed[key] = str(entry["failed"])
            else:
                entries[key] = entry
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        number = len(lines) - len(list(left))
        raise DamagedResults(path, f"line {number}", f"{error!r}") from error
    return Results(target, entries, {k: v for k, v in failed.items() if k not in entries}, then)


def _job(stored: Mapping[str, Any]) -> Job:
    lists = {name: tuple(stored[name]) for name in ("models", "inputs")}
    return Job(**{**stored, **lists})


def _check_format(header: Mapping[str, Any], wanted: str) -> None:
    if header["format"] != wanted:
        raise ValueError(f"the format is {header['format']!r}, not {wanted!r}")
    if header["version"] != VERSION:
        raise ValueError(
            f"version {header['version']} is not version {VERSION}: use the same latprune for "
            f"packing and reading"
        )
