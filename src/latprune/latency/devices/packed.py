"""A device that somebody carries files to, and its table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from latprune.errors import DamagedResults, DeviceError, JobsPacked, LatpruneError, StaleTable
from latprune.graph.layers import LayerShape
from latprune.latency.devices.jobs import Job, read_results
from latprune.latency.devices.packing import (
    Network,
    check_portable,
    check_runner,
    layer_job,
    manifest_of,
    pack_network,
    write_jobs,
    write_runner,
)
from latprune.latency.journal import whole_lines
from latprune.latency.sentinel import SENTINEL
from latprune.latency.table import LatencyTable
from latprune.latency.table_files import table_path
from latprune.latency.target import Target
from latprune.latency.timing import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from latprune.latency.devices import CutName, Ready
    from latprune.latency.timing import Comparison


class Packed:
    """Answers from the device's table, and packs what it lacks; see `Device`.

    What was packed is timed on the device (`python runner.py jobs.zip results.jsonl`) and read by
    `unpack`; then the same call goes on. A network that is ready is a `Network`.

    Attributes:
        table_file: The device's table; None: it has none yet.
        jobs: The file to pack to; None: what is missing is an error.
        then: The command to give once the results are read.
    """

    def __init__(
        self,
        table_file: Path | None = None,
        *,
        jobs: Path | None = None,
        then: Sequence[str] = (),
    ) -> None:
        """Open the device.

        Raises:
            DeviceError: If what is started there would replace a file beside `jobs`.
        """
        if jobs is not None:
            check_runner(jobs.parent)
        self.table_file = table_file
        self.jobs = jobs
        self.then = tuple(then)
        self._asked: Counter[str] = Counter()

    def target(
        self,
        runtime: str = "onnxruntime",
        *,
        precision: str = "fp32",
        batch: int = 1,
        threads: int = 1,
    ) -> Target:
        """Give the table's target, or one whose device nobody knows yet.

        Raises:
            StaleTable: If the table was measured with other settings.
        """
        asked = Target(_UNKNOWN, runtime, _UNKNOWN, precision, batch, threads)
        check_portable(asked)
        if self.table_file is None:
            return asked
        found = LatencyTable.read(self.table_file).target
        if _settings(found) != _settings(asked):
            raise StaleTable(
                f"{self.table_file} was measured with {found.describe()}, not with "
                f"{runtime}, {precision}, batch {batch}, {threads} threads"
            )
        return found

    def table(self, target: Target, *, folder: Path | None = None) -> LatencyTable:
        """Open the device's table; in memory, and empty, if it has none yet."""
        del folder
        if self.table_file is None:
            return LatencyTable(target)
        return LatencyTable.open(self.table_file, target)

    def prepare(
        self, model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target
    ) -> Network:
        """Export a network."""
        return pack_network(model, example, target)

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
        """Pack everything."""
        named = [(key, cast("Network", network)) for key, network in networks]
        jobs = [layer_job(shape, target) for shape in shapes]
        jobs += [Job({"network": key}, (one.model,), one.inputs) for key, one in named]
        if jobs:
            raise self._packed(jobs, [network for _, network in named], target, reference, apart)
        return iter(())

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
        """Answer with the next timing of these networks that the table holds, or pack one."""
        del enough
        if cut is None:
            raise DeviceError("networks that no table names cannot be carried to a device")
        known = _timings(self.table(target), cut)
        entry = {"cut": cut.graph, "widths": dict(cut.widths)}
        again = self._asked[repr(entry)]
        self._asked[repr(entry)] += 1
        if again < len(known):
            return known[-1 - again]  # the newest first: it is the one that was missing last time
        pair = (cast("Network", dense), cast("Network", small))
        models = tuple(network.model for network in pair)
        job = Job(entry, models, pair[0].inputs, limit_s, tolerance, len(known))
        raise self._packed([job], pair, target, None)

    def _packed(
        self,
        jobs: Sequence[Job],
        networks: Sequence[Network],
        target: Target,
        reference: Measurement | None,
        apart: int = 0,
    ) -> LatpruneError:
        if self.jobs is None:
            return DeviceError(
                f"{self.table_file} lacks {_in_words(jobs)}, which can only be timed on "
                f"{target.device}. Pack that with --pack jobs.zip, or reach the device with --on "
                f"ssh://HOST"
            )
        is_known = self.table_file is not None
        manifest = manifest_of(
            jobs, target, is_known=is_known, reference=reference, then=self.then, apart=apart
        )
        write_jobs(self.jobs, manifest, networks)
        runner = write_runner(self.jobs.parent)
        return JobsPacked(self.jobs, runner, _in_words(jobs))


_UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Unpacked:
    """What came of reading results.

    Attributes:
        table: Of the device.
        added: Measurements that it did not hold yet.
        failed: Why jobs failed, a sentence each.
        then: The command that packed them, to be given again.
    """

    table: LatencyTable
    added: int
    failed: tuple[str, ...]
    then: tuple[str, ...]


def unpack(
    results: Path, *, table_file: Path | None = None, folder: Path | None = None
) -> Unpacked:
    """Add what a device answered to its table.

    Results that bring a pace of their own, as those of jobs that were packed for no table, are
    brought to the table's, whose sentinel stays. Reading the same results again changes nothing.

    Args:
        results: What `runner.py` wrote.
        table_file: Of the device; None: named by the target, in `folder`.
        folder: Of tables; None: the default one.

    Raises:
        DamagedResults: If the results cannot be read.
        DamagedTable: If the table cannot.
        StaleTable: If the table belongs to another target than the results.
    """
    if not results.is_file():
        raise DamagedResults(results, "line 1", "there is no such file")
    found = read_results(results, whole_lines(results.read_bytes()))
    path = table_file or table_path(found.target, folder=folder)
    table = LatencyTable.open(path, found.target)
    added, pace = 0, 1.0
    for key, entry in found.entries.items():  # the sentinel first
        try:
            if _is_sentinel(entry) and SENTINEL in table:
                pace = table[SENTINEL].median_ms / Measurement.from_json(entry).median_ms
            else:
                added += table.add_stored(_at(pace, entry))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedResults(results, f"job {key}", f"no measurement ({error!r})") from error
    return Unpacked(table, added, tuple(found.failed.values()), found.then)


def _is_sentinel(entry: Mapping[str, Any]) -> bool:
    return "shape" in entry and LayerShape.from_json(entry["shape"]) == SENTINEL


def _at(pace: float, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Bring a line to another pace; two networks in turns are their own measure."""
    if "cut" in entry:
        return entry
    return {**entry, **Measurement.from_json(entry).scaled(pace).to_json()}


def _timings(table: LatencyTable, wanted: CutName) -> list[Comparison]:
    """What a table knows of one pruned network, oldest first."""
    cuts = table.every_cut.get(wanted.graph, ())
    return [cut.comparison for cut in cuts if cut.widths == dict(wanted.widths)]


def _settings(target: Target) -> tuple[str, str, int, int]:
    return target.runtime, target.precision, target.batch, target.threads


def _in_words(jobs: Sequence[Job]) -> str:
    layers = sum(job.is_layer for job in jobs)
    counted = [f"{layers} layer{'s' if layers > 1 else ''}"] if layers else []
    return " and ".join(counted + [job.describe() for job in jobs if not job.is_layer])
