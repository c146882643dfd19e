"""Close the loop: plan, cut, time the real small network beside the dense one, correct, plan again.

The layers' times do not quite add up to a network's: what is missing is measured on the network
itself and goes into the next plan, and into the table for the next time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import TYPE_CHECKING

from latprune.errors import BudgetTooSmall
from latprune.knapsack import joint
from latprune.latency.measuring import compare, measure, prepare
from latprune.latency.rest import Whole, rest_at, rest_within
from latprune.latency.timing import Comparison
from latprune.planning import plan
from latprune.progress import Quiet
from latprune.surgery import cut

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from torch import nn

    from latprune.graph.groups import PruningGraph
    from latprune.knapsack import Solver
    from latprune.latency.table import LatencyTable
    from latprune.latency.target import Target
    from latprune.latency.timing import Run
    from latprune.planning import Budget, Plan
    from latprune.progress import Progress
    from latprune.saliency.scores import Saliency

AIM = 0.985
"""The share of the budget that plans spend: the middle of what counts as well used."""

CLOSE = 0.006
"""How far from `AIM` a measured network may be for the loop to end."""

SURE = 0.0065
"""How well a network's time must be known for the loop to end: a standard error, relative."""

FLOOR = 0.01
"""The error of a timing, relative, that its own spread does not show: machines have moods that
last longer than a few seconds, and networks of different sizes take them differently."""

TIMINGS = 6
"""Of whole networks, at the most; one that is near the aim is timed until that is sure."""

TIMING_S = 4.0
"""For how long a candidate is timed beside the dense network, each time, at the most."""

REFINEMENTS = 8
"""Plans per round, each with the layers of the one before measured."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A network cut to a budget, as measured.

    Attributes:
        model: The small network.
        plan: What it was cut to.
        comparison: It and the dense network, timed in turns.
        table: With every layer of the plan measured.
        rounds: How many times a network was timed.
    """

    model: nn.Module
    plan: Plan
    comparison: Comparison
    table: LatencyTable
    rounds: int

    @property
    def is_dense(self) -> bool:
        """Whether nothing was cut."""
        return self.plan.value == self.plan.dense_value

    @property
    def used(self) -> float:
        """The share of the budget that the network takes; above 1 it is not met."""
        compared = self.comparison
        return self.plan.budget.used(ratio=compared.ratio, ms=compared.small.median_ms)


