"""A plan says which channels stay, and what the network is predicted to take without the others.

`plan` frames the network as a knapsack problem, has it solved, and reads the choice back.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from latprune.errors import BudgetsTooSmall, BudgetTooSmall
from latprune.framing import frame
from latprune.knapsack import Choice, joint, relative_gap
from latprune.knapsack import frontier as corners
from latprune.latency.interpolation import layer_cost
from latprune.latency.rest import Whole, rest_at, rest_within
from latprune.latency.staircase import options
from latprune.latency.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from latprune.framing import Framing
    from latprune.graph.groups import PruningGraph
    from latprune.knapsack import Problem, Solver
    from latprune.latency.table import LatencyTable
    from latprune.saliency.scores import Saliency


@dataclass(frozen=True)
class Budget:
    """What a network may take: milliseconds, or a share of what the dense one takes.

    Attributes:
        ms: Milliseconds, > 0.
        fraction: Of the dense network's measured latency, > 0.
    """

    ms: float | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        given = [number for number in (self.ms, self.fraction) if number is not None]
        if len(given) != 1:
            raise ValueError("a budget has either ms= or fraction=")
        if not (math.isfinite(given[0]) and given[0] > 0):
            raise ValueError(f"a budget is a finite number above 0, not {given[0]}")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `60%`, `12ms` or `12.5 ms`.

        Raises:
            ValueError: If it is none of these.
        """
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%|ms)\s*", text)
        if found is None:
            raise ValueError(f"a budget reads like 60% or 12.5ms, not {text!r}")
        number, unit = float(found[1]), found[2]
        return cls(fraction=number / 100) if unit == "%" else cls(ms=number)

    def in_ms(self, baseline_ms: float) -> float:
        """Give milliseconds, the dense network taking `baseline_ms`."""
        if self.fraction is not None:
            return self.fraction * baseline_ms
        assert self.ms is not None
        return self.ms

    def used(self, *, ratio: float, ms: float) -> float:
        """Give the share of the budget that a network takes; above 1 it is not met.

        Args:
            ratio: Its time over the dense network's, timed in turns. It is what counts against a
                share: drift cancels in it.
            ms: Its time, which counts against milliseconds.
        """
        if self.fraction is not None:
            return ratio / self.fraction
        assert self.ms is not None
        return ms / self.ms

    def __str__(self) -> str:
        return f"{self.ms:g} ms" if self.fraction is None else f"{100 * self.fraction:g}%"

    def to_json(self) -> dict[str, Any]:
        """Give the one field that is set."""
        return {"ms": self.ms} if self.fraction is None else {"fraction": self.fraction}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Budget:
        """Read what `to_json` gave."""
        return cls(**fields)


