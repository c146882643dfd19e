"""The closed loop: plan, cut, time the real small network beside the dense one, plan again."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from latprune.errors import BudgetsTooSmall, BudgetTooSmall
from latprune.fitting.candidate import (
    Candidate,
    is_near,
    is_short,
    is_sure,
    preference,
    promise,
)
from latprune.fitting.care import AIM, FLOOR, QUICK, SLOW, TIMING_S, Care, decided, used
from latprune.fitting.place import Place
from latprune.fitting.refining import Refining
from latprune.knapsack import joint
from latprune.latency.devices import CutName
from latprune.latency.devices.here import HERE
from latprune.latency.measuring import compare, prepare
from latprune.planning import Budget, Demand
from latprune.progress import Quiet
from latprune.surgery import cut

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import nn

    from latprune.graph.groups import PruningGraph
    from latprune.knapsack import Solver
    from latprune.latency.devices import Device, Ready
    from latprune.latency.table import LatencyTable
    from latprune.latency.target import Target
    from latprune.latency.timing import Comparison
    from latprune.planning import Plan, Promise
    from latprune.progress import Progress
    from latprune.saliency.scores import Saliency

    Promised = TypeVar("Promised", Plan, Promise)

REPLANS = 4
"""Plans before a network is timed, each with what is known of those before: a network's rest may
not be that of others about as large."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A network cut to a budget, as measured.

    Attributes:
        model: The small network.
        plan: What it was cut to.
        comparison: It and the dense network, timed in turns.
        table: With every layer of the plan measured.
        rounds: How many times a network was timed.
        is_dense: Whether nothing was cut.
        also: The same comparison on every further target.
    """

    model: nn.Module
    plan: Plan
    comparison: Comparison
    table: LatencyTable
    rounds: int
    is_dense: bool = False
    also: tuple[Comparison, ...] = ()

    def __repr__(self) -> str:
        return (
            f"<Fitted: {type(self.model).__name__}, takes {self.used:.1%} of its budget of "
            f"{self.plan.budget}, {self.rounds} timings>"
        )

    @property
    def used(self) -> float:
        """The share of the budget that the network takes; above 1 it is not met.

        Of several budgets the one that is used most.
        """
        budgets = [self.plan.budget, *(promise.budget for promise in self.plan.also)]
        return max(map(used, budgets, (self.comparison, *self.also)))


def fit(
    model: nn.Module,
    graph: PruningGraph,
    example: torch.Tensor | tuple[torch.Tensor, ...],
    table: LatencyTable,
    saliency: Saliency,
    budget: Budget,
    *,
    solver: Solver = joint,
    also: Sequence[Demand] = (),
    within: Mapping[str, Sequence[int]] | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
    device: Device = HERE,
    ready: Mapping[Target, Ready] | None = None,
) -> Fitted:
    """Cut a network so that its measured time is within a budget, and close to it.

    Args:
        model: The dense network.
        graph: Traced from it.
        example: Its input.
        table: What `measure` gave; new measurements are added to its file.
        saliency: What its channels are worth.
        budget: What it may take.
        solver: Chooses the widths.
        also: Further targets of the device, each with its table and budget: the network is
            timed on all of them, and is within all budgets. Their `rest_ms` is not looked at.
        within: Per group the channels to choose among, as for `plan`; None for all.
        folder: Of the tables that are measured, as for `measure`; None for the one that `table`
            lies in.
        progress: Is told of every plan and every network.
        device: Where networks and layers are timed.
        ready: What `prepare` made of the dense network, by target, where somebody has it already:
            exporting or compiling it takes as long as a candidate.

    Returns:
        Of the networks within the budget the one that spends it best; if none is, the one
        nearest to it. Never one that is slower than the dense network on every target: then the
        dense one, unless channels of it are gone already.

    Raises:
        BudgetTooSmall: If nothing fits, by what was measured.
        DeviceError: If the device fails; what it measured before is kept.
        JobsPacked: If somebody has to carry what is missing to the device.
    """
    refining = Refining(model, graph, example, saliency, solver, within, folder, device)
    loop = _Loop(refining, progress or Quiet())
    demands = [Demand(table, budget), *also]
    best = loop.run(demands, ready or {})
    slower = all(one.ratio > 1 for one in (best.comparison, *best.also)) and not best.is_dense
    return loop.dense(best, demands) if slower and within is None else best


def _promising_nothing(promise: Promised, layers_ms: float) -> Promised:
    """Predict what the dense network was measured to take, its layers taking `layers_ms`."""
    dense_ms = promise.baseline_ms
    return replace(promise, predicted_ms=dense_ms, rest_ms=dense_ms - layers_ms)


def _care(places: Sequence[Place]) -> Care:
    return QUICK if all(place.is_quick for place in places) else SLOW


@dataclass(frozen=True, eq=False)
class _Loop:
    """What stays the same from round to round."""

    refining: Refining
    progress: Progress

    def run(self, demands: Sequence[Demand], ready: Mapping[Target, Ready]) -> Fitted:
        """Time candidates until one is surely near the aim, or there is nothing more to try."""
        places = [self._place(demand, ready.get(demand.table.target)) for demand in demands]
        care = _care(places)
        tried: list[Candidate] = []
        near = sure = False
        for timing in range(care.timings):
            if not near:
                self.progress.step(timing, None, "choosing widths")
                planned = self._plan(places, tried)
                settled = sure or (bool(tried) and self._is_settled(tried[-1], places, care))
                if planned is None or (settled and planned.kept == tried[-1].plan.kept):
                    break  # as near as it gets
                tried = self._with(planned, tried)
            candidate = tried[-1]
            self.progress.step(timing, None, "timing the network")
            candidate.add(self._times(candidate, places))
            share = 100 * max(candidate.used)
            self.progress.step(timing, None, f"takes {share:.1f} % of the budget")
            near, sure = is_near(candidate.plan, places), is_sure(candidate, places, care)
            fits = max(candidate.used) <= 1
            if (near and sure) or (fits and self._is_dense(candidate.plan)):
                break
        best = min(tried, key=partial(preference, places=places))
        comparison, *also = best.compared
        rounds = sum(candidate.timings for candidate in tried)
        is_dense = self._is_dense(best.plan)
        table = places[0].table
        return Fitted(best.model, best.plan, comparison, table, rounds, is_dense, tuple(also))

    def dense(self, slower: Fitted, demands: Sequence[Demand]) -> Fitted:
        """The dense network, as a cut of nothing."""
        graph = self.refining.graph
        first, *others = (demand.table.layers_ms(graph, graph.widths) for demand in demands)
        plan = replace(
            _promising_nothing(slower.plan, first),
            kept={group.name: tuple(range(group.channels)) for group in graph.groups},
            value=slower.plan.dense_value,
            bound=slower.plan.dense_value,
            price_ms=math.nan,
            also=tuple(map(_promising_nothing, slower.plan.also, others)),
        )
        small = cut(self.refining.model, self.refining.graph, plan)
        times, *also = (
            compare(
                self.refining.model,
                small,
                self.refining.example,
                demand.table.target,
                device=self.refining.device,
                cut=CutName(self.refining.graph.key, plan.widths),
            )
            for demand in demands
        )
        return Fitted(small, plan, times, slower.table, slower.rounds, True, tuple(also))

    def _is_settled(self, last: Candidate, places: Sequence[Place], care: Care) -> bool:
        """Tell whether there is no use in timing it again."""
        return self._is_dense(last.plan) or is_short(last, places, care)

    def _is_dense(self, planned: Plan) -> bool:
        # Not by its value: a criterion may find channels that are worth nothing.
        return planned.widths == self.refining.graph.widths

    def _plan(self, places: Sequence[Place], tried: Sequence[Candidate]) -> Plan | None:
        """Plan with all that is known by now; None if only what was already found fits."""
        found: list[Plan] = []
        demands = [place.demand for place in places]
        for _ in range(REPLANS):
            try:
                planned, tables = self._refined(demands)
            except BudgetTooSmall as error:
                if found:
                    break
                if any(max(candidate.used) <= 1 for candidate in tried):
                    return None
                return self._at_the_floor(error, places, tried)
            for place, table in zip(places, tables, strict=True):
                place.table = table
            if any(planned.kept == one.kept for one in found):
                break
            found.append(planned)
            if is_near(planned, places):
                break
            widths = [one.widths for one in found]
            demands = [place.demand_between(widths) for place in places]
        care = _care(places)
        short = [one.plan.kept for one in tried if is_short(one, places, care)]
        # Others may take too much by what is believed, but are not known: that is worth a timing.
        open_ = [planned for planned in found if planned.kept not in short]
        return min(open_ or found, key=partial(promise, places=places))

    def _refined(self, demands: Sequence[Demand]) -> tuple[Plan, list[LatencyTable]]:
        """Plan a little below the budgets, or to all of them if nothing is that fast."""
        try:
            return self.refining.refined(demands, aim=AIM)
        except BudgetTooSmall:
            return self.refining.refined(demands, aim=1.0)

    def _at_the_floor(
        self, error: BudgetTooSmall, places: Sequence[Place], tried: Sequence[Candidate]
    ) -> Plan | None:
        """Time the narrowest network before anybody is told that nothing fits.

        Raises:
            BudgetTooSmall: If it takes more than the budget; the floor is what it takes.
        """
        narrowest = self._narrowest(error, places)
        if narrowest is None:
            raise error
        place = places[error.target]
        if not place.timings(narrowest.widths):
            self._time_once(narrowest, places)
            return self._plan(places, tried)
        floor_ms = place.believed_ms(narrowest.widths)
        if floor_ms <= error.budget_ms and len(places) == 1:
            return replace(narrowest, budget=place.budget, budget_ms=error.budget_ms)
        raise BudgetTooSmall(
            error.budget_ms,
            max(floor_ms, error.budget_ms),
            target=error.target,
            remedy=error.remedy,
            dense_ms=error.dense_ms,
        )

    def _narrowest(self, error: BudgetTooSmall, places: Sequence[Place]) -> Plan | None:
        """Plan the network that takes least; None where several budgets contradict each other."""
        if isinstance(error, BudgetsTooSmall):
            return None
        place = places[error.target]
        for _ in range(REPLANS):
            least = replace(place.demand, budget=Budget(ms=error.floor_ms * (1 + 1e-6)))
            try:
                planned, (place.table,) = self.refining.refined([least], aim=1.0)
            except BudgetTooSmall as higher:  # its layers, once measured, take longer
                error = higher
            else:
                return planned
        return None

    def _time_once(self, planned: Plan, places: Sequence[Place]) -> None:
        """Time a plan's network for what it tells of others."""
        self.progress.step(0, None, "timing the narrowest network")
        small = cut(self.refining.model, self.refining.graph, planned)
        runs = [self._ready(small, place.table.target) for place in places]
        self._times(Candidate(small, planned, runs), places)

    def _with(self, planned: Plan, tried: Sequence[Candidate]) -> list[Candidate]:
        """Put a plan's network last, the one that was tried already if it was."""
        known = [candidate for candidate in tried if candidate.plan.kept == planned.kept]
        others = [candidate for candidate in tried if candidate.plan.kept != planned.kept]
        if not known:
            small = cut(self.refining.model, self.refining.graph, planned)
            targets = [planned.target, *(promise.target for promise in planned.also)]
            runs = [self._ready(small, target) for target in targets]
            known = [Candidate(small, planned, runs)]
        return others + known

    def _place(self, demand: Demand, dense: Ready | None) -> Place:
        if dense is None:
            dense = self._ready(self.refining.model, demand.table.target)
        return Place(self.refining.graph, demand, dense)

    def _ready(self, model: nn.Module, target: Target) -> Ready:
        return prepare(model, self.refining.example, target, device=self.refining.device)

    def _times(self, candidate: Candidate, places: Sequence[Place]) -> list[Comparison]:
        """Time a candidate beside the dense network on every target, and remember it there."""
        times = []
        for number, place in enumerate(places):
            self.refining.device.open_anew(place.dense)
            if candidate.timings:  # else it has just been opened
                self.refining.device.open_anew(candidate.runs[number])
            compared = compare(
                place.dense,
                candidate.runs[number],
                self.refining.example,
                place.table.target,
                enough=partial(decided, place.budget),
                tolerance=FLOOR / 4,
                limit_s=TIMING_S,
                device=self.refining.device,
                cut=CutName(self.refining.graph.key, candidate.plan.widths),
            )
            place.add(candidate.plan.widths, compared)
            times.append(compared)
        return times
