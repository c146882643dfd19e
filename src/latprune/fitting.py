"""Close the loop: plan, cut, time the real small network beside the dense one, correct, plan again.

The layers' times do not quite add up to a network's: what is missing is measured on the network
itself and goes into the next plan, and into the table for the next time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from latprune.errors import BudgetTooSmall
from latprune.knapsack import joint
from latprune.latency.devices import CutName
from latprune.latency.devices.here import HERE
from latprune.latency.measuring import compare, measure, prepare
from latprune.latency.rest import Relative, Whole, rest_within, whole_at
from latprune.latency.timing import pooled
from latprune.planning import Demand, plan
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
    from latprune.latency.table import Cut, LatencyTable
    from latprune.latency.target import Target
    from latprune.latency.timing import Comparison
    from latprune.planning import Budget, Plan
    from latprune.progress import Progress
    from latprune.saliency.scores import Saliency

AIM = 0.983
"""The share of the budget that plans spend: about the middle of what counts as well used."""

CLOSE = 0.006
"""How far from `AIM` a network may be, by all that is known of it, for the loop to end."""

FLOOR = 0.01
"""The error of a timing, relative, that its own spread does not show: where the networks lie in
memory, and moods of the machine that last longer than a few seconds."""

OWN = 0.01
"""How far a network's rest may lie from that of others about as large, relative to its time."""

TIMINGS = 10
"""Of whole networks, at the most; one that is near the aim is timed until that is sure."""

SURE = 0.007
"""How well a network's time must be known for the loop to end: a standard error, relative."""

QUICK_MS, QUICK_TIMINGS, QUICK_SURE, QUICK_OWN = 50.0, 20, 0.004, 4
"""A dense network that takes less is timed more often, until more is known, and what is known of
others does not end the loop before a network of its own was timed so often: it is cheap, and what
disturbs a machine disturbs a quick network more."""

TIMING_S = 2.0
"""For how long a candidate is timed beside the dense network, each time, at the most."""

REFINEMENTS = 8
"""Plans per round, each with the layers of the one before measured."""

