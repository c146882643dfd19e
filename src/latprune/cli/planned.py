"""What a budget would do to a network, without cutting it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from latprune.batches import first
from latprune.fitting import refine
from latprune.graph.tracing import trace
from latprune.latency.devices.here import HERE
from latprune.latency.measuring import measure, outlook
from latprune.planning import Demand
from latprune.report.counting import network_macs
from latprune.report.text import widths_table
from latprune.report.wording import count, percent
from latprune.saliency import scored
from latprune.tuning import cross_entropy
from latprune.tuning.losses import distil_beside

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType
    from torch import Tensor, nn

    from latprune.cli.job import Network
    from latprune.distances import Distil
    from latprune.graph.groups import PruningGraph
    from latprune.knapsack import Solver
    from latprune.latency.devices import Device
    from latprune.latency.table import LatencyTable
    from latprune.latency.target import Target
    from latprune.planning import Budget, Plan, Promise
    from latprune.progress import Progress
    from latprune.saliency import Saliency
    from latprune.tuning.losses import Loss
    from latprune.tuning.replay import Batches

SCORE_BATCHES = 16


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan and the network that it is for."""

    plan: Plan
    graph: PruningGraph

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """Per channel group its width before and after."""
        after = self.plan.widths
        return {name: (before, after[name]) for name, before in self.graph.widths.items()}

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-accumulates before and after."""
        widths = (self.graph.widths, self.plan.widths)
        before, after = (network_macs(self.graph, at) for at in widths)
        return before, after

    def to_json(self) -> dict[str, Any]:
        """Give the plan as JSON values, with widths instead of channels."""
        facts = {**self.plan.to_json(), "gap": self.plan.gap, "macs": list(self.macs)}
        del facts["kept"]
        return {**facts, "widths": {name: list(pair) for name, pair in self.widths.items()}}

    def render(self) -> RenderableType:
        """Give the plan as something that a rich console prints."""
        plan, (before, after) = self.plan, self.macs
        return Group(
            Text(f"latprune on {plan.target.describe()}", style="bold"),
            Text(_prediction(plan)),
            *(Text(f"{_prediction(also)}, {also.target.describe()}") for also in plan.also),
            Text(f"MACs {count(before)} → {count(after)}"),
            Text(f"saliency kept {percent(kept_share(plan))} ({plan.criterion}), {_proof(plan)}"),
            widths_table(self.widths),
        )


def _prediction(promise: Plan | Promise) -> str:
    """Say what a network takes, and what its cut is to take."""
    return (
        f"{promise.baseline_ms:.3f} ms measured → {promise.predicted_ms:.3f} ms predicted "
        f"({percent(promise.predicted_ms / promise.baseline_ms)}; budget {promise.budget})"
    )


def _proof(plan: Plan) -> str:
    """Say how good a plan is known to be, and what a little more time would buy."""
    said = f"proven gap {100 * plan.gap:.3f} % ({plan.solver})"
    if math.isnan(plan.price_ms):
        return said
    return f"{said}, the next 0.1 ms would buy {percent(bought_share(plan))}"


def kept_share(plan: Plan) -> float:
    """Give the share of the saliency that a plan keeps: all, where there is none to lose."""
    return plan.value / plan.dense_value if plan.dense_value else 1.0


def bought_share(plan: Plan) -> float:
    """Give the share of the saliency that 0.1 ms more would buy back."""
    return 0.1 * plan.price_ms / plan.dense_value if plan.dense_value else 0.0


@dataclass(frozen=True, eq=False)
class Known:
    """What planning starts from."""

    model: nn.Module
    example: Tensor
    graph: PruningGraph
    table: LatencyTable
    saliency: Saliency
    device: Device = HERE


def look(
    network: Network,
    target: Target,
    *,
    criterion: str,
    loader: Batches | None,
    keep: Sequence[str],
    branches: bool = False,
    progress: Progress,
    loss: Loss = cross_entropy,
    distil: Distil | None = None,
    device: Device = HERE,
) -> Known:
    """Trace, measure and score."""
    model, example = network.model, network.example(target.batch)
    progress.stage("trace")
    graph = trace(model, example, keep=keep, branches=branches)
    table = _measured(model, graph, example, target, device, progress)
    progress.stage("score")
    batches = None if loader is None else first(loader, SCORE_BATCHES, seed=0)
    distil = distil_beside(loss, distil)
    saliency = scored(criterion, model, graph, batches, loss, distil=distil, progress=progress)
    return Known(model, example, graph, table, saliency, device)


def _measured(
    model: nn.Module,
    graph: PruningGraph,
    example: Tensor,
    target: Target,
    device: Device,
    progress: Progress,
) -> LatencyTable:
    progress.stage(f"measure ({outlook(graph, device.table(target))})")
    return measure(model, graph, example, target, progress=progress.step, device=device)


def choose(
    known: Known,
    budget: Budget,
    *,
    also: Mapping[Target, Budget],
    solver: Solver,
    progress: Progress,
) -> Planned:
    """Plan, until every layer of the plan is measured on every target.

    Raises:
        BudgetTooSmall: If no network fits.
        BudgetsTooSmall: If none fits into all of several.
    """
    network = known.model, known.graph, known.example
    demands = [
        Demand(_measured(*network, target, known.device, progress), further)
        for target, further in also.items()
    ]
    progress.stage("plan")
    planned, _ = refine(
        known.model,
        known.graph,
        known.example,
        known.table,
        known.saliency,
        budget,
        also=demands,
        solver=solver,
        device=known.device,
    )
    return Planned(planned, known.graph)
