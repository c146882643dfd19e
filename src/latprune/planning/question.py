"""A network framed as a knapsack problem, and a choice read back as a plan."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from latprune.framing import frame
from latprune.knapsack import Choice
from latprune.latency.interpolation import layer_cost
from latprune.latency.staircase import options
from latprune.planning.plans import Plan, Promise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from latprune.framing import Framing
    from latprune.graph.groups import PruningGraph
    from latprune.knapsack import Problem
    from latprune.latency.table import LatencyTable
    from latprune.planning.budget import Budget
    from latprune.saliency.scores import Saliency


@dataclass(frozen=True, eq=False)
class Demand:
    """A target that the same network must be quick on, too.

    Attributes:
        table: What widths cost there; holds the dense network, too.
        budget: What the network may take there.
        rest_ms: What the network takes there beside its layers; None: see `plan`.
        dense_ms: What the dense network takes there; None: see `plan`.
    """

    table: LatencyTable
    budget: Budget
    rest_ms: float | None = None
    dense_ms: float | None = None

    def whole_ms(self, graph: PruningGraph) -> float:
        """Give what the dense network takes.

        Raises:
            NotMeasured: If nobody says it, and the table does not hold it.
        """
        return self.table.network(graph).median_ms if self.dense_ms is None else self.dense_ms


@dataclass(frozen=True)
class NetworkTime:
    """What a network takes by what its layers take one by one: the more, the more.

    Attributes:
        layers_ms: The dense network's layers.
        dense_ms: The dense network.
        rest_ms: What every network takes beside its layers; None: what the dense one does, and it
            shrinks with the layers.
    """

    layers_ms: float
    dense_ms: float
    rest_ms: float | None

    def __call__(self, layers_ms: float) -> float:
        """Give what a network takes, in ms."""
        if self.rest_ms is not None:
            return layers_ms + self.rest_ms
        if layers_ms < self.layers_ms:
            return layers_ms * self.slope
        return layers_ms - self.layers_ms + self.dense_ms

    @property
    def slope(self) -> float:
        """What a network narrower than the dense one takes more if its layers take 1 ms more."""
        shrinks = self.rest_ms is None and self.layers_ms > 0
        return self.dense_ms / self.layers_ms if shrinks else 1.0

    def layers_within(self, budget_ms: float) -> float:
        """Give the most that layers may take for the network to be within a budget.

        To the last digit, so that what a network was predicted to take is a budget that it meets.
        """
        if math.isinf(budget_ms):
            return budget_ms
        least_ms, most_ms = 0.0, 1.0
        if self(least_ms) > budget_ms:
            return budget_ms - self(least_ms)
        while self(most_ms) <= budget_ms:
            most_ms *= 2
        while least_ms < (middle_ms := (least_ms + most_ms) / 2) < most_ms:
            if self(middle_ms) <= budget_ms:
                least_ms = middle_ms
            else:
                most_ms = middle_ms
        return least_ms


@dataclass(frozen=True, eq=False)
class Question:
    """A network framed as a knapsack problem, without the budgets.

    Attributes:
        framing: Its variables and tables.
        ranked: Per group the channels to choose among, from the most to the least worth.
        values: Per group what the first 0, 1, 2, … of them are worth together.
        dense: The choice that keeps them all.
        dense_promises: What the dense network takes on every target.
        wholes: Give what a network takes on every target by what its layers take.
        criterion: Of the values.
    """

    framing: Framing
    ranked: Mapping[str, np.ndarray]
    values: Mapping[str, np.ndarray]
    dense: Choice
    dense_promises: tuple[Promise, ...]
    wholes: tuple[NetworkTime, ...]
    criterion: str

    @classmethod
    def of(
        cls,
        graph: PruningGraph,
        saliency: Saliency,
        demands: Sequence[Demand],
        *,
        within: Mapping[str, Sequence[int]] | None = None,
    ) -> Question:
        """Frame what can be cut: all channels, or those `within`."""
        saliency.check(graph)
        dense_ms = [demand.whole_ms(graph) for demand in demands]
        everything = {group.name: range(group.channels) for group in graph.groups}
        present: Mapping[str, Sequence[int]] = within or everything
        framing = _framed(graph, demands, present, branches=within is None)
        ranked, values = (
            {name: of(name, among=present[name]) for name in everything}
            for of in (saliency.ranked, saliency.worth)
        )
        dense = _dense(framing, values, targets=len(demands))
        layers_ms = dense.costs_ms
        if within is not None:
            layers_ms = tuple(demand.table.layers_ms(graph, graph.widths) for demand in demands)
        promises = tuple(map(_promise, demands, layers_ms, dense_ms))
        wholes = tuple(
            map(NetworkTime, layers_ms, dense_ms, (demand.rest_ms for demand in demands))
        )
        return cls(framing, ranked, values, dense, promises, wholes, saliency.criterion)

    def problem(self, budgets_ms: Sequence[float]) -> Problem:
        """Give the knapsack problem at budgets for whole networks."""
        first, *further = (
            one.layers_within(ms) for one, ms in zip(self.wholes, budgets_ms, strict=True)
        )
        return self.framing.problem(self.values, budget_ms=first, further_ms=further)

    def plan(self, choice: Choice, *, solver: str) -> Plan:
        """Read a choice back."""
        widths = self.framing.widths(choice.picks)
        first, *also = (
            replace(promise, rest_ms=whole(cost_ms) - cost_ms, predicted_ms=whole(cost_ms))
            for promise, whole, cost_ms in zip(
                self.dense_promises, self.wholes, choice.costs_ms, strict=True
            )
        )
        return Plan(
            **vars(first),
            kept={group: _first(order, widths[group]) for group, order in self.ranked.items()},
            value=choice.value,
            bound=choice.bound,
            dense_value=self.dense.value,
            solver=solver,
            criterion=self.criterion,
            price_ms=choice.prices[0] / self.wholes[0].slope if choice.prices else math.nan,
            also=tuple(also),
        )


def _framed(
    graph: PruningGraph,
    demands: Sequence[Demand],
    present: Mapping[str, Sequence[int]],
    *,
    branches: bool,
) -> Framing:
    """Give the variables and tables: widths up to the present ones, 0 where a branch can go."""
    tables = [demand.table for demand in demands]
    allowed = _options(graph, tables, most={name: len(kept) for name, kept in present.items()})
    if branches:
        allowed = _with_none(graph, allowed)
    cost, *further = (partial(layer_cost, table) for table in tables)
    return frame(graph, allowed, cost, further=further)


def _dense(framing: Framing, values: Mapping[str, np.ndarray], *, targets: int) -> Choice:
    """Choose to keep everything."""
    unbounded = framing.problem(values, budget_ms=math.inf, further_ms=[math.inf] * (targets - 1))
    return Choice.of(unbounded, framing.dense, bound=unbounded.value_of(framing.dense))


def _promise(demand: Demand, layers_ms: float, dense_ms: float) -> Promise:
    """What the dense network takes."""
    return Promise(
        target=demand.table.target,
        budget=demand.budget,
        budget_ms=demand.budget.in_ms(dense_ms),
        baseline_ms=dense_ms,
        rest_ms=dense_ms - layers_ms,
        predicted_ms=dense_ms,
    )


def _options(
    graph: PruningGraph, tables: Sequence[LatencyTable], *, most: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Give the widths that are worth having on any of the targets, up to the present ones.

    None is narrower than every target knows the price of.
    """
    found = [options(graph, table) for table in tables]
    least = {name: max(int(widths[name].min()) for widths in found) for name in most}
    allowed = {
        name: np.unique(
            [width, *(w for widths in found for w in widths[name] if least[name] <= w < width)]
        )
        for name, width in most.items()
    }
    for tie in graph.ties:
        possible = (tie.widths <= [most[group] for group in tie.groups]).all(axis=1)
        allowed.update(zip(tie.groups, tie.widths[possible].T, strict=True))
    return allowed


def _with_none(graph: PruningGraph, allowed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Let the groups of branches that can go have no channels, too."""
    inside = {group for branch in graph.branches for group in branch.groups}
    none = np.zeros(1, dtype=np.int64)
    return {
        name: np.concatenate([none, widths]) if name in inside else widths
        for name, widths in allowed.items()
    }


def _first(ranked: np.ndarray, width: int) -> tuple[int, ...]:
    """Give the first `width` channels, ascending."""
    return tuple(sorted(int(channel) for channel in ranked[:width]))