REPLANS = 4
"""Of these, each with the rest of the network planned before: it may not be that of its like."""


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

    @property
    def used(self) -> float:
        """The share of the budget that the network takes; above 1 it is not met.

        Of several budgets the one that is used most.
        """
        budgets = [self.plan.budget, *(promise.budget for promise in self.plan.also)]
        return max(map(_used, budgets, (self.comparison, *self.also)))


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
        folder: Of the tables, as for `measure`.
        progress: Is told of every plan and every network.
        device: Where networks and layers are timed.
        ready: What `prepare` made of the dense network, by target, where somebody has it already:
            exporting or compiling it takes as long as a candidate.

    Returns:
        Of the networks within the budget the one that spends it best; if none is, the one
        nearest to it. Never one that is slower than the dense network: then the dense one.

    Raises:
        BudgetTooSmall: If nothing fits, by what was measured.
        DeviceError: If the device fails; what it measured before is kept.
        JobsPacked: If somebody has to carry what is missing to the device.
    """
    told = progress or Quiet()
    loop = _Loop(model, graph, example, saliency, solver, folder, told, device, within)
    demands = [Demand(table, budget), *also]
    best = loop.run(demands, ready or {})
    slower = best.comparison.ratio > 1 and not best.is_dense
    return loop.dense(best, demands) if slower else best


def refine(
    model: nn.Module,
    graph: PruningGraph,
    example: torch.Tensor | tuple[torch.Tensor, ...],
    table: LatencyTable,
    saliency: Saliency,
    budget: Budget,
    *,
    solver: Solver = joint,
    rest_ms: float | None = None,
    aim: float = 1.0,
    also: Sequence[Demand] = (),
    folder: Path | None = None,
    device: Device = HERE,
) -> tuple[Plan, LatencyTable]:
    """Plan, measure the plan's own layers, and plan again until none of them is new.

    Args and errors are those of `measure` and `plan`.

    Returns:
        The plan, and the table with its layers.
    """
    loop = _Loop(model, graph, example, saliency, solver, folder, Quiet(), device)
    planned, (table, *_) = loop.refined([Demand(table, budget, rest_ms), *also], aim=aim)
    return planned, table


class _Place:
    """A target: its budget, what is known of networks there, and the dense one, ready to run."""

    def __init__(self, graph: PruningGraph, demand: Demand, dense: Ready) -> None:
        self.graph, self.dense = graph, dense
        self.table, self.budget = demand.table, demand.budget

    @property
    def is_quick(self) -> bool:
        """Whether timing networks costs little here."""
        return self.table.network(self.graph).median_ms < QUICK_MS

    @property
    def demand(self) -> Demand:
        """What a plan needs to know: a network that spends the aim has such a rest."""
        known = [self._dense, *map(self._whole, self.table.cuts(self.graph))]
        return Demand(self.table, self.budget, rest_within(known, AIM * self._budget_ms))

    def demand_by(self, widths: Mapping[str, int]) -> Demand:
        """The same by what is known of one network: it has such a rest."""
        share, _ = self.believed(widths)
        rest_ms = share * self._budget_ms - self.table.layers_ms(self.graph, widths)
        return Demand(self.table, self.budget, rest_ms)

    def believed(self, widths: Mapping[str, int]) -> tuple[float, float]:
        """The share of the budget that a network takes by all that is known, and its error."""
        layers_ms = self.table.layers_ms(self.graph, widths)
        known = [Relative(self._dense, self._differs(widths, self.graph.widths))]
        for one in self.table.cuts(self.graph):
            known.append(Relative(self._whole(one), self._differs(widths, one.widths)))
        whole_ms, error_ms = whole_at(known, layers_ms, differs_ms=OWN * self._budget_ms)
        return whole_ms / self._budget_ms, error_ms / self._budget_ms

    def timings(self, candidate: _Candidate) -> int:
        """How often a network was timed here, by earlier runs too."""
        cuts = self.table.cuts(self.graph)
        stored = sum(one.widths == candidate.plan.widths for one in cuts)
        return max(stored, candidate.timings)  # equal timings are stored once

    def _differs(self, widths: Mapping[str, int], others: Mapping[str, int]) -> float:
        """The share of a network's layers, by their time, that another one does not have."""
        theirs = self.graph.shapes_at(others)
        times_ms = [
            (self.table[shape].median_ms, shape != theirs.get(name))
            for name, shape in self.graph.shapes_at(widths).items()
        ]
        return sum(ms for ms, differs in times_ms if differs) / sum(ms for ms, _ in times_ms)

    @property
    def _dense(self) -> Whole:
        dense_ms = self.table.network(self.graph).median_ms
        layers_ms = self.table.layers_ms(self.graph, self.graph.widths)
        return Whole(layers_ms, dense_ms, FLOOR * dense_ms)

    @property
    def _budget_ms(self) -> float:
        return self.budget.in_ms(self._dense.whole_ms)

    def _whole(self, one: Cut) -> Whole:
        """One timing of a pruned network, in the dense one's pace."""
        taken_ms = self._budget_ms * _used(self.budget, one.comparison)
        error_ms = taken_ms * math.hypot(_relative_error(one.comparison), FLOOR)
        return Whole(self.table.layers_ms(self.graph, one.widths), taken_ms, error_ms)


class _Candidate:
    """A network that may be the one, ready to be timed as often as it takes."""

    def __init__(self, model: nn.Module, plan: Plan, runs: list[Ready]) -> None:
        self.model, self.plan, self.runs = model, plan, runs
        self._times: list[list[Comparison]] = []

    def add(self, times: list[Comparison]) -> None:
        """Join timings, one per target, to those before."""
        self._times.append(times)

    @property
    def timings(self) -> int:
        """How often it was timed."""
        return len(self._times)

    @property
    def compared(self) -> list[Comparison]:
        """Per target all timings together."""
        return [pooled(times) for times in zip(*self._times, strict=True)]

    @property
    def used(self) -> list[float]:
        """The share of each budget that it takes, by its own timings."""
        budgets = [self.plan.budget, *(promise.budget for promise in self.plan.also)]
        return list(map(_used, budgets, self.compared))


