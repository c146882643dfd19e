"""A target, and what is known there of networks timed whole."""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING

from latprune.fitting.care import AIM, FLOOR, QUICK_MS, relative_error
from latprune.latency.rest import Relative, Whole, rest_within, whole_at
from latprune.planning import Demand

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from latprune.graph.groups import PruningGraph
    from latprune.latency.devices import Ready
    from latprune.latency.table import Cut
    from latprune.latency.timing import Comparison

OWN = 0.01
"""How far a network's rest may lie from that of others about as large, relative to its time."""


LEAST_FREEDOM = 3
"""Timings of networks beyond each one's first: fewer do not tell how far they lie apart."""


class Place:
    """A target: its budget, what is known of networks there, and the dense one, ready to run.

    What is known are ratios to the dense network's time, and the table's layers beside its. A
    budget in milliseconds is one of today's: the dense network takes there what it took in the
    timings that were added, if there are any.
    """

    def __init__(self, graph: PruningGraph, demand: Demand, dense: Ready) -> None:
        self.graph, self.dense = graph, dense
        self.table, self.budget = demand.table, demand.budget
        self._today_ms: list[float] = []

    @property
    def is_quick(self) -> bool:
        """Whether timing networks costs little here."""
        return self.table.network(self.graph).median_ms < QUICK_MS

    @property
    def demand(self) -> Demand:
        """What a plan needs to know: a network that spends the aim has such a rest."""
        known = [self._dense, *(whole for _, whole in self._timed())]
        return self._with_rest(rest_within(known, AIM * self._budget_ms))

    def demand_by(self, widths: Mapping[str, int]) -> Demand:
        """The same by what is known of one network: it has such a rest."""
        share, _ = self.believed(widths)
        rest_ms = share * self._budget_ms - self.table.layers_ms(self.graph, widths)
        return self._with_rest(rest_ms)

    def demand_between(self, tried: Sequence[Mapping[str, int]]) -> Demand:
        """The same by what is known of some networks: one between the two nearest to the aim.

        Where not one is believed to take more and one less, by what is known of the last.
        """
        aim_ms = AIM * self._budget_ms
        known = [(self.table.layers_ms(self.graph, one), self.believed_ms(one)) for one in tried]
        quick = max((one for one in known if one[1] <= aim_ms), default=(math.inf, 0.0))
        slow = min((one for one in known if one[1] > aim_ms), default=(-math.inf, 0.0))
        if slow[0] <= quick[0]:
            return self.demand_by(tried[-1])
        part = (aim_ms - quick[1]) / (slow[1] - quick[1])
        layers_ms = quick[0] + part * (slow[0] - quick[0])
        return self._with_rest(aim_ms - layers_ms)

    def believed(self, widths: Mapping[str, int]) -> tuple[float, float]:
        """The share of the budget that a network takes by all that is known, and its error."""
        layers_ms = self.table.layers_ms(self.graph, widths)
        known = [Relative(self._dense, self._differs(widths, self.graph.widths))]
        for one, whole in self._timed():
            known.append(Relative(whole, self._differs(widths, one.widths)))
        whole_ms, error_ms = whole_at(known, layers_ms, differs_ms=OWN * self._budget_ms)
        return whole_ms / self._budget_ms, error_ms / self._budget_ms

    def believed_ms(self, widths: Mapping[str, int]) -> float:
        """What a network takes by all that is known, in ms of the budget's pace."""
        return self.believed(widths)[0] * self._budget_ms

    def add(self, widths: Mapping[str, int], timed: Comparison) -> None:
        """Remember a timing, and in the table."""
        self.table.add_cut(self.graph, widths, timed)
        self._today_ms.append(timed.dense.median_ms)

    def timings(self, widths: Mapping[str, int]) -> int:
        """How many timings of a network are known, those of earlier runs too."""
        return sum(one.widths == widths for one in self.table.cuts(self.graph))

    def _differs(self, widths: Mapping[str, int], others: Mapping[str, int]) -> float:
        """The share of a network's layers, by their time, that another one does not have."""
        theirs = self.graph.shapes_at(others)
        times_ms = [
            (self.table[shape].median_ms, shape != theirs.get(name))
            for name, shape in self.graph.shapes_at(widths).items()
        ]
        all_ms = sum(ms for ms, _ in times_ms)  # 0 without layers
        return sum(ms for ms, differs in times_ms if differs) / all_ms if all_ms else 0.0

    def _with_rest(self, rest_ms: float) -> Demand:
        return Demand(self.table, self.budget, rest_ms, self._dense.whole_ms)

    @property
    def _dense(self) -> Whole:
        dense_ms = self.table.network(self.graph).median_ms
        if self.budget.fraction is None and self._today_ms:
            dense_ms = median(self._today_ms)
        layers_ms = self.table.layers_ms(self.graph, self.graph.widths)
        return Whole(layers_ms, dense_ms, FLOOR * dense_ms)

    @property
    def _budget_ms(self) -> float:
        return self.budget.in_ms(self._dense.whole_ms)

    def _timed(self) -> list[tuple[Cut, Whole]]:
        """All timings of pruned networks, in the dense one's pace."""
        cuts, dense_ms = self.table.cuts(self.graph), self._dense.whole_ms
        scatter = _scatter(cuts)
        return [(one, self._whole(one, scatter, dense_ms)) for one in cuts]

    def _whole(self, one: Cut, scatter: float, dense_ms: float) -> Whole:
        taken_ms = dense_ms * one.comparison.ratio
        error_ms = taken_ms * scatter * _error(one)
        return Whole(self.table.layers_ms(self.graph, one.widths), taken_ms, error_ms)


def _scatter(cuts: Sequence[Cut]) -> float:
    """How far timings of the same network lie apart, in what their errors let expect; at least 1.

    The square root of χ² per degree of freedom: Birge's ratio, as for the constants of physics.
    """
    same: dict[frozenset[tuple[str, int]], list[Cut]] = {}
    for cut in cuts:
        same.setdefault(frozenset(cut.widths.items()), []).append(cut)
    freedom = len(cuts) - len(same)
    if freedom < LEAST_FREEDOM:
        return 1.0
    return max(1.0, math.sqrt(sum(map(_chi_squared, same.values())) / freedom))


def _error(cut: Cut) -> float:
    """The standard error of a timing, relative."""
    return math.hypot(relative_error(cut.comparison), FLOOR)


def _chi_squared(same: Sequence[Cut]) -> float:
    """How far timings of one network lie from their mean, in squares of their errors."""
    ratios = [cut.comparison.ratio for cut in same]
    mean = sum(ratios) / len(ratios)
    return sum(
        ((ratio / mean - 1) / _error(cut)) ** 2 for ratio, cut in zip(ratios, same, strict=True)
    )
