"""How far two timings of the same layers lie apart.

A ratio that all layers share is another pace of the machine; what remains beside it is where they
disagree.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from latprune.latency.describing import shape_words
from latprune.latency.merging import different_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from latprune.graph.layers import LayerShape
    from latprune.latency.table import LatencyTable
    from latprune.latency.target import Target
    from latprune.latency.timing import Measurement


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
    """Compare two tables, of one target or of two.

    Where one of them tells layers apart by their neighbours, each of those is compared with the
    one that the other knows.
    """
    finer = second if second.target.minds_neighbours else first
    shapes = [shape for shape in finer if shape in first and shape in second]
    networks = [key for key in first.networks if key in second.networks]
    return Difference(
        targets=(first.target, second.target),
        layers=tuple(Pair(shape, first[shape], second[shape]) for shape in shapes),
        networks=tuple(Pair(key, first.networks[key], second.networks[key]) for key in networks),
        only_first=_without(first, shapes),
        only_second=_without(second, shapes),
    )


def _without(table: LatencyTable, shapes: Iterable[LayerShape]) -> int:
    """Count a table's layers but for these."""
    return len(set(table) - {table.key(shape) for shape in shapes})


def most_different(pairs: Iterable[Pair]) -> list[Pair]:
    """Sort pairs: first those whose ratio is farthest, by a factor, from the median ratio."""
    pairs = list(pairs)
    logs = np.log([pair.ratio for pair in pairs])
    far = np.abs(logs - np.median(logs)) if pairs else logs
    return [pairs[index] for index in np.argsort(-far, kind="stable")]
