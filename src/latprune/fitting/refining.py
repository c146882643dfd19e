"""Plan, measure what the plan costs, plan again: until every layer of the plan is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from latprune.fitting.care import CLOSE
from latprune.knapsack import joint
from latprune.knapsack.joint import BRANCHING_GAP
from latprune.latency.devices.here import HERE
from latprune.latency.measuring import measure
from latprune.latency.sentinel import SENTINEL
from latprune.latency.staircase import options
from latprune.planning import Demand, plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import nn

    from latprune.graph.groups import PruningGraph
    from latprune.knapsack import Solver
    from latprune.latency.devices import Device
    from latprune.latency.table import LatencyTable
    from latprune.planning import Budget, Plan
    from latprune.saliency.scores import Saliency

REFINEMENTS = 8
"""Plans, each with the layers of the one before measured, at the most."""

# Dozens of plans are made on the way: only those that may be the last are worth proving better.
_ON_THE_WAY = partial(joint, search_widths=(64, 512), branches=0)
_AT_THE_END = partial(joint, branches=8)


@dataclass(frozen=True, eq=False)
class Refining:
    """A network to plan for, and what plans and measures; see `fit` for the fields."""

    model: nn.Module
    graph: PruningGraph
    example: torch.Tensor | tuple[torch.Tensor, ...]
    saliency: Saliency
    solver: Solver = joint
    within: Mapping[str, Sequence[int]] | None = None
    folder: Path | None = None
    device: Device = HERE

    def refined(self, demands: Sequence[Demand], *, aim: float) -> tuple[Plan, list[LatencyTable]]:
        """Plan and measure the plan's layers until none of them is new, on any target.

        A layer that was measured is chosen rather than its neighbours if it turned out quicker
        than expected. Where a plan leaves much of the budget, its neighbours are measured, too.
        """
        own = self.solver is joint
        solver, last = (_ON_THE_WAY, _AT_THE_END) if own else (self.solver, self.solver)
        for _ in range(REFINEMENTS):
            first, *also = demands
            planned = plan(
                self.graph,
                first.table,
                self.saliency,
                first.budget,
                solver=solver,
                rest_ms=first.rest_ms,
                dense_ms=first.dense_ms,
                aim=aim,
                also=also,
                within=self.within,
            )
            known = sum(len(demand.table) for demand in demands)
            demands = [self._with_layers(demand, [planned.widths]) for demand in demands]
            new = sum(len(demand.table) for demand in demands) - known
            if not new and _leaves_much(planned, aim):
                demands = [self._with_layers(one, self._wider(one, planned)) for one in demands]
                new = sum(len(demand.table) for demand in demands) - known
            if not new:
                if solver is last or planned.gap <= BRANCHING_GAP:
                    break
                solver = last
        return planned, [demand.table for demand in demands]

    def _wider(self, demand: Demand, planned: Plan) -> list[Mapping[str, int]]:
        """Give the plan's widths with one group at a time at its next option."""
        found: list[Mapping[str, int]] = []
        for group, choices in options(self.graph, demand.table).items():
            wider = [int(width) for width in choices if width > planned.widths[group]]
            widths = {**planned.widths, group: min(wider, default=planned.widths[group])}
            if widths != planned.widths and self.graph.allows(widths):
                found.append(widths)
        return found

    def _with_layers(self, demand: Demand, widths: Sequence[Mapping[str, int]]) -> Demand:
        """Have the layers of these widths in the table, and in its file if it has one."""
        own = demand.table
        shapes = {shape for one in widths for shape in self.graph.shapes_at(one).values()}
        missing = [shape for shape in shapes if shape not in own]
        if not missing:
            return demand
        beside = own.path.parent if own.path is not None else None
        table = measure(
            self.model,
            self.graph,
            self.example,
            own.target,
            widths=widths,
            folder=self.folder or beside,
            device=self.device,
        )
        if table.path == own.path:
            return replace(demand, table=table)
        pace = _pace(own) / _pace(table) if SENTINEL in own and SENTINEL in table else 1.0
        for shape in missing:  # it came from somewhere else, and has a pace of its own
            own.add(shape, table[shape].scaled(pace))
        return demand


def _pace(table: LatencyTable) -> float:
    return table[SENTINEL].median_ms


def _leaves_much(planned: Plan, aim: float) -> bool:
    """Whether more of every budget is left than a network may be off the aim."""
    spent = [planned.predicted_ms / planned.budget_ms]
    spent += [promise.predicted_ms / promise.budget_ms for promise in planned.also]
    return max(spent) < aim - CLOSE


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
    refining = Refining(model, graph, example, saliency, solver, folder=folder, device=device)
    planned, (table, *_) = refining.refined([Demand(table, budget, rest_ms), *also], aim=aim)
    return planned, table
