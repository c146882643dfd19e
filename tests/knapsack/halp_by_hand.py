"""HALP as it is told: one group, one item and one tick after the other. Slow, and easy to check.

Of Shen et al., "Structural Pruning via Latency-Saliency Knapsack", NeurIPS 2022; groups take turns
as `in_turn` says, which the paper leaves open.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from latprune.errors import BudgetTooSmall
from latprune.knapsack.ordering import in_turn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from latprune.knapsack import Problem, Table


class Network(NamedTuple):
    """A problem, taken apart.

    Attributes:
        problem: Its auxiliary variables are determined by the groups.
        groups: The other variables, in the order of their turns.
        layers: Tables that price a variable's channels, and that variable.
        ties: Tables that say which options go together.
    """

    problem: Problem
    groups: list[int]
    layers: list[tuple[Table, int]]
    ties: list[Table]

    @classmethod
    def of(cls, problem: Problem) -> Network:
        groups = [v for v, widths in enumerate(problem.widths) if widths is not None]
        ties = [table for table in problem.tables if is_tie(table)]
        layers = [
            (table, table.scope[table.writes])
            for table in problem.tables
            if table.writes is not None and not is_tie(table)
        ]
        return cls(problem, in_turn(problem, groups), layers, ties)


class Rung(NamedTuple):
    """An option that is offered, and what the layers cost that its group writes."""

    option: int
    layers_ms: float


class Item(NamedTuple):
    """What one rung adds to the rung below."""

    importance: float
    ticks: int


def halp_by_hand(problem: Problem, *, steps: int, tick_ms: float) -> list[int]:
    """Choose one option per variable; auxiliary ones must be determined by the groups.

    Raises:
        BudgetTooSmall: If no step fits the budget; it carries the least cost of any step.
    """
    network = Network.of(problem)
    picks = followed(network, {group: problem.sizes[group] - 1 for group in network.groups})
    met = [picks]
    dense_ms, budget_ms = problem.cost_of(picks), problem.budget_ms
    if dense_ms <= budget_ms:
        return picks

    for step in range(1, steps + 1):
        if step == steps:
            step_ms = budget_ms
        elif dense_ms > 0 and budget_ms > 0:
            step_ms = dense_ms * (budget_ms / dense_ms) ** (step / steps)
        else:
            step_ms = step / steps * budget_ms + (1 - step / steps) * dense_ms
        met.append(one_step(network, met[-1], step_ms, tick_ms=tick_ms, less_ticks=0))

    less_ticks = 1
    while problem.cost_of(met[-1]) > budget_ms:
        if all(ladder(network, met[-1], g)[0].option == met[-1][g] for g in network.groups):
            break
        met.append(one_step(network, met[-1], budget_ms, tick_ms=tick_ms, less_ticks=less_ticks))
        less_ticks *= 2

    for picks in (met[-1], min(met, key=problem.cost_of)):
        if problem.cost_of(picks) <= budget_ms:
            return picks
    raise BudgetTooSmall(budget_ms, min(problem.cost_of(picks) for picks in met))


def one_step(
    network: Network,
    picks: Sequence[int],
    step_ms: float,
    *,
    tick_ms: float,
    less_ticks: int,
) -> list[int]:
    """Price at the present widths, fill the knapsack, and keep what is in."""
    problem, groups = network.problem, network.groups
    ladders = {group: ladder(network, picks, group) for group in groups}
    fixed_ms = problem.cost_of(picks)
    items: list[list[Item]] = []
    for group in groups:
        items.append([])
        for lower, upper in zip(ladders[group], ladders[group][1:], strict=False):
            values = problem.values[group]
            added_ms = upper.layers_ms - lower.layers_ms
            fixed_ms -= added_ms
            items[-1].append(
                Item(float(values[upper.option] - values[lower.option]), round(added_ms / tick_ms))
            )
    # More than all items cost is of no use; less than nothing leaves the narrowest options.
    most_ticks = sum(max(0, item.ticks) for of_group in items for item in of_group)
    capacity = round(max(-1, min((step_ms - fixed_ms) / tick_ms, most_ticks))) - less_ticks
    counts = fill(items, capacity) if capacity >= 0 else [0] * len(groups)
    return followed(
        network,
        {group: ladders[group][count].option for group, count in zip(groups, counts, strict=True)},
    )


def fill(groups: Sequence[Sequence[Item]], capacity: int) -> list[int]:
    """Give how many items of each group are in the packing found at the capacity."""
    top = capacity + sum(max(0, -item.ticks) for items in groups for item in items)
    best = [0.0] * (top + 1)
    packed: list[tuple[int, ...]] = [()] * (top + 1)
    for items in groups:
        kept = [0] * (top + 1)
        for j, (importance, ticks) in enumerate(items, start=1):
            best_before, kept_before, packed_before = list(best), list(kept), list(packed)
            for c in range(max(0, ticks), min(top, top + ticks) + 1):
                siblings_are_in = kept_before[c - ticks] == j - 1
                if siblings_are_in and best_before[c - ticks] + importance > best_before[c]:
                    best[c] = best_before[c - ticks] + importance
                    kept[c] = j
                    packed[c] = packed_before[c - ticks]
        packed = [(*earlier, count) for earlier, count in zip(packed, kept, strict=True)]
    return list(packed[capacity])


def ladder(network: Network, picks: Sequence[int], group: int) -> list[Rung]:
    """Give a group's options up to the present one that the tables allow."""
    problem = network.problem
    groups = {v: picks[v] for v in network.groups}
    at = [followed(network, groups | {group: option}) for option in range(problem.sizes[group])]
    moving = {group} | {v for p in at for v in range(len(p)) if p[v] != picks[v]}
    rungs = []
    for option in range(picks[group] + 1):
        changed_ms = layers_ms = 0.0
        for table in problem.tables:
            if moving.intersection(table.scope):
                changed_ms += float(table.cost_ms[tuple(at[option][v] for v in table.scope)])
        for table, output in network.layers:
            if output in moving:
                # Only the output is narrower; inputs are as they are now.
                index = tuple((at[option] if v == output else picks)[v] for v in table.scope)
                layers_ms += float(table.cost_ms[index])
        if math.isfinite(changed_ms) and math.isfinite(layers_ms):
            rungs.append(Rung(option, layers_ms))
    return rungs or [Rung(picks[group], math.inf)]


def is_tie(table: Table) -> bool:
    """Say whether a table is no layer, but says which options go together."""
    return bool(np.isin(table.cost_ms, (0.0, math.inf)).all())


def followed(network: Network, groups: Mapping[int, int]) -> list[int]:
    """Give all picks, those of auxiliary variables from the tables that tie them."""
    picks = dict(groups)
    while len(picks) < len(network.problem.values):
        for table in network.ties:
            unknown = [v for v in table.scope if v not in picks]
            if len(unknown) == 1:
                options = table.cost_ms[tuple(picks.get(v, slice(None)) for v in table.scope)]
                allowed = np.flatnonzero(options == 0).tolist()
                if len(allowed) == 1:
                    (picks[unknown[0]],) = allowed
    return [picks[variable] for variable in range(len(network.problem.values))]
