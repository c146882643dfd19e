"""When a network is narrowed, how far each time, and by whose choice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from latprune.errors import or_meant
from latprune.knapsack.halp import schedule
from latprune.planning import Budget, Demand, plan, solver_name
from latprune.saliency.named import absolute
from latprune.saliency.relative import relative
from latprune.saliency.scores import Saliency

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from latprune.graph.groups import PruningGraph
    from latprune.knapsack import Solver
    from latprune.planning import Plan

    Closing = Callable[[Saliency, Mapping[str, Sequence[int]]], Plan]
    """Of the saliency and, per group, the channels that are left."""


GradualCriterion = Literal["taylor", "taylor_squared", "relative_taylor", "relative_taylor_squared"]
GRADUAL_DEFAULT: GradualCriterion = "taylor"


def check_criterion(criterion: str) -> None:
    """Make sure that gradients score by a criterion.

    Raises:
        ValueError: If not; it says by which ones they do.
    """
    if criterion not in get_args(GradualCriterion):
        raise ValueError(
            f"the gradients of training score by {', '.join(get_args(GradualCriterion))}, not by "
            f"{criterion!r}{or_meant(criterion, get_args(GradualCriterion))}"
        )


@dataclass(frozen=True, eq=False)
class Course:
    """From the dense network to the budget, in steps.

    Attributes:
        graph: Of the dense network.
        demands: Targets and what the network may take there in the end.
        solver: Chooses the widths of every step.
        steps: How many there are.
        every: Optimizer steps from one to the next.
        start: Optimizer steps before gradients count.
        soft: Whether channels may come back before the last step.
        criterion: What widths are worth.
        aim: The share of the budgets to spend in the end.
        closing: Plans the last step; None for the solver and the tables alone.
    """

    graph: PruningGraph
    demands: tuple[Demand, ...]
    solver: Solver
    steps: int
    every: int
    start: int
    soft: bool
    criterion: GradualCriterion
    aim: float
    closing: Closing | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.every < 1 or self.start < 0:
            raise ValueError(
                f"steps and every are at least 1 and start at least 0, not {self.steps}, "
                f"{self.every} and {self.start}"
            )
        check_criterion(self.criterion)

    def check(self) -> None:
        """Make sure that the last step has a plan, before anything is trained.

        Raises:
            BudgetTooSmall: If no network fits.
            NotMeasured: If a table lacks something.
        """
        alike = {group.name: np.ones(group.channels) for group in self.graph.groups}
        self._predicted(self.steps, self._saliency(alike, self.graph_kept), self.graph_kept)

    @property
    def graph_kept(self) -> dict[str, tuple[int, ...]]:
        """All channels."""
        return {group.name: tuple(range(group.channels)) for group in self.graph.groups}

    @property
    def is_squared(self) -> bool:
        """Whether it plans by squares of first-order terms."""
        return absolute(self.criterion) == "taylor_squared"

    def due(self, step: int) -> int:
        """Give the optimizer steps after which a step, counted from 1, is taken."""
        return self.start + step * self.every

    def plan(
        self, step: int, scores: Mapping[str, np.ndarray], kept: Mapping[str, Sequence[int]]
    ) -> Plan:
        """Choose what a step leaves.

        Args:
            step: Counted from 1.
            scores: Of the channels that are left, [channels left] per group.
            kept: Which ones these are.
        """
        saliency = self._saliency(scores, kept)
        if step == self.steps and self.closing is not None:
            return self.closing(saliency, kept)
        return self._predicted(step, saliency, kept)

    def _predicted(self, step: int, saliency: Saliency, kept: Mapping[str, Sequence[int]]) -> Plan:
        """Plan by the tables."""
        first, *also = (self._demand(demand, step) for demand in self.demands)
        return plan(
            self.graph,
            first.table,
            saliency,
            first.budget,
            solver=self.solver,
            rest_ms=first.rest_ms,
            aim=self.aim if step == self.steps else 1.0,
            also=also,
            within=kept,
        )

    def identity(self) -> dict[str, Any]:
        """Say, as JSON values, what a run must have in common with one that it continues."""
        asked = [(one.table.target.describe(), str(one.budget)) for one in self.demands]
        return {
            "the network's graph": self.graph.key,
            "the budget": [list(pair) for pair in asked],
            "the solver": solver_name(self.solver),
            "steps": self.steps,
            "every": self.every,
            "start": self.start,
            "soft": self.soft,
            "the criterion": self.criterion,
            "aim": self.aim,
        }

    def _demand(self, demand: Demand, step: int) -> Demand:
        """Give a target with the step's budget, in the unit of the last one's."""
        if step == self.steps:
            return demand
        dense_ms = demand.table.network(self.graph).median_ms
        aim_ms = self.aim * demand.budget.in_ms(dense_ms)
        ms = schedule(dense_ms, aim_ms, steps=self.steps)[step - 1]
        shared = demand.budget.fraction is not None
        return replace(demand, budget=Budget(fraction=ms / dense_ms) if shared else Budget(ms=ms))

    def _saliency(
        self, scores: Mapping[str, np.ndarray], kept: Mapping[str, Sequence[int]]
    ) -> Saliency:
        """Give the dense network's saliency; what is gone is worth nothing."""
        whole = {}
        for group in self.graph.groups:
            whole[group.name] = np.zeros(group.channels)
            whole[group.name][list(kept[group.name])] = scores[group.name]
        saliency = Saliency(whole, criterion=absolute(self.criterion))
        if saliency.criterion == self.criterion:
            return saliency
        return relative(saliency, self.graph)