def fit(
    model: nn.Module,
    graph: PruningGraph,
    example: torch.Tensor | tuple[torch.Tensor, ...],
    table: LatencyTable,
    saliency: Saliency,
    budget: Budget,
    *,
    solver: Solver = joint,
    folder: Path | None = None,
    progress: Progress | None = None,
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
        folder: Of the tables, as for `measure`.
        progress: Is told of every plan and every network.

    Returns:
        Of the networks within the budget the one that spends it best; if none is, the one
        nearest to it. Never one that is slower than the dense network: then the dense one.

    Raises:
        BudgetTooSmall: If nothing fits, by what was measured.
    """
    loop = _Loop(model, graph, example, saliency, budget, solver, folder, progress or Quiet())
    best = loop.run(table)
    return loop.dense(best) if best.comparison.ratio > 1 and not best.is_dense else best


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
    folder: Path | None = None,
) -> tuple[Plan, LatencyTable]:
    """Plan, measure the plan's own layers, and plan again until none of them is new.

    Args and errors are those of `measure` and `plan`.

    Returns:
        The plan, and the table with its layers.
    """
    for _ in range(REFINEMENTS):
        planned = plan(graph, table, saliency, budget, solver=solver, rest_ms=rest_ms, aim=aim)
        known, widths = len(table), planned.widths
        table = measure(model, graph, example, table.target, widths=widths, folder=folder)
        if len(table) == known:
            break
    return planned, table


class _Candidate:
    """A network that may be the one, ready to be timed as often as it takes."""

    def __init__(self, model: nn.Module, plan: Plan, run: Run) -> None:
        self.model, self.plan, self.run = model, plan, run
        self._times: list[Comparison] = []

    def add(self, times: Comparison) -> None:
        """Join a timing to those before."""
        self._times.append(times)

    @property
    def timings(self) -> int:
        """How often it was timed."""
        return len(self._times)

    @property
    def compared(self) -> Comparison:
        """All timings together."""
        return reduce(Comparison.pooled, self._times)

    @property
    def used(self) -> float:
        """The share of the budget that it takes, by its own timings."""
        compared = self.compared
        return self.plan.budget.used(ratio=compared.ratio, ms=compared.small.median_ms)

    @property
    def error(self) -> float:
        """The standard error of `used`."""
        return self.used * self.compared.ratio_error / self.compared.ratio


@dataclass(frozen=True, eq=False)
class _Loop:
    """What stays the same from round to round."""

    model: nn.Module
    graph: PruningGraph
    example: torch.Tensor | tuple[torch.Tensor, ...]
    saliency: Saliency
    budget: Budget
    solver: Solver
    folder: Path | None
    progress: Progress

    def run(self, table: LatencyTable) -> Fitted:
        """Time candidates until one is surely near the aim, or there is nothing more to try."""
        dense_run = prepare(self.model, self.example, table.target)
        tried: list[_Candidate] = []
        near = sure = False
        for timing in range(TIMINGS):
            if not near:
                self.progress.step(timing, None, "choosing widths")
                planned, table = self._plan(table, tried)
                if planned is None or (sure and planned.kept == tried[-1].plan.kept):
                    break  # as near as it gets
                tried = self._with(planned, tried)
            candidate = tried[-1]
            self.progress.step(timing, None, "timing the network")
            times = self._time(dense_run, candidate.run, table.target)
            table.add_cut(self.graph, candidate.plan.widths, times)
            candidate.add(times)
            self.progress.step(timing, None, f"takes {100 * candidate.used:.1f} % of the budget")
            near, sure = self._judged(candidate, table)
            if candidate.plan.value == candidate.plan.dense_value or (near and sure):
                break
        best = min(tried, key=partial(self._preference, table=table))
        rounds = sum(candidate.timings for candidate in tried)
        return Fitted(best.model, best.plan, best.compared, table, rounds)

    def dense(self, slower: Fitted) -> Fitted:
        """The dense network, as a cut of nothing."""
        plan = replace(
            slower.plan,
            kept={group.name: tuple(range(group.channels)) for group in self.graph.groups},
            predicted_ms=slower.plan.baseline_ms,
            value=slower.plan.dense_value,
            bound=slower.plan.dense_value,
        )
        small = cut(self.model, self.graph, plan)
        times = compare(self.model, small, self.example, plan.target)
        return Fitted(small, plan, times, slower.table, slower.rounds)

    def _plan(
        self, table: LatencyTable, tried: Sequence[_Candidate]
    ) -> tuple[Plan | None, LatencyTable]:
        """Plan with all that is known by now; None if only what was already found fits."""
        budget_ms = self.budget.in_ms(table.network(self.graph).median_ms)
        try:
            return refine(
                self.model,
                self.graph,
                self.example,
                table,
                self.saliency,
                self.budget,
                solver=self.solver,
                rest_ms=rest_within(self._known(table), AIM * budget_ms),
                aim=AIM,
                folder=self.folder,
            )
        except BudgetTooSmall:
            if any(candidate.used <= 1 for candidate in tried):
                return None, table
            raise

    def _with(self, planned: Plan, tried: Sequence[_Candidate]) -> list[_Candidate]:
        """Put a plan's network last, the one that was tried already if it was."""
        known = [candidate for candidate in tried if candidate.plan.kept == planned.kept]
        others = [candidate for candidate in tried if candidate.plan.kept != planned.kept]
        if not known:
            small = cut(self.model, self.graph, planned)
            run = prepare(small, self.example, planned.target)
            known = [_Candidate(small, planned, run)]
        return others + known

    def _time(self, dense: Run, small: Run, target: Target) -> Comparison:
        return compare(
            dense,
            small,
            self.example,
            target,
            enough=partial(_decided, self.budget),
            limit_s=TIMING_S,
        )

    def _known(self, table: LatencyTable) -> list[Whole]:
        """All networks that were ever timed whole, the dense one first."""
        dense = table.network(self.graph)
        budget_ms = self.budget.in_ms(dense.median_ms)
        known = [
            Whole(
                table.layers_ms(self.graph, self.graph.widths),
                dense.median_ms,
                FLOOR * dense.median_ms,
            )
        ]
        for one in table.cuts(self.graph):
            compared = one.comparison
            taken_ms = budget_ms * self.budget.used(
                ratio=compared.ratio, ms=compared.small.median_ms
            )
            error = math.hypot(compared.ratio_error / compared.ratio, FLOOR)
            known.append(Whole(table.layers_ms(self.graph, one.widths), taken_ms, error * taken_ms))
        return known

    def _believed(self, candidate: _Candidate, table: LatencyTable) -> tuple[float, float]:
        """The share of the budget that a network takes by all that is known, and its error."""
        plan = candidate.plan
        layers_ms = table.layers_ms(self.graph, plan.widths)
        rest_ms, error_ms = rest_at(self._known(table), layers_ms)
        return (layers_ms + rest_ms) / plan.budget_ms, error_ms / plan.budget_ms

    def _judged(self, candidate: _Candidate, table: LatencyTable) -> tuple[bool, bool]:
        """Whether a network is near the aim, and whether all timings and its own are sure of it."""
        used, error = self._believed(candidate, table)
        agrees = abs(candidate.used - used) <= 2 * max(candidate.error, FLOOR / 4)
        return abs(used - AIM) <= CLOSE, error <= SURE and agrees and candidate.used <= 1

    def _preference(self, candidate: _Candidate, table: LatencyTable) -> tuple[bool, float]:
        """Networks within the budget first; of these the one that spends what plans aim at."""
        return candidate.used > 1, abs(self._believed(candidate, table)[0] - AIM)


def _decided(budget: Budget, compared: Comparison) -> bool:
    """Whether a network's time is well known, or is beyond doubt far from the aim."""
    used = budget.used(ratio=compared.ratio, ms=compared.small.median_ms)
    error = used * compared.ratio_error / compared.ratio
    return error <= FLOOR / 4 or abs(used - AIM) >= CLOSE + 2 * error