def as_budget(budget: Budget | str | float) -> Budget:
    """Give a budget for `0.6`, `"60%"`, `"12ms"` or a budget.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(budget, Budget):
        return budget
    return Budget.parse(budget) if isinstance(budget, str) else Budget(fraction=budget)


@dataclass(frozen=True, eq=False)
class Demand:
    """A target that the same network must be quick on, too.

    Attributes:
        table: What widths cost there; holds the dense network, too.
        budget: What the network may take there.
        rest_ms: What the network takes there beside its layers; None: see `plan`.
    """

    table: LatencyTable
    budget: Budget
    rest_ms: float | None = None


@dataclass(frozen=True)
class Promise:
    """What a plan was predicted to take on one more target.

    Attributes:
        target: Where the latencies were measured.
        budget: What was asked for.
        budget_ms: The same, in ms.
        baseline_ms: The dense network, measured.
        rest_ms: What no layer's table covers.
        predicted_ms: The pruned network.
    """

    target: Target
    budget: Budget
    budget_ms: float
    baseline_ms: float
    rest_ms: float
    predicted_ms: float

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values."""
        return {
            **vars(self),
            "target": self.target.to_json(),
            "budget": self.budget.to_json(),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Promise:
        """Read what `to_json` gave."""
        read = {
            "target": Target.from_json(fields["target"]),
            "budget": Budget.from_json(fields["budget"]),
        }
        return cls(**{**fields, **read})


@dataclass(frozen=True)
class Plan:
    """Which channels stay, and what that was predicted to give.

    Attributes:
        kept: Per group, every one of the graph's, the channels that stay, ascending.
        target: Where the latencies were measured.
        budget: What was asked for.
        budget_ms: The same, in ms.
        baseline_ms: The dense network, measured.
        rest_ms: What no layer's table covers; part of `predicted_ms`. Below 0 where the layers
            one by one take longer than the whole network.
        predicted_ms: The pruned network.
        value: Saliency kept.
        bound: No network within the budget keeps more.
        dense_value: Saliency of all channels that there were to choose among.
        solver: What chose the widths.
        criterion: What scored the channels.
        price_ms: Saliency that one more ms would buy, at the margin: a tenth of it is what the
            next 0.1 ms buy. NaN where the solver does not know it.
        also: The other targets, where the network was planned for several.
    """

    kept: Mapping[str, tuple[int, ...]]
    target: Target
    budget: Budget
    budget_ms: float
    baseline_ms: float
    rest_ms: float
    predicted_ms: float
    value: float
    bound: float
    dense_value: float
    solver: str
    criterion: str
    price_ms: float = math.nan
    also: tuple[Promise, ...] = ()

    @property
    def widths(self) -> dict[str, int]:
        """How many channels of each group stay."""
        return {group: len(channels) for group, channels in self.kept.items()}

    @property
    def gap(self) -> float:
        """The share of the bound that the plan is not proven to reach: (bound − value) / bound."""
        return relative_gap(self.value, self.bound)

    def on(self, promise: Promise) -> Plan:
        """Give the same plan as seen from one of its further targets."""
        return replace(self, **vars(promise), price_ms=math.nan, also=())

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values."""
        return {
            **vars(self),
            "kept": {group: list(channels) for group, channels in self.kept.items()},
            "target": self.target.to_json(),
            "budget": self.budget.to_json(),
            "price_ms": None if math.isnan(self.price_ms) else self.price_ms,
            "also": [promise.to_json() for promise in self.also],
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Plan:
        """Read what `to_json` gave, after a trip through JSON text."""
        price_ms = fields.get("price_ms")
        read = {
            "kept": {group: tuple(channels) for group, channels in fields["kept"].items()},
            "target": Target.from_json(fields["target"]),
            "budget": Budget.from_json(fields["budget"]),
            "price_ms": math.nan if price_ms is None else price_ms,
            "also": tuple(Promise.from_json(stored) for stored in fields.get("also", ())),
        }
        return cls(**{**fields, **read})


def plan(
    graph: PruningGraph,
    table: LatencyTable,
    saliency: Saliency,
    budget: Budget,
    *,
    solver: Solver = joint,
    rest_ms: float | None = None,
    aim: float = 1.0,
    also: Sequence[Demand] = (),
    within: Mapping[str, Sequence[int]] | None = None,
) -> Plan:
    """Choose the channels that are worth most together, within a budget.

    Args:
        graph: What can be cut.
        table: What widths cost; holds the dense network, too.
        saliency: What channels are worth.
        budget: What the network may take.
        solver: Chooses one width per group.
        rest_ms: What the network takes beside its layers; by default it follows from what the
            dense network takes beside its own (`rest_at`).
        aim: The share of the budgets to spend, > 0.
        also: Further targets, each with its own budget: the network is within all of them.
        within: Per group the channels to choose among, where others are gone already, ascending;
            None: all. Branches are removed as a whole only where it is None.

    Returns:
        A plan whose predicted latency is at most `aim` times the budget. It keeps everything if
        the dense network was measured to be that fast.

    Raises:
        BudgetTooSmall: If nothing fits; its numbers are the whole network's.
        NotMeasured: If a table lacks the network or what its layers' widths cost.
        ModelMismatch: If `saliency` is another network's.
        ValueError: If the solver takes only one budget and there are several.
    """
    if not aim > 0:
        raise ValueError(f"the share of the budget to spend is above 0, not {aim}")
    demands = [Demand(table, budget, rest_ms), *also]
    question = _Question.of(graph, saliency, demands, aim=aim, within=within)
    if all(aim * p.budget_ms >= p.baseline_ms for p in question.dense_promises):
        choice = question.dense
    else:
        choice = _solve(question, solver, aim=aim)
    return question.plan(choice, solver=solver_name(solver))


def solver_name(solver: Solver) -> str:
    """Give a solver's name, also where some of its arguments are filled in."""
    function = getattr(solver, "func", solver)
    return str(getattr(function, "__name__", type(function).__name__))


def frontier(
    graph: PruningGraph,
    table: LatencyTable,
    saliency: Saliency,
    *,
    rest_ms: float | None = None,
    tolerance: float = 1e-4,
) -> list[Plan]:
    """Draw the frontier: the most saliency at every latency, each point a plan to cut.

    Args:
        graph: What can be cut.
        table: What widths cost; holds the dense network, too.
        saliency: What channels are worth.
        rest_ms: What networks take beside their layers; by default it follows from what the
            dense network takes beside its own (`rest_at`).
        tolerance: Points that would raise the curve by less than this share of all saliency are
            left out; 0 gives every corner of the concave frontier.

    Returns:
        Plans of rising latency and saliency, from the fastest network to the dense one; the
        budget of each is what it is predicted to take.

    Raises:
        NotMeasured: If the table lacks the network or what its layers' widths cost.
        ProblemTooDense: If exact tables would take too much memory.
        ModelMismatch: If `saliency` is another network's.
    """
    anything = Budget(ms=table.network(graph).median_ms)
    question = _Question.of(graph, saliency, [Demand(table, anything, rest_ms)])
    plans = (
        question.plan(corner, solver="frontier")
        for corner in corners(question.problem([math.inf]), tolerance=tolerance)
    )
    return [
        replace(found, budget=Budget(ms=found.predicted_ms), budget_ms=found.predicted_ms)
        for found in plans
    ]


@dataclass(frozen=True, eq=False)
class _Question:
    """A network framed as a knapsack problem, without the budgets.

    Attributes:
        framing: Its variables and tables.
        ranked: Per group the channels to choose among, from the most to the least worth.
        values: Per group what the first 0, 1, 2, … of them are worth together.
        dense: The choice that keeps them all.
        dense_promises: What the dense network takes on every target, with the rest of a network
            within budget.
        rests: Give a network's rest on every target, in ms, by what its layers take.
        criterion: Of the values.
    """

    framing: Framing
    ranked: Mapping[str, np.ndarray]
    values: Mapping[str, np.ndarray]
    dense: Choice
    dense_promises: tuple[Promise, ...]
    rests: tuple[Callable[[float], float], ...]
    criterion: str

    @classmethod
    def of(
        cls,
        graph: PruningGraph,
        saliency: Saliency,
        demands: Sequence[Demand],
        *,
        aim: float = 1.0,
        within: Mapping[str, Sequence[int]] | None = None,
    ) -> _Question:
        saliency.check(graph)
        present = within or {group.name: range(group.channels) for group in graph.groups}
        baselines_ms = [demand.table.network(graph).median_ms for demand in demands]
        cost, *further = (functools.partial(layer_cost, demand.table) for demand in demands)
        tables = [demand.table for demand in demands]
        allowed = _options(graph, tables, most={g: len(kept) for g, kept in present.items()})
        if within is None:
            allowed = _with_none(graph, allowed)
        framing = frame(graph, allowed, cost, further=further)
        ranked = {
            group.name: saliency.ranked(group.name, among=present[group.name])
            for group in graph.groups
        }
        values = {
            group.name: saliency.values(group.name, among=present[group.name])
            for group in graph.groups
        }
        anything = [math.inf] * len(demands)
        everything = framing.problem(values, budget_ms=math.inf, further_ms=anything[1:])
        dense = Choice.of(everything, framing.dense, bound=everything.value_of(framing.dense))
        costs_ms = dense.costs_ms
        if within is not None:
            costs_ms = tuple(table.layers_ms(graph, graph.widths) for table in tables)
        wholes = [
            Whole(cost_ms, baseline_ms, baseline_ms)
            for cost_ms, baseline_ms in zip(costs_ms, baselines_ms, strict=True)
        ]
        promises = tuple(
            _promise(demand, whole, aim=aim) for demand, whole in zip(demands, wholes, strict=True)
        )
        rests = tuple(map(_rest, demands, wholes))
        return cls(framing, ranked, values, dense, promises, rests, saliency.criterion)

    def problem(self, budgets_ms: Sequence[float]) -> Problem:
        """Give the knapsack problem at budgets for the layers alone."""
        first, *further = budgets_ms
        return self.framing.problem(self.values, budget_ms=first, further_ms=further)

    def plan(self, choice: Choice, *, solver: str) -> Plan:
        """Read a choice back."""
        widths = self.framing.widths(choice.picks)
        first, *also = (
            replace(promise, rest_ms=rest(cost_ms), predicted_ms=cost_ms + rest(cost_ms))
            for promise, rest, cost_ms in zip(
                self.dense_promises, self.rests, choice.costs_ms, strict=True
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
            price_ms=choice.prices[0] if choice.prices else math.nan,
            also=tuple(also),
        )


def _promise(demand: Demand, whole: Whole, *, aim: float) -> Promise:
    """What the dense network takes, and the rest of one that spends the budget."""
    budget_ms = demand.budget.in_ms(whole.whole_ms)
    rest_ms = demand.rest_ms
    return Promise(
        target=demand.table.target,
        budget=demand.budget,
        budget_ms=budget_ms,
        baseline_ms=whole.whole_ms,
        rest_ms=rest_within([whole], aim * budget_ms) if rest_ms is None else rest_ms,
        predicted_ms=whole.whole_ms,
    )


def _rest(demand: Demand, whole: Whole) -> Callable[[float], float]:
    """Give a network's rest by what its layers take."""
    rest_ms = demand.rest_ms
    if rest_ms is not None:
        return lambda _: rest_ms
    return lambda layers_ms: rest_at([whole], layers_ms)[0]


def _options(
    graph: PruningGraph, tables: Sequence[LatencyTable], *, most: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Give the widths that are worth having on any of the targets, up to the present ones."""
    found = [options(graph, table) for table in tables]
    allowed = {
        name: np.unique([width, *(w for widths in found for w in widths[name] if w < width)])
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


def _solve(question: _Question, solver: Solver, *, aim: float) -> Choice:
    """Choose, with totals from the tables and errors about the whole network."""
    rests_ms = [promise.rest_ms for promise in question.dense_promises]
    problem = question.problem(
        [aim * promise.budget_ms - promise.rest_ms for promise in question.dense_promises]
    )
    try:
        choice = solver(problem)
    except BudgetsTooSmall as error:
        asked = [ms + rest_ms for ms, rest_ms in zip(error.budgets_ms, rests_ms, strict=True)]
        nearest = zip(error.nearest_ms, question.rests, strict=True)
        raise BudgetsTooSmall(asked, [ms + rest(ms) for ms, rest in nearest]) from None
    except BudgetTooSmall as error:
        rest_ms, floor_ms = rests_ms[error.target], error.floor_ms
        floor_ms += question.rests[error.target](floor_ms)
        raise BudgetTooSmall(error.budget_ms + rest_ms, floor_ms, target=error.target) from None
    return Choice.of(problem, choice.picks, bound=choice.bound, prices=choice.prices)


def _first(ranked: np.ndarray, width: int) -> tuple[int, ...]:
    """Give the first `width` channels, ascending."""
    return tuple(sorted(int(channel) for channel in ranked[:width]))