@dataclass(frozen=True, eq=False)
class _Loop:
    """What stays the same from round to round."""

    model: nn.Module
    graph: PruningGraph
    example: torch.Tensor | tuple[torch.Tensor, ...]
    saliency: Saliency
    solver: Solver
    folder: Path | None
    progress: Progress
    device: Device
    within: Mapping[str, Sequence[int]] | None = None

    def run(self, demands: Sequence[Demand], ready: Mapping[Target, Ready]) -> Fitted:
        """Time candidates until one is surely near the aim, or there is nothing more to try."""
        places = [self._place(demand, ready.get(demand.table.target)) for demand in demands]
        tried: list[_Candidate] = []
        near = sure = False
        quick = all(place.is_quick for place in places)
        for timing in range(QUICK_TIMINGS if quick else TIMINGS):
            if not near:
                self.progress.step(timing, None, "choosing widths")
                planned = self._plan(places, tried)
                if planned is None or (sure and planned.kept == tried[-1].plan.kept):
                    break  # as near as it gets
                tried = self._with(planned, tried)
            candidate = tried[-1]
            self.progress.step(timing, None, "timing the network")
            candidate.add(self._times(candidate, places))
            share = 100 * max(candidate.used)
            self.progress.step(timing, None, f"takes {share:.1f} % of the budget")
            near, sure = _judged(candidate, places, tolerance=QUICK_SURE if quick else SURE)
            if quick:
                sure = sure and all(place.timings(candidate) >= QUICK_OWN for place in places)
            if self._is_dense(candidate.plan) or (near and sure):
                break
        best = min(tried, key=partial(_preference, places=places))
        comparison, *also = best.compared
        rounds = sum(candidate.timings for candidate in tried)
        is_dense = self._is_dense(best.plan)
        table = places[0].table
        return Fitted(best.model, best.plan, comparison, table, rounds, is_dense, tuple(also))

    def dense(self, slower: Fitted, demands: Sequence[Demand]) -> Fitted:
        """The dense network, as a cut of nothing."""
        plan = replace(
            slower.plan,
            kept={group.name: tuple(range(group.channels)) for group in self.graph.groups},
            predicted_ms=slower.plan.baseline_ms,
            value=slower.plan.dense_value,
            bound=slower.plan.dense_value,
        )
        small = cut(self.model, self.graph, plan)
        times, *also = (
            compare(
                self.model,
                small,
                self.example,
                demand.table.target,
                device=self.device,
                cut=CutName(self.graph.key, plan.widths),
            )
            for demand in demands
        )
        return Fitted(small, plan, times, slower.table, slower.rounds, True, tuple(also))

    def _is_dense(self, planned: Plan) -> bool:
        # Not by its value: a criterion may find channels that are worth nothing.
        return planned.widths == self.graph.widths

    def refined(self, demands: Sequence[Demand], *, aim: float) -> tuple[Plan, list[LatencyTable]]:
        """Plan and measure the plan's layers until none of them is new, on any target."""
        for _ in range(REFINEMENTS):
            first, *also = demands
            planned = plan(
                self.graph,
                first.table,
                self.saliency,
                first.budget,
                solver=self.solver,
                rest_ms=first.rest_ms,
                aim=aim,
                also=also,
                within=self.within,
            )
            measured = [self._with_layers(demand, planned) for demand in demands]
            new = [
                len(now.table) > len(old.table) for now, old in zip(measured, demands, strict=True)
            ]
            demands = measured
            if not any(new):
                break
        return planned, [demand.table for demand in demands]

    def _with_layers(self, demand: Demand, planned: Plan) -> Demand:
        target, widths = demand.table.target, planned.widths
        table = measure(
            self.model,
            self.graph,
            self.example,
            target,
            widths=widths,
            folder=self.folder,
            device=self.device,
        )
        return replace(demand, table=table)

    def _plan(self, places: Sequence[_Place], tried: Sequence[_Candidate]) -> Plan | None:
        """Plan with all that is known by now; None if only what was already found fits."""
        found: list[Plan] = []
        demands = [place.demand for place in places]
        for _ in range(REPLANS):
            try:
                planned, tables = self.refined(demands, aim=AIM)
            except BudgetTooSmall:
                if found:
                    break
                if any(max(candidate.used) <= 1 for candidate in tried):
                    return None
                raise
            for place, table in zip(places, tables, strict=True):
                place.table = table
            found.append(planned)
            if _miss(planned, places) <= CLOSE:
                break
            demands = [place.demand_by(planned.widths) for place in places]
        return min(found, key=partial(_miss, places=places))

    def _with(self, planned: Plan, tried: Sequence[_Candidate]) -> list[_Candidate]:
        """Put a plan's network last, the one that was tried already if it was."""
        known = [candidate for candidate in tried if candidate.plan.kept == planned.kept]
        others = [candidate for candidate in tried if candidate.plan.kept != planned.kept]
        if not known:
            small = cut(self.model, self.graph, planned)
            targets = [planned.target, *(promise.target for promise in planned.also)]
            runs = [self._ready(small, target) for target in targets]
            known = [_Candidate(small, planned, runs)]
        return others + known

    def _place(self, demand: Demand, dense: Ready | None) -> _Place:
        if dense is None:
            dense = self._ready(self.model, demand.table.target)
        return _Place(self.graph, demand, dense)

    def _ready(self, model: nn.Module, target: Target) -> Ready:
        return prepare(model, self.example, target, device=self.device)

    def _times(self, candidate: _Candidate, places: Sequence[_Place]) -> list[Comparison]:
        """Time a candidate beside the dense network on every target, and remember it there."""
        times = []
        for number, place in enumerate(places):
            self.device.open_anew(place.dense)
            if candidate.timings:  # else it has just been opened
                self.device.open_anew(candidate.runs[number])
            compared = compare(
                place.dense,
                candidate.runs[number],
                self.example,
                place.table.target,
                enough=partial(_decided, place.budget),
                tolerance=FLOOR / 4,
                limit_s=TIMING_S,
                device=self.device,
                cut=CutName(self.graph.key, candidate.plan.widths),
            )
            place.table.add_cut(self.graph, candidate.plan.widths, compared)
            times.append(compared)
        return times


