"""Measured latencies of one target, in memory and in a file that survives being killed.

The file is JSON Lines: a header that names format, version and target, then one line per
measurement, written out the moment it is made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from latprune.errors import DamagedTable, NotMeasured
from latprune.graph.layers import LayerShape
from latprune.latency.journal import append_line, begun_lines, is_torn, whole_lines
from latprune.latency.sentinel import SENTINEL
from latprune.latency.table_files import check_target, default_folder, header, read_header
from latprune.latency.timing import Comparison, Measurement

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from latprune.graph.groups import PruningGraph
    from latprune.latency.target import Target

T = TypeVar("T")


class Cut(NamedTuple):
    """A pruned network that was timed in turns with the dense one.

    Attributes:
        widths: Of the graph's groups.
        comparison: The times.
    """

    widths: Mapping[str, int]
    comparison: Comparison


class LatencyTable(Mapping[LayerShape, Measurement]):
    """What layers and whole networks cost on one target.

    Attributes:
        target: What everything in it was measured on.
        path: The file that every addition is appended to; None: memory only.
    """

    def __init__(self, target: Target, *, path: Path | None = None) -> None:
        self.target = target
        self.path = path
        self._layers: dict[LayerShape, Measurement] = {}
        self._networks: dict[str, Measurement] = {}
        self._cuts: dict[str, list[Cut]] = {}
        self._alike: dict[tuple[object, ...], list[LayerShape]] = {}
        self._derived: dict[tuple[object, ...], dict[object, Any]] = {}

    def __repr__(self) -> str:
        return f"<LatencyTable: {len(self)} layers, {self.target.describe()}>"

    @classmethod
    def open(cls, path: Path, target: Target) -> LatencyTable:
        """Read a table's file, or begin one.

        A line that a killed process left half written is passed over, and dropped if it is the last
        one and nobody else has the file.

        Args:
            path: The file; folders are made as needed.
            target: What the table must have been measured on.

        Raises:
            DamagedTable: If a line cannot be read.
            StaleTable: If the file belongs to another target.
        """
        table = cls(target, path=path)
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = begun_lines(path, header(target))
        check_target(path, read_header(path, lines[0] if lines else ""), target)
        table._read_all(path, lines)
        return table

    @classmethod
    def read(cls, path: Path) -> LatencyTable:
        """Read a table of whatever target; its file stays as it is.

        A line that a killed process left half written is passed over.

        Args:
            path: The file.

        Returns:
            The table, in memory alone: what is added to it is not written.

        Raises:
            DamagedTable: If there is no such file, or a line of it cannot be read.
        """
        try:
            lines = whole_lines(path.read_bytes())
        except OSError as error:
            why = f"it cannot be read ({error.strerror})"
            remedy = f"Tables that `latprune measure` wrote lie in {default_folder()}."
            raise DamagedTable(path, 0, why, remedy=remedy) from error
        if not lines:
            why = "it is empty: not even a header that names the target"
            raise DamagedTable(path, 0, why, remedy="Measure again: latprune measure.")
        table = cls(read_header(path, lines[0]))
        table._read_all(path, lines)
        return table

    @classmethod
    def of(
        cls,
        target: Target,
        layers: Mapping[LayerShape, Measurement],
        *,
        networks: Mapping[str, Measurement],
        every_cut: Mapping[str, Sequence[Cut]],
    ) -> LatencyTable:
        """Make a table, in memory alone, from what was measured before."""
        table = cls(target)
        for shape, measurement in layers.items():
            table._keep(shape, measurement)
        table._networks.update(networks)
        table._cuts.update({key: list(cuts) for key, cuts in every_cut.items()})
        return table

    def write(self, path: Path) -> None:
        """Write the whole table to a new file.

        Raises:
            FileExistsError: If the file is there already.
        """
        with path.open("x", encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in self._entries())
            file.flush()
            os.fsync(file.fileno())

    @property
    def networks(self) -> Mapping[str, Measurement]:
        """Whole dense networks, by their graph's key."""
        return MappingProxyType(self._networks)

    @property
    def every_cut(self) -> Mapping[str, Sequence[Cut]]:
        """Pruned networks, by the dense network's key, whether their layers are measured or not."""
        return MappingProxyType(self._cuts)

    def __getitem__(self, shape: LayerShape) -> Measurement:
        """Give a layer's measurement.

        Raises:
            KeyError: If it was not measured.
        """
        return self._layers[self.key(shape)]

    def __contains__(self, shape: object) -> bool:
        """Tell whether a layer was measured."""
        return isinstance(shape, LayerShape) and self.key(shape) in self._layers

    def __iter__(self) -> Iterator[LayerShape]:
        """Go through the measured layers, oldest first."""
        return iter(self._layers)

    def __len__(self) -> int:
        """Count the measured layers."""
        return len(self._layers)

    def key(self, shape: LayerShape) -> LayerShape:
        """Give a shape as the table knows it: by itself, where neighbours change no kernel."""
        return shape if self.target.minds_neighbours else shape.by_itself

    def add(self, shape: LayerShape, measurement: Measurement) -> None:
        """Add, or replace, a layer's measurement; in the file too before this returns."""
        shape = self.key(shape)
        stored = measurement.to_json()
        self._keep(shape, Measurement.from_json(stored))  # what the next process will read
        self._store({"shape": shape.to_json(), **stored})

    def add_sentinel(self, measurement: Measurement) -> Measurement:
        """Add the sentinel's first time, which all others are at the pace of; give what it is.

        It is another one if another process that began the same file was the first to write it.
        """
        self.add(SENTINEL, measurement)
        if self.path is not None:
            self._keep(SENTINEL, LatencyTable.read(self.path)[SENTINEL])
        return self[SENTINEL]

    def network(self, graph: PruningGraph) -> Measurement:
        """Give the measurement of a whole dense network.

        Raises:
            NotMeasured: If the table does not hold it.
        """
        try:
            return self._networks[graph.key]
        except KeyError:
            raise NotMeasured(
                f"the whole network {graph.key} was not measured on {self.target.describe()}; "
                "measure() does it"
            ) from None

    def add_network(self, graph: PruningGraph, measurement: Measurement) -> None:
        """Add, or replace, a whole dense network's measurement, as `add` does a layer's."""
        self.add_stored({"network": graph.key, **measurement.to_json()})

    def layers_ms(self, graph: PruningGraph, widths: Mapping[str, int]) -> float:
        """Add up what a network's layers take, one by one, at these widths of its groups.

        Raises:
            NotMeasured: If the table lacks one of them.
        """
        try:
            return sum(self[shape].median_ms for shape in graph.shapes_at(widths).values())
        except KeyError as error:
            raise NotMeasured(
                f"{error.args[0]} was not measured on {self.target.describe()}; measure() with "
                "these widths does it"
            ) from None

    def cuts(self, graph: PruningGraph) -> list[Cut]:
        """Give what is known of networks cut from this one in these groups, oldest first.

        Only those whose layers are all measured, too.
        """
        return [
            cut
            for cut in self._cuts.get(graph.key, ())
            if graph.allows(cut.widths)
            and all(shape in self for shape in graph.shapes_at(cut.widths).values())
        ]

    def add_cut(
        self, graph: PruningGraph, widths: Mapping[str, int], comparison: Comparison
    ) -> None:
        """Add a pruned network's times, as `add` does a layer's."""
        stored = {"widths": dict(widths), "comparison": comparison.to_json()}
        self.add_stored({"cut": graph.key, **stored})

    def add_stored(self, entry: Mapping[str, Any]) -> bool:
        """Add a measurement in the form in which the file holds it; False if it is there already.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: If it is no measurement.
        """
        if not self._take(entry):
            return False
        self._store(entry)
        return True

    def alike(self, shape: LayerShape) -> Sequence[LayerShape]:
        """Give the measured layers that run the same kernel: widths and sizes may differ."""
        return self._alike.get(_kernel(shape), ())

    def derived(self, shape: LayerShape, key: object, make: Callable[[], T]) -> T:
        """Give what follows from the layers `alike` a shape; made anew once one is added.

        Args:
            shape: Runs the kernel in question.
            key: Tells apart what is derived from the same layers.
            make: Derives it from nothing but them.
        """
        known = self._derived.setdefault(_kernel(shape), {})
        if key not in known:
            known[key] = make()
        found: T = known[key]
        return found

    def _keep(self, shape: LayerShape, measurement: Measurement) -> None:
        shape = self.key(shape)
        self._derived.pop(_kernel(shape), None)
        if shape not in self._layers:
            self._alike.setdefault(_kernel(shape), []).append(shape)
        self._layers[shape] = measurement

    def _take(self, entry: Mapping[str, Any]) -> bool:
        """Keep what a line of the file says; tell whether it is new."""
        if "cut" in entry:
            widths = {str(group): int(width) for group, width in entry["widths"].items()}
            cut = Cut(widths, Comparison.from_json(entry["comparison"]))
            cuts = self._cuts.setdefault(str(entry["cut"]), [])
            is_new = cut not in cuts
            if is_new:
                cuts.append(cut)
            return is_new
        measurement = Measurement.from_json(entry)
        if "network" in entry:
            key = str(entry["network"])
            is_new = self._networks.get(key) != measurement
            self._networks[key] = measurement
            return is_new
        shape = LayerShape.from_json(entry["shape"])
        if shape == SENTINEL and SENTINEL in self:
            return False  # the pace that the table was begun at
        is_new = self.get(shape) != measurement
        self._keep(shape, measurement)
        return is_new

    def _store(self, entry: Mapping[str, Any]) -> None:
        if self.path is not None:
            append_line(self.path, entry, header=header(self.target))

    def _entries(self) -> Iterator[Mapping[str, Any]]:
        """What `read` reads, line by line."""
        yield header(self.target)
        for shape, measurement in self._layers.items():
            yield {"shape": shape.to_json(), **measurement.to_json()}
        for key, measurement in self._networks.items():
            yield {"network": key, **measurement.to_json()}
        for key, cuts in self._cuts.items():
            for cut in cuts:
                stored = {"widths": dict(cut.widths), "comparison": cut.comparison.to_json()}
                yield {"cut": key, **stored}

    def _read_all(self, path: Path, lines: Sequence[str]) -> None:
        for number, line in enumerate(lines[1:], start=2):
            if not is_torn(line):
                self._read(path, number, line)

    def _read(self, path: Path, number: int, line: str) -> None:
        try:
            self._take(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise DamagedTable(path, number, f"not a measurement ({error!r})") from error


def _kernel(shape: LayerShape) -> tuple[object, ...]:
    return shape.kind, shape.kernel, shape.stride, shape.dilation, shape.transposed
