"""Every group keeps the same share of its channels: the baseline that users compare with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from latprune.errors import BudgetsTooSmall, BudgetTooSmall
from latprune.knapsack.elimination import Elimination
from latprune.knapsack.problem import Choice, Problem, Table

if TYPE_CHECKING:
    from collections.abc import Sequence


def uniform(problem: Problem) -> Choice:
    """Choose the largest width factor that fits the budget.

    At a factor every group takes its widest option of at most that share of its channels, or its
    narrowest option above 0; auxiliary variables follow at the least cost.

    Args:
        problem: Values, costs, the budget, and the `widths` that the factor applies to.

    Returns:
        A choice within the budget. Its bound is the trivial one: the value of all channels.

    Raises:
        BudgetTooSmall: If no factor fits; it carries the least cost of any factor.
        BudgetsTooSmall: If some factor fits each budget, and none all of them.
        ValueError: If the tables forbid every factor.
    """
    tried_ms: list[tuple[float, ...]] = []
    for factor in reversed(_factors(problem)):
        picks = _follow(problem, _at_factor(problem, factor))
        costs_ms = problem.costs_of(picks)
        if problem.fits(costs_ms):
            return Choice.of(problem, picks, bound=math.fsum(v.max() for v in problem.values))
        if np.isfinite(costs_ms).all():
            tried_ms.append(costs_ms)
    if not tried_ms:
        raise ValueError("the tables forbid every width factor")
    for target, budget_ms in enumerate(problem.budgets_ms):
        least_ms = min(costs_ms[target] for costs_ms in tried_ms)
        if least_ms > budget_ms:
            raise BudgetTooSmall(budget_ms, least_ms, target=target)
    over_ms = np.max(np.array(tried_ms) - problem.budgets_ms, axis=1)
    raise BudgetsTooSmall(problem.budgets_ms, tried_ms[over_ms.argmin()])


def _factors(problem: Problem) -> list[float]:
    """Give the factors at which some group gains an option, ascending."""
    shares = [widths / widths.max() for widths in problem.widths if widths is not None]
    return np.unique(np.concatenate(shares)).tolist() if shares else [1.0]


def _at_factor(problem: Problem, factor: float) -> list[int | None]:
    """Give each group's option at a factor, None for auxiliary variables."""
    return [
        None if widths is None else _widest(widths / widths.max(), factor)
        for widths in problem.widths
    ]


def _widest(shares: np.ndarray, factor: float) -> int:
    """Give the widest option within a factor, else the narrowest; none without channels."""
    some = shares > 0
    allowed = np.where(some & (shares <= factor), shares, -np.inf)
    narrowest = np.where(some, shares, np.inf).argmin()
    return int(allowed.argmax() if np.isfinite(allowed).any() else narrowest)


def _follow(problem: Problem, picks: Sequence[int | None]) -> list[int]:
    """Choose the auxiliary variables at the least cost, the others being what they are."""
    auxiliary = [variable for variable, pick in enumerate(picks) if pick is None]
    position = {variable: index for index, variable in enumerate(auxiliary)}
    pinned = Problem(
        values=[problem.values[variable] for variable in auxiliary],
        tables=[
            Table(
                tuple(position[v] for v in table.scope if picks[v] is None),
                table.cost_ms[
                    tuple(slice(None) if picks[v] is None else picks[v] for v in table.scope)
                ],
                target=table.target,
            )
            for table in problem.tables
        ],
        budget_ms=problem.budget_ms,
        further_ms=problem.further_ms,
    )
    followed = Elimination(pinned).minimise(value=0.0, cost=1.0).picks()
    return [followed[position[v]] if pick is None else pick for v, pick in enumerate(picks)]
