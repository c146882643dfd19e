"""Measure what planning needs, and nothing twice.

First that is the lines that find the stairs, the dense network, whole and layer by layer, and the
corners of every layer's range; later the very layers of a plan.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from latprune.errors import NotMeasured
from latprune.latency.runtimes import get_runtime
from latprune.latency.sentinel import SENTINEL, paced
from latprune.latency.staircase import lines_needed, options
from latprune.latency.table import LatencyTable, table_path
from latprune.latency.timing import (
    Comparison,
    clock_for,
    steady_median,
    summarise,
    time_interleaved,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from latprune.graph.groups import PruningGraph
    from latprune.graph.layers import LayerShape
    from latprune.latency.target import Target
    from latprune.latency.timing import Measurement, Run

    Tell = Callable[[int, int, str], None]

LEAST_S = 1.5
"""For how long two networks are timed in turns, at the least: what disturbs comes in bursts."""


def measure(
    model: nn.Module,
    graph: PruningGraph,
    example: Tensor | tuple[Tensor, ...],
    target: Target,
    *,
    widths: Mapping[str, int] | None = None,
    folder: Path | None = None,
    progress: Tell | None = None,
) -> LatencyTable:
    """Measure a network's layers into the target's table, leaving out what it already holds.

    It may be killed at any point: the next call goes on where this one was.

    Args:
        model: The dense network.
        graph: Traced from it.
        example: Its input, of `target.batch` samples, or its inputs.
        target: This machine, with a runtime.
        widths: Of a plan: measure exactly its layers. None: measure what planning starts from
            (the stairs, the whole network and its layers, the corners of every layer's range).
        folder: Of the tables; None: the default one.
        progress: Told (done, total, what) after every measurement; the total may still grow.

    Returns:
        The table.

    Raises:
        ValueError: If the target is not this machine's, or the example not of its batch.
        DamagedTable: If the table's file cannot be read.
        StaleTable: If the table's file belongs to another target.
        MissingExtra: If the runtime is not installed.
    """
    _check(example, target)
    table = LatencyTable.open(table_path(target, folder=folder), target)
    tell = _Counter(progress)
    if widths is not None:
        _measure_layers((layer.shape_at(widths) for layer in graph.layers), table, tell)
        return table
    dense = (layer.shape for layer in graph.layers)
    _measure_layers((*lines_needed(graph), *dense), table, tell)
    _measure_layers(_seeds(graph, table), table, tell)
    _measure_network(model, graph, example, table, tell)
    return table


def prepare(model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target) -> Run:
    """Make a whole network ready to run in the target's runtime; the result runs it once.

    Raises:
        ValueError: If the target is not this machine's, or the example not of its batch.
        MissingExtra: If the runtime is not installed.
    """
    _check(example, target)
    return get_runtime(target.runtime).prepare(model, example, target)


def compare(
    dense: nn.Module | Run,
    small: nn.Module | Run,
    example: Tensor | tuple[Tensor, ...],
    target: Target,
    *,
    enough: Callable[[Comparison], bool] | None = None,
    limit_s: float = 4.0,
) -> Comparison:
    """Time two whole networks in turns until the ratio of their times is known.

    Args:
        dense: The network that came, or what `prepare` made of it.
        small: The pruned network, or what `prepare` made of it.
        example: Their input, or inputs.
        target: This machine, with a runtime.
        enough: Looks at what is known after every round, once the rounds took 1.5 s; true ends the
            timing. None: when the ratio's standard error is below 0.3 % of it.
        limit_s: In any case no round begins after so long.

    Returns:
        Times, ratio, and how well it is known.
    """
    runs = [
        prepare(network, example, target) if isinstance(network, nn.Module) else network
        for network in (dense, small)
    ]
    samples = time_interleaved(
        runs,
        clock=clock_for(target.threads),
        limit_s=limit_s,
        enough=lambda found: _lasted(found) and (enough or steady)(Comparison.of(*found)),
    )
    return Comparison.of(*samples)


def _lasted(samples: list[list[float]]) -> bool:
    """Whether a quick network was timed for long enough: what disturbs it comes in bursts."""
    return sum(map(sum, samples)) >= LEAST_S * 1e3


def steady(compared: Comparison, *, tolerance: float = 0.003) -> bool:
    """Tell whether a ratio is known to `tolerance` (standard error, relative)."""
    return compared.ratio_error <= tolerance * compared.ratio


def _check(example: Tensor | tuple[Tensor, ...], target: Target) -> None:
    first = example[0] if isinstance(example, tuple) else example
    if first.shape[0] != target.batch:
        raise ValueError(
            f"the example has {first.shape[0]} samples but the target's batch is {target.batch}"
        )
    here = type(target).here(
        target.runtime,
        precision=target.precision,
        batch=target.batch,
        threads=target.threads,
    )
    if here != target:
        raise ValueError(
            f"nothing can be measured for {target.describe()} here: this is {here.describe()}"
        )


def _measure_layers(shapes: Iterable[LayerShape], table: LatencyTable, tell: _Counter) -> None:
    missing = [shape for shape in dict.fromkeys(shapes) if shape not in table]
    tell.expect(len(missing))
    for shape, measurement in _timed(missing, table):
        table.add(shape, measurement)
        if shape != SENTINEL:
            tell.one(f"{shape.kind} {shape.in_channels} → {shape.out_channels}")


def _timed(
    shapes: Sequence[LayerShape], table: LatencyTable
) -> Iterator[tuple[LayerShape, Measurement]]:
    """Time layers at the pace that the machine had when the table was begun."""
    if not shapes:
        return
    timed = get_runtime(table.target.runtime).time_layers(
        list(dict.fromkeys([SENTINEL, *shapes])), table.target
    )
    yield from paced(timed, reference=table.get(SENTINEL))


def _measure_network(
    model: nn.Module,
    graph: PruningGraph,
    example: Tensor | tuple[Tensor, ...],
    table: LatencyTable,
    tell: _Counter,
) -> None:
    try:
        table.network(graph)
    except NotMeasured:
        tell.expect(1)
        pace = _pace(table)
        samples = time_interleaved(
            [prepare(model, example, table.target)],
            clock=clock_for(table.target.threads),
            limit_s=2.0,
            enough=steady_median,
        )
        table.add_network(graph, summarise(samples[0]).scaled((pace + _pace(table)) / 2))
        tell.one("the whole network")


def _pace(table: LatencyTable) -> float:
    """How quick the machine is just now, by what it was when the table was begun."""
    runtime = get_runtime(table.target.runtime)
    ((_, now),) = runtime.time_layers([SENTINEL], table.target)
    if SENTINEL not in table:
        table.add(SENTINEL, now)
    return table[SENTINEL].median_ms / now.median_ms


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


class _Counter:
    """Counts measurements, and tells whoever asked."""

    def __init__(self, progress: Tell | None) -> None:
        self._progress = progress
        self._done = 0
        self._total = 0

    def expect(self, more: int) -> None:
        """Raise the total."""
        self._total += more

    def one(self, what: str) -> None:
        """Count one, and tell."""
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total, what)
