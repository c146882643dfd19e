"""A network on the bench: measured on all targets that it must be quick on, and cut to fit them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from latprune.fitting import AIM, fit, refine
from latprune.latency.measuring import measure, prepare
from latprune.planning import Demand

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from latprune.fitting import Fitted
    from latprune.graph.groups import PruningGraph
    from latprune.knapsack import Solver
    from latprune.latency.devices import Device, Ready
    from latprune.latency.target import Target
    from latprune.planning import Budget, Plan
    from latprune.progress import Progress
    from latprune.saliency import Saliency


@dataclass(frozen=True, eq=False)
class Bench:
    """A dense network, what it may take where, and what finds out.

    Attributes:
        model: The dense network.
        graph: Traced from it.
        example: Its input, or inputs.
        budgets: By the target, the first one's first; all of one device.
        folder: Of latency tables; None: the user's cache.
        device: Where everything is timed.
    """

    model: nn.Module
    graph: PruningGraph
    example: Tensor | tuple[Tensor, ...]
    budgets: Mapping[Target, Budget]
    folder: Path | None
    device: Device

    @cached_property
    def ready(self) -> Mapping[Target, Ready]:
        """The dense network, opened once on every target: exporting and compiling take long."""
        return {
            target: prepare(self.model, self.example, target, device=self.device)
            for target in self.budgets
        }

    def measured(self, *, progress: Progress) -> list[Demand]:
        """Measure what planning starts from, on every target; tell of every measurement."""
        return [
            Demand(
                measure(
                    self.model,
                    self.graph,
                    self.example,
                    target,
                    folder=self.folder,
                    progress=self._told(target, progress),
                    device=self.device,
                    ready=self.ready[target],
                ),
                budget,
            )
            for target, budget in self.budgets.items()
        ]

    def _told(self, target: Target, progress: Progress) -> Callable[[int, int, str], None]:
        """Tell of measurements, and of several targets' where they are."""
        if len(self.budgets) == 1:
            return progress.step
        return lambda done, total, what: progress.step(done, total, f"{what}, {target.setting}")

    def planned(self, demands: Sequence[Demand], saliency: Saliency, solver: Solver) -> Plan:
        """Plan by the tables alone, until every layer of the plan is measured."""
        first, *also = demands
        plan, _ = refine(
            self.model,
            self.graph,
            self.example,
            first.table,
            saliency,
            first.budget,
            solver=solver,
            aim=AIM,
            also=also,
            folder=self.folder,
            device=self.device,
        )
        return plan

    def fitted(
        self,
        demands: Sequence[Demand],
        saliency: Saliency,
        solver: Solver,
        *,
        within: Mapping[str, Sequence[int]] | None = None,
        progress: Progress | None = None,
    ) -> Fitted:
        """Cut the network, as measured, to all budgets; see `fit`."""
        first, *also = demands
        return fit(
            self.model,
            self.graph,
            self.example,
            first.table,
            saliency,
            first.budget,
            solver=solver,
            also=also,
            within=within,
            folder=self.folder,
            progress=progress,
            device=self.device,
            ready=self.ready,
        )
