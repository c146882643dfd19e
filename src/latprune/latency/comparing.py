"""How far two timings of the same layers lie apart: between tables, or a table and its machine.

A ratio that all layers share is another pace of the machine; what remains beside it is where they
disagree.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from latprune.errors import NotMeasured, StaleTable
from latprune.latency import runtimes
from latprune.latency.describing import shape_words
from latprune.latency.merging import different_fields
from latprune.latency.sentinel import SENTINEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from latprune.graph.layers import LayerShape
    from latprune.latency.table import LatencyTable
    from latprune.latency.target import Target
    from latprune.latency.timing import Measurement

    Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Pair:
    """One layer, or one whole network, timed twice.

    Attributes:
        what: The layer, or the key of a network.
        first: One timing.
        second: The other.
    """

    what: LayerShape | str
    first: Measurement
    second: Measurement

    @property
    def ratio(self) -> float:
        """The second time over the first."""
        return self.second.median_ms / self.first.median_ms

    def to_json(self) -> dict[str, Any]:
        """Give both timings and their ratio as JSON values."""
        what = {"network": self.what} if isinstance(self.what, str) else _of_layer(self.what)
        timings = {"first": self.first.to_json(), "second": self.second.to_json()}
        return {**what, **timings, "ratio": self.ratio}


def _of_layer(shape: LayerShape) -> dict[str, Any]:
    return {"layer": shape_words(shape), "shape": shape.to_json()}


@dataclass(frozen=True)
class Ratios:
    """How the second times of several layers compare with their first.

    Attributes:
        count: Of layers.
        median: Half of the ratios second ÷ first are at most this.
        low: A quarter is.
        high: Three quarters are.
        total: All second times together over all first ones: long layers count most.
    """

    count: int
    median: float
    low: float
    high: float
    total: float

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Ratios:
        """Summarise pairs.

        Raises:
            ValueError: If there are none.
        """
        if not pairs:
            raise ValueError("no pairs to compare")
        low, median, high = np.percentile([pair.ratio for pair in pairs], (25, 50, 75))
        sums_ms = (sum(getattr(pair, side).median_ms for pair in pairs) for side in _SIDES)
        first_ms, second_ms = sums_ms
        return cls(len(pairs), float(median), float(low), float(high), second_ms / first_ms)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, relative to the median."""
        return (self.high - self.low) / 2 / self.median

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values."""
        return {**vars(self), "spread": self.spread}


_SIDES = ("first", "second")


@dataclass(frozen=True, eq=False)
class Difference:
    """What two tables say of the same layers and networks.

    Attributes:
        targets: Of both tables.
        layers: Those in both.
        networks: Whole dense networks in both.
        only_first: Layers that the first table alone holds.
        only_second: Layers that the second one alone holds.
    """

    targets: tuple[Target, Target]
    layers: tuple[Pair, ...]
    networks: tuple[Pair, ...]
    only_first: int
    only_second: int

    @cached_property
    def by_kind(self) -> dict[str, Ratios]:
        """Per kind of layer its ratios; the kind with the most layers first."""
        kinds: dict[str, list[Pair]] = defaultdict(list)
        for pair in self.layers:
            assert not isinstance(pair.what, str)
            kinds[pair.what.kind].append(pair)
        ordered = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
        return {kind: Ratios.of(pairs) for kind, pairs in ordered}

    def to_json(self) -> dict[str, Any]:
        """Give everything as JSON values, layers from the most different on."""
        return {
            "targets": [target.to_json() for target in self.targets],
            "different": different_fields(*self.targets),
            "only_first": self.only_first,
            "only_second": self.only_second,
            "ratios": Ratios.of(self.layers).to_json() if self.layers else None,
            "kinds": {kind: ratios.to_json() for kind, ratios in self.by_kind.items()},
            "networks": [pair.to_json() for pair in self.networks],
            "layers": [pair.to_json() for pair in most_different(self.layers)],
        }


def diff(first: LatencyTable, second: LatencyTable) -> Difference:
    """Compare two tables, of one target or of two."""
    layers = _pairs(first, second)
    return Difference(
        targets=(first.target, second.target),
        layers=layers,
        networks=_pairs(first.networks, second.networks),
        only_first=len(first) - len(layers),
        only_second=len(second) - len(layers),
    )


def _pairs(first: Mapping[Any, Measurement], second: Mapping[Any, Measurement]) -> tuple[Pair, ...]:
    return tuple(Pair(key, first[key], second[key]) for key in first if key in second)


def most_different(pairs: Iterable[Pair]) -> list[Pair]:
    """Sort pairs: first those whose ratio is farthest, by a factor, from the median ratio."""
    pairs = list(pairs)
    logs = np.log([pair.ratio for pair in pairs])
    far = np.abs(logs - np.median(logs)) if pairs else logs
    return [pairs[index] for index in np.argsort(-far, kind="stable")]


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
    def verdict(self) -> str:
        """What it comes to, in a sentence or two."""
        most = f"{self.tolerance:.1%}"
        now = f"half of the layers now take at most {self.ratios.median:.1%} of the table's time"
        if self.met and self.alike:
            return f"Met: {now}, which is within {most}."
        if self.met:
            return (
                f"Met: {now}, which is within {most}. But single layers differ by more: the "
                "machine is busy now, or was when the table was measured."
            )
        if self.alike:
            return (
                f"Not met: {now}, and all about alike: it is the machine's pace that changed. "
                "Budgets in percent still hold, those in milliseconds do not."
            )
        return (
            f"Not met: {now}, and they differ in how much. If it stays so on a quiet machine, "
            "delete the table and measure again."
        )

    def to_json(self) -> dict[str, Any]:
        """Give everything as JSON values, layers from the most different on."""
        return {
            "target": self.target.to_json(),
            "tolerance": self.tolerance,
            "met": self.met,
            "alike": self.alike,
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
    if not table.keys() - {SENTINEL}:
        raise NotMeasured(
            "the table holds no layers that could be timed again; measure() adds them"
        )
    _check_here(table.target)
    shapes = [shape for shape in table if shape != SENTINEL]
    drawn = np.random.default_rng(seed).permutation(len(shapes))[:sample]
    chosen = [shapes[index] for index in drawn]
    beside = [SENTINEL] if SENTINEL in table else []
    pairs: list[Pair] = []
    sentinel = None
    for shape, found in runtimes.get_runtime(table.target.runtime).time_layers(
        [*beside, *chosen], table.target
    ):
        if shape == SENTINEL:
            again = sentinel.second.pooled(found) if sentinel else found
            sentinel = Pair(shape, table[shape], again)
            continue
        pairs.append(Pair(shape, table[shape], found))
        if progress is not None:
            progress(len(pairs), len(chosen), shape_words(shape))
    return Recheck(table.target, tuple(pairs), sentinel, tolerance)


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
            f"{asked}; this is {here.describe()}: {', '.join(differ)} differ. Check it where it "
            "was measured, or measure here and compare: latprune table diff",
            fields=differ,
        )