def _miss(planned: Plan, places: Sequence[_Place]) -> float:
    """How far from the aim a network is by all that is known, as a share of the budget."""
    return abs(max(place.believed(planned.widths)[0] for place in places) - AIM)


def _judged(
    candidate: _Candidate, places: Sequence[_Place], *, tolerance: float
) -> tuple[bool, bool]:
    """Whether a network is near the aim, and whether all timings and its own are sure of it."""
    sure = True
    for place, own, compared in zip(places, candidate.used, candidate.compared, strict=True):
        share, error = place.believed(candidate.plan.widths)
        own_error = own * _relative_error(compared)
        agrees = abs(own - share) <= 2 * max(own_error, FLOOR / 4)
        has_slack = own + 3 * own_error <= AIM
        sure = sure and own <= 1 and ((error <= tolerance and agrees) or has_slack)
    return _miss(candidate.plan, places) <= CLOSE, sure


def _preference(candidate: _Candidate, places: Sequence[_Place]) -> tuple[bool, float]:
    """Networks within the budgets first; of these the one that surely spends what plans aim at."""
    believed, error = max(place.believed(candidate.plan.widths) for place in places)
    return max(candidate.used) > 1, math.hypot(believed - AIM, error)


def _used(budget: Budget, compared: Comparison) -> float:
    """The share of a budget that a network was measured to take."""
    return budget.used(ratio=compared.ratio, ms=compared.small.median_ms)


def _relative_error(compared: Comparison) -> float:
    return compared.ratio_error / compared.ratio


def _decided(budget: Budget, compared: Comparison) -> bool:
    """Whether a network's time is well known, or is beyond doubt far from the aim."""
    used = _used(budget, compared)
    error = used * _relative_error(compared)
    return error <= FLOOR / 4 or abs(used - AIM) >= CLOSE + 2 * error
