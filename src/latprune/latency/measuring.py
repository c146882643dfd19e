"""Measure what planning needs, and nothing twice.

First that is the lines that find the stairs, the dense network, whole and layer by layer, and the
corners of every layer's range; later the very layers of a plan.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import nn

from latprune.errors import JobsPacked, NotMeasured, SubnormalWeights
from latprune.graph.layers import LayerShape
from latprune.latency.devices.here import HERE
from latprune.latency.journal import in_use
from latprune.latency.layer_sizes import BYTES_PER_WEIGHT, weights
from latprune.latency.networks import TOLERANCE, WHOLE_S
from latprune.latency.sentinel import SENTINEL
from latprune.latency.staircase import lines_needed, moving_axes, options
from latprune.latency.timing import pooled
from latprune.states import count_subnormals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from latprune.graph.groups import PruningGraph
    from latprune.latency.devices import CutName, Device, Ready
    from latprune.latency.table import LatencyTable
    from latprune.latency.target import Target
    from latprune.latency.timing import Comparison

    Tell = Callable[[int, int, str], None]

_LAYER_S = {"onnxruntime": 0.05, "openvino": 0.08, "eager": 0.05, "compile": 0.6}
_LAYER_INT8_S = {"onnxruntime": 0.06, "openvino": 0.12}  # each is quantised first
_FEW_OPENINGS = 3  # fewer do not tell how much the next one may differ
PRUNED = 0.5
"""The share of its weights that a network may have left: layers are timed as far apart as there."""

_USUAL_SEEDS = (0, 2, 3)  # of a layer with so many widths that can change


def measure(
    model: nn.Module,
    graph: PruningGraph,
    example: Tensor | tuple[Tensor, ...],
    target: Target,
    *,
    widths: Mapping[str, int] | Sequence[Mapping[str, int]] | None = None,
    folder: Path | None = None,
    progress: Tell | None = None,
    device: Device = HERE,
    ready: Ready | None = None,
) -> LatencyTable:
    """Measure a network's layers into the target's table, leaving out what it already holds.

    It may be killed at any point: the next call goes on where this one was.

    Args:
        model: The dense network.
        graph: Traced from it.
        example: Its input, of `target.batch` samples, or its inputs.
        target: Of the device, with a runtime.
        widths: Of a plan, or of several: measure exactly their layers. None: measure what planning
            starts from (the stairs, the whole network and its layers, the corners of every
            layer's range).
        folder: Of the tables; None: the default one.
        progress: Told (done, total, what) after every measurement; the total may still grow.
        device: Where to measure.
        ready: What `prepare` made of the model, where somebody has it already.

    Returns:
        The table.

    Raises:
        ValueError: If the target is not the device's, or the example not of its batch.
        DamagedTable: If the table's file cannot be read.
        StaleTable: If the table's file belongs to another target.
        MissingExtra: If the runtime is not installed.
        DeviceError: If the device fails; what it measured before is kept.
        JobsPacked: If somebody has to carry what is missing to the device.
    """
    _check(example, target, device)
    with in_use(device.table(target, folder=folder).path):
        table = device.table(target, folder=folder)
        bench = _Bench(graph, device, table, progress)
        if widths is not None:
            plans = [widths] if isinstance(widths, Mapping) else widths
            bench.measure(shape for plan in plans for shape in graph.shapes_at(plan).values())
            if set(lines_needed(graph)) <= table.keys():
                _measure_seeds(bench, graph, table)
            return table
        networks = []
        if _is_unknown(graph, table):
            whole = _prepared(model, example, target, device) if ready is None else ready
            networks = [(graph.key, whole)]
        dense = (layer.shape for layer in graph.layers)
        bench.measure((*lines_needed(graph), *dense), networks, round=1)
        _measure_seeds(bench, graph, table)
        return table


class Outlook(NamedTuple):
    """What measuring a network will take, about.

    Attributes:
        measurements: Layers and whole networks that the table lacks.
        seconds: On a processor core of today, with nothing else to do; None for runtimes that
            nobody has timed yet, as those on GPUs.
    """

    measurements: int
    seconds: float | None

    def __str__(self) -> str:
        if not self.measurements:
            return "all of it is known"
        lasting = "" if self.seconds is None else f", {_duration(self.seconds)}"
        return f"about {self.measurements} measurements{lasting}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def outlook(graph: PruningGraph, table: LatencyTable) -> Outlook:
    """Say beforehand what `measure` will have to do.

    Which widths are worth measuring is known once the stairs are: before, a layer's usual number of
    them is taken.
    """
    dense = {table.key(layer.shape): layer for layer in graph.layers}
    wanted = {*map(table.key, lines_needed(graph)), *dense}
    if wanted <= table.keys():
        layers = len({*map(table.key, _seeds(graph, table))} - table.keys())
    else:
        seeds = sum(_USUAL_SEEDS[len(moving_axes(layer))] for layer in dense.values())
        layers = len(wanted - table.keys()) + seeds
    networks = int(_is_unknown(graph, table))
    layer_s = _layer_s(table.target)
    seconds = None if layer_s is None else layers * layer_s + networks * WHOLE_S
    return Outlook(layers + networks, seconds)


def _layer_s(target: Target) -> float | None:
    """What timing a layer takes, making it ready included, in seconds; None: nobody knows."""
    known = _LAYER_INT8_S if target.precision == "int8" else _LAYER_S
    return known.get(target.runtime)


def prepare(
    model: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    target: Target,
    *,
    device: Device = HERE,
) -> Ready:
    """Make a whole network ready for the device to time.

    Warns:
        SubnormalWeights: If the network holds numbers that CPUs are slow with.

    Raises:
        ValueError: If the target is not the device's, or the example not of its batch.
        MissingExtra: If the runtime is not installed.
        DeviceError: If the device fails.
    """
    _check(example, target, device)
    return _prepared(model, example, target, device)


def compare(
    dense: nn.Module | Ready,
    small: nn.Module | Ready,
    example: Tensor | tuple[Tensor, ...],
    target: Target,
    *,
    enough: Callable[[Comparison], bool] | None = None,
    tolerance: float = TOLERANCE,
    limit_s: float = 4.0,
    openings: int = 1,
    device: Device = HERE,
    cut: CutName | None = None,
) -> Comparison:
    """Time two whole networks in turns until the ratio of their times is known.

    Args:
        dense: The network that came, or what `prepare` made of it.
        small: The pruned network, or what `prepare` made of it.
        example: Their input, or inputs.
        target: Of the device, with a runtime.
        enough: Looks at what is known after every round, once the rounds took 1.5 s; true ends the
            timing. Only a device in this process can ask it.
        tolerance: Where nothing or nobody can be asked, timing ends when the ratio's standard
            error, relative, is this.
        limit_s: In any case no round begins after so long.
        openings: How often both are put elsewhere in memory and timed for a share of `limit_s`, at
            the most: where they happen to lie makes them a percent faster or slower, and they may
            lie luckier where they ship. Once where the runtime cannot do that quickly.
        device: Where to time them.
        cut: How a table names the small network; needed where files are carried.

    Returns:
        Times, ratio, and how well it is known.
    """
    first, second = (
        prepare(network, example, target, device=device)
        if isinstance(network, nn.Module)
        else network
        for network in (dense, small)
    )
    if openings > 1 and not _anew(first, second, device):
        openings = 1
    found: list[Comparison] = []
    while len(found) < openings:
        if found:
            _anew(first, second, device)
        one = device.compare(
            first,
            second,
            target,
            limit_s=limit_s / openings,
            tolerance=tolerance * math.sqrt(openings),
            enough=enough if openings == 1 else None,
            cut=cut,
        )
        found.append(one)
        together = pooled(found)
        if len(found) >= _FEW_OPENINGS and enough is not None and enough(together):
            break
    return together


def _anew(first: Ready, second: Ready, device: Device) -> bool:
    return all(device.open_anew(network) for network in (first, second))


def _prepared(
    model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target, device: Device
) -> Ready:
    if count := count_subnormals(model):
        remedy = "It is timed as it is; prune and tune set them to zero"
        warnings.warn(SubnormalWeights(count, remedy), stacklevel=3)
    return device.prepare(model, example, target)


def _check(example: Tensor | tuple[Tensor, ...], target: Target, device: Device) -> None:
    first = example[0] if isinstance(example, tuple) else example
    if first.shape[0] != target.batch:
        raise ValueError(
            f"the example has {first.shape[0]} samples but the target's batch is {target.batch}"
        )
    found = device.target(
        target.runtime,
        precision=target.precision,
        batch=target.batch,
        threads=target.threads,
    )
    if found != target:
        raise ValueError(
            f"nothing can be measured for {target.describe()} here: this is {found.describe()}"
        )


def _is_unknown(graph: PruningGraph, table: LatencyTable) -> bool:
    try:
        table.network(graph)
    except NotMeasured:
        return True
    return False


class _Bench:
    """Measures on a device into its table what that lacks, and counts it for whoever asked."""

    def __init__(
        self, graph: PruningGraph, device: Device, table: LatencyTable, progress: Tell | None
    ) -> None:
        self._graph, self._device, self._table, self._progress = graph, device, table, progress
        self._done = 0
        self._total = 0
        dense = sum(weights(layer.shape) for layer in graph.layers)
        self._apart = int(PRUNED * dense * BYTES_PER_WEIGHT[table.target.precision])

    def measure(
        self,
        shapes: Iterable[LayerShape],
        networks: Sequence[tuple[str, Ready]] = (),
        *,
        round: int = 0,
    ) -> None:
        """Measure layers that the table lacks, and networks."""
        wanted = dict.fromkeys(map(self._table.key, shapes))
        wanted.pop(SENTINEL, None)  # it comes with the others
        missing = [shape for shape in wanted if shape not in self._table]
        self._total += len(missing) + len(networks)
        try:
            timed = self._device.time(
                missing,
                networks,
                self._table.target,
                reference=self._table.get(SENTINEL),
                apart=self._apart,
            )
        except JobsPacked as packed:
            raise JobsPacked(packed.path, packed.runner, packed.what, round=round) from None
        pace = 1.0
        for what, found in timed:
            if what == SENTINEL:
                pace = self._table.add_sentinel(found).median_ms / found.median_ms
                continue
            measurement = found.scaled(pace)
            if isinstance(what, LayerShape):
                self._table.add(what, measurement)
                self._tell(f"{what.kind} {what.in_channels} → {what.out_channels}")
            else:
                self._table.add_network(self._graph, measurement)
                self._tell("the whole network")

    def _tell(self, what: str) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total, what)


def _measure_seeds(bench: _Bench, graph: PruningGraph, table: LatencyTable) -> None:
    """Measure seeds until none is new: the more is measured, the finer the stairs may be."""
    known = -1
    while len(table) > known:
        known = len(table)
        bench.measure(_seeds(graph, table), round=2)


def _seeds(graph: PruningGraph, table: LatencyTable) -> Iterator[LayerShape]:
    """Per layer the corners of its range and one point between: the shapes interpolation needs."""
    choices = options(graph, table)
    narrow = {name: int(widths[0]) for name, widths in choices.items()}
    middle = {name: _middle(widths) for name, widths in choices.items()}
    for layer in graph.layers:
        ends = [(width.at(narrow), width.at(graph.widths)) for width in (layer.reads, layer.writes)]
        yield layer.shape_at(middle)
        if layer.tied:
            yield layer.shape_at(narrow)
        else:
            yield from (layer.shape_of(*corner) for corner in product(*ends))


def _middle(widths: np.ndarray) -> int:
    """The width nearest the geometric mean of the narrowest and the widest."""
    wanted = float(np.sqrt(float(widths[0]) * float(widths[-1])))
    return int(widths[np.abs(widths - wanted).argmin()])
