"""Close the loop: plan, cut, time the real small network beside the dense one, correct, plan again.

The layers' times do not quite add up to a network's: what is missing is measured on the network
itself and goes into the next plan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from latprune.errors import BudgetTooSmall
from latprune.knapsack import joint
from latprune.latency.measuring import compare, measure, prepare
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
    from latprune.latency.timing import Comparison
    from latprune.planning import Budget, Plan
    from latprune.progress import Progress
    from latprune.saliency.scores import Saliency

AIM = 0.985
"""The share of the budget that plans spend: the middle of what counts as well used."""

CLOSE = 0.01
"""How far from `AIM` a measured network may be for the loop to end."""

ROUNDS = 6
"""Networks that are timed whole, at the most."""

ALIKE = 0.03
"""How much the layers of two networks may differ, relatively, to have the same rest."""

TIMING_S = 3.5
"""For how long a candidate is timed, at the most, beside the dense network."""

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
        rounds: How many networks were timed.
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
        dense_run = prepare(self.model, self.example, table.target)
        fitted: list[Fitted] = []
        rest_ms: float | None = None
        while len(fitted) < ROUNDS:
            self.progress.step(len(fitted), None, "choosing widths")
            try:
                planned, table = refine(
                    self.model,
                    self.graph,
                    self.example,
                    table,
                    self.saliency,
                    self.budget,
                    solver=self.solver,
                    rest_ms=rest_ms,
                    aim=AIM,
                    folder=self.folder,
                )
            except BudgetTooSmall:
                if any(found.used <= 1 for found in fitted):
                    break
                raise
            if any(planned.kept == found.plan.kept for found in fitted):
                break
            self.progress.step(len(fitted), None, "timing the network")
            small = cut(self.model, self.graph, planned)
            times = compare(
                dense_run,
                small,
                self.example,
                table.target,
                enough=partial(_decided, self.budget),
                limit_s=TIMING_S,
            )
            found = Fitted(small, planned, times, table, len(fitted) + 1)
            fitted.append(found)
            self.progress.step(len(fitted), None, f"takes {100 * found.used:.1f} % of the budget")
            rest_ms = _rest_ms(fitted)
            near = abs(_believed(found, rest_ms) - AIM) <= CLOSE
            if found.is_dense or (near and found.used <= 1):
                break
        return min(fitted, key=partial(_preference, rest_ms=rest_ms))

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


def _decided(budget: Budget, compared: Comparison) -> bool:
    """Whether it is clear that a network is near the aim, or that it is not."""
    used = budget.used(ratio=compared.ratio, ms=compared.small.median_ms)
    error = used * compared.ratio_error / compared.ratio
    distance = abs(used - AIM)
    return distance + error <= CLOSE or distance >= CLOSE + 3 * error


def _layers_ms(fitted: Fitted) -> float:
    """What a network's layers take, one by one."""
    return fitted.plan.predicted_ms - fitted.plan.rest_ms


def _rest_ms(fitted: Sequence[Fitted]) -> float:
    """What networks take beside their layers, from all that are about as large as the last one.

    One network's time is known to a percent or so; what several have in common is known better.
    A network that went over the budget is not explained away, though.
    """
    last_ms = _layers_ms(fitted[-1])
    alike = [one for one in fitted if abs(_layers_ms(one) - last_ms) <= ALIKE * last_ms]
    rests = [one.used * one.plan.budget_ms - _layers_ms(one) for one in alike]
    common = float(np.average(rests, weights=[one.comparison.small.runs for one in alike]))
    return common if fitted[-1].used <= 1 else max(common, rests[-1])


def _believed(fitted: Fitted, rest_ms: float) -> float:
    """The share of the budget that a network takes, by its layers and the common rest."""
    return (_layers_ms(fitted) + rest_ms) / fitted.plan.budget_ms


def _preference(fitted: Fitted, rest_ms: float | None) -> tuple[bool, float]:
    """Networks within the budget first, and of these the one that spends what plans aim at."""
    used = fitted.used if rest_ms is None else _believed(fitted, rest_ms)
    return fitted.used > 1, abs(used - AIM)
