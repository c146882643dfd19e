"""Whether a table still holds: some of its layers timed again, on the machine that it is of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from latprune.errors import NotMeasured, StaleTable
from latprune.latency import runtimes
from latprune.latency.comparing import Pair, Ratios, most_different
from latprune.latency.describing import shape_words
from latprune.latency.merging import different_fields
from latprune.latency.sentinel import SENTINEL
from latprune.latency.timing import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from latprune.graph.layers import LayerShape
    from latprune.latency.table import LatencyTable
    from latprune.latency.target import Target

    Tell = Callable[[int, int, str], None]


@dataclass(frozen=True, eq=False)
class Recheck:
    """A sample of a table's layers, timed again.

    Attributes:
        target: What the table is of, and the sample was timed on.
        layers: First as the table says, second as timed now.
        sentinel: The layer that tells the machine's pace, likewise; None: the table has none.
        tolerance: How far the median ratio may be from 1.
    """

    target: Target
    layers: tuple[Pair, ...]
    sentinel: Pair | None
    tolerance: float

    @cached_property
    def ratios(self) -> Ratios:
        """Time now over time in the table."""
        return Ratios.of(self.layers)

    @property
    def met(self) -> bool:
        """Whether the median ratio is within the tolerance."""
        return abs(self.ratios.median - 1) <= self.tolerance

    @property
    def alike(self) -> bool:
        """Whether most layers share one ratio: half of them lie within the tolerance of it."""
        return self.ratios.spread <= self.tolerance

    @property
    def uniform(self) -> bool:
        """Whether the median ratio is that of the whole machine.

        The sentinel tells; without one, whether the layers are alike.
        """
        if self.sentinel is None:
            return self.alike
        return abs(self.ratios.median / self.sentinel.ratio - 1) <= self.tolerance

    @property
    def verdict(self) -> str:
        """What it comes to, in a few sentences."""
        most = f"{self.tolerance:.1%}"
        now = f"half of the layers now take at most {self.ratios.median:.1%} of the table's time"
        apart = "" if self.alike else f" Beside that, single layers differ by more than {most}."
        if self.met:
            return f"Met: {now}, which is within {most}.{apart}"
        if self.uniform:
            return (
                f"Not met: {now}. It is the machine's pace that changed: budgets in percent still "
                f"hold, those in milliseconds do not.{apart}"
            )
        return (
            f"Not met: {now}, and it is not the machine's pace alone. If it stays so on a quiet "
            f"machine, delete the table and measure again.{apart}"
        )

    def to_json(self) -> dict[str, Any]:
        """Give everything as JSON values, layers from the most different on."""
        return {
            "target": self.target.to_json(),
            "tolerance": self.tolerance,
            "met": self.met,
            "alike": self.alike,
            "uniform": self.uniform,
            "verdict": self.verdict,
            "ratios": self.ratios.to_json(),
            "sentinel": self.sentinel.to_json() if self.sentinel else None,
            "layers": [pair.to_json() for pair in most_different(self.layers)],
        }


def recheck(
    table: LatencyTable,
    *,
    sample: int = 48,
    seed: int = 0,
    tolerance: float = 0.1,
    progress: Tell | None = None,
) -> Recheck:
    """Time some of a table's layers again, on the machine that it is of.

    Args:
        table: Stays as it is.
        sample: How many layers, drawn at random; all, if the table holds no more.
        seed: Of the draw.
        tolerance: How far the median ratio may be from 1.
        progress: Told (done, total, what) after every layer.

    Returns:
        Both times of every layer.

    Raises:
        NotMeasured: If the table holds no layers.
        StaleTable: If this is not the table's target; it names both.
        MissingExtra: If the runtime is not installed.
    """
    chosen = _drawn(table, sample=sample, seed=seed)
    _check_here(table.target)
    pairs: list[Pair] = []
    sentinels: list[Measurement] = []
    for shape, found in _timed(chosen, table):
        if shape == SENTINEL:
            sentinels.append(found)
            continue
        pairs.append(Pair(shape, table[shape], found))
        if progress is not None:
            progress(len(pairs), len(chosen), shape_words(shape))
    now = reduce(Measurement.pooled, sentinels) if sentinels else None
    pace = Pair(SENTINEL, table[SENTINEL], now) if now else None
    return Recheck(table.target, tuple(pairs), pace, tolerance)


def _timed(
    shapes: Sequence[LayerShape], table: LatencyTable
) -> Iterator[tuple[LayerShape, Measurement]]:
    """Time layers as far apart as they were timed before."""
    runtime = runtimes.get_runtime(table.target.runtime)
    beside = [SENTINEL] if SENTINEL in table else []
    by_apart: dict[int, list[LayerShape]] = {}
    for shape in shapes:
        by_apart.setdefault(table[shape].apart, []).append(shape)
    for apart, alike in by_apart.items():
        yield from runtime.time_layers([*beside, *alike], table.target, apart=apart)


def _drawn(table: LatencyTable, *, sample: int, seed: int) -> list[LayerShape]:
    shapes = [shape for shape in table if shape != SENTINEL]
    if not shapes:
        raise NotMeasured(
            "the table holds no layers that could be timed again; measure() adds them"
        )
    drawn = np.random.default_rng(seed).permutation(len(shapes))[:sample]
    return [shapes[index] for index in drawn]


def _check_here(target: Target) -> None:
    asked = f"the table was measured on {target.describe()}"
    try:
        here = type(target).here(
            target.runtime,
            precision=target.precision,
            batch=target.batch,
            threads=target.threads,
        )
    except ValueError as error:
        raise StaleTable(f"{asked}, which this machine cannot run: {error}") from error
    differ = different_fields(target, here)
    if differ:
        raise StaleTable(
            f"{asked}; this is {here.describe()}; they differ in {' and '.join(differ)}. Check it "
            "where it was measured, or measure here and compare: latprune table diff",
            fields=differ,
        )
