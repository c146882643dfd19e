"""A plan says which channels stay, and what the network is predicted to take without the others.

`plan` frames the network as a knapsack problem, has it solved, and reads the choice back.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from latprune.errors import BudgetTooSmall
from latprune.framing import frame
from latprune.knapsack import Choice, Problem, joint, relative_gap
from latprune.latency.interpolation import layer_cost
from latprune.latency.staircase import options
from latprune.latency.target import Target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from latprune.graph.groups import PruningGraph
    from latprune.knapsack import Solver
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
        dense_value: Saliency of all channels.
        solver: What chose the widths.
        criterion: What scored the channels.
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

    @property
    def widths(self) -> dict[str, int]:
        """How many channels of each group stay."""
        return {group: len(channels) for group, channels in self.kept.items()}

    @property
    def gap(self) -> float:
        """The share of the bound that the plan is not proven to reach: (bound − value) / bound."""
        return relative_gap(self.value, self.bound)

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values."""
        return {
            **vars(self),
            "kept": {group: list(channels) for group, channels in self.kept.items()},
            "target": self.target.to_json(),
            "budget": self.budget.to_json(),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Plan:
        """Read what `to_json` gave, after a trip through JSON text."""
        read = {
            "kept": {group: tuple(channels) for group, channels in fields["kept"].items()},
            "target": Target.from_json(fields["target"]),
            "budget": Budget.from_json(fields["budget"]),
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
) -> Plan:
    """Choose the channels that are worth most together, within a budget.

    Args:
        graph: What can be cut.
        table: What widths cost; holds the dense network, too.
        saliency: What channels are worth.
        budget: What the network may take.
        solver: Chooses one width per group.
        rest_ms: What the network takes beside its layers; by default what the dense network takes
            beside its own.
        aim: The share of the budget to spend, > 0.

    Returns:
        A plan whose predicted latency is at most `aim` times the budget. It keeps everything if
        the dense network was measured to be that fast.

    Raises:
        BudgetTooSmall: If nothing fits; its numbers are the whole network's.
        NotMeasured: If the table lacks the network or what its layers' widths cost.
        ModelMismatch: If `saliency` is another network's.
    """
    if not aim > 0:
        raise ValueError(f"the share of the budget to spend is above 0, not {aim}")
    saliency.check(graph)
    baseline_ms = table.network(graph).median_ms
    budget_ms = budget.in_ms(baseline_ms)
    framing = frame(graph, options(graph, table), functools.partial(layer_cost, table))
    ranked = {group.name: _ranked(saliency.scores[group.name]) for group in graph.groups}
    values = {group: _value(saliency.scores[group][order]) for group, order in ranked.items()}
    everything = framing.problem(values, budget_ms=math.inf)
    dense = Choice.of(everything, framing.dense, bound=everything.value_of(framing.dense))
    if rest_ms is None:
        rest_ms = baseline_ms - dense.cost_ms
    if aim * budget_ms >= baseline_ms:
        choice = dense
    else:
        problem = framing.problem(values, budget_ms=aim * budget_ms - rest_ms)
        choice = _solve(problem, solver, rest_ms=rest_ms)
    widths = framing.widths(choice.picks)
    return Plan(
        kept={group: _first(order, widths[group]) for group, order in ranked.items()},
        target=table.target,
        budget=budget,
        budget_ms=budget_ms,
        baseline_ms=baseline_ms,
        rest_ms=rest_ms,
        predicted_ms=choice.cost_ms + rest_ms,
        value=choice.value,
        bound=choice.bound,
        dense_value=dense.value,
        solver=getattr(solver, "__name__", type(solver).__name__),
        criterion=saliency.criterion,
    )


def _solve(problem: Problem, solver: Solver, *, rest_ms: float) -> Choice:
    """Choose, with totals from the tables and errors about the whole network."""
    try:
        choice = solver(problem)
    except BudgetTooSmall as error:
        raise BudgetTooSmall(error.budget_ms + rest_ms, error.floor_ms + rest_ms) from None
    return Choice.of(problem, choice.picks, bound=choice.bound)


def _ranked(scores: np.ndarray) -> np.ndarray:
    """Give the channels from the most to the least worth; those worth the same by index."""
    return np.argsort(-scores, kind="stable")


def _value(scores: np.ndarray) -> np.ndarray:
    """Give what the first 0, 1, 2, … of these scores add up to."""
    return np.concatenate([[0.0], np.cumsum(scores)])


def _first(ranked: np.ndarray, width: int) -> tuple[int, ...]:
    """Give the first `width` channels, ascending."""
    return tuple(sorted(int(channel) for channel in ranked[:width]))
