"""Small knapsack problems of every kind, and their answers by trying everything."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from latprune.errors import BudgetTooSmall
from latprune.knapsack import Choice, Problem, Table

if TYPE_CHECKING:
    from collections.abc import Sequence


@st.composite
def problems(draw: st.DrawFn, *, feasible: bool = True, targets: int = 1) -> Problem:
    """Draw small problems of every kind that a network can give.

    Costs may be negative, forbidden, constant or not monotone; scopes repeat and come in any
    order; variables may have one option, no table, or be the sum of two others.

    Args:
        draw: Hypothesis's.
        feasible: Whether the budget allows something; else it is below the floor.
        targets: How many budgets there are; several need not all be met at once.
    """
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    values = [draw(_numbers(n, -16, 400)) / 8 for n in sizes]
    widths = [np.cumsum(draw(_numbers(n, 1, 4))) for n in sizes]
    tables = draw(st.lists(_tables(sizes), max_size=6))
    tables = [_allowed(table, draw) for table in tables]
    auxiliary = len(sizes) > 1 and draw(st.booleans())
    if auxiliary:
        first, second = draw(st.permutations(range(len(sizes))))[:2]
        totals = np.add.outer(widths[first], widths[second])
        sums = np.unique(totals)
        tables.append(
            Table((first, second, len(sizes)), np.where(totals[..., None] == sums, 0.0, np.inf))
        )
        tables.append(Table((len(sizes),), draw(_numbers(len(sums), -8, 80)) / 4))
        values.append(np.zeros(len(sums)))
    of_target = draw(_numbers(len(tables), 0, targets - 1))
    tables = [t._replace(target=int(k)) for t, k in zip(tables, of_target, strict=True)]
    anything = [math.inf] * (targets - 1)
    problem = Problem(
        values, tables, math.inf, [*widths, None] if auxiliary else widths, further_ms=anything
    )
    budgets_ms = []
    for target in range(targets):
        costs = all_costs(problem, target=target)
        low, high = costs.min(), costs[np.isfinite(costs)].max()
        share = draw(st.integers(0, 18)) / 16
        budgets_ms.append(float(low + share * (high - low) if feasible else low - 0.25 - share))
    return replace(problem, budget_ms=budgets_ms[0], further_ms=budgets_ms[1:])


def _numbers(count: int, low: int, high: int) -> st.SearchStrategy[np.ndarray]:
    """Draw integers from bytes, which is many times faster than one by one."""
    drawn = st.binary(min_size=2 * count, max_size=2 * count)
    return drawn.map(lambda raw: low + np.frombuffer(raw, np.uint16).astype(int) % (high - low + 1))


def _tables(sizes: Sequence[int]) -> st.SearchStrategy[Table]:
    """Draw a table over up to three variables; sums of its eighths are exact."""

    def over(scope: tuple[int, ...]) -> st.SearchStrategy[Table]:
        shape = tuple(sizes[v] for v in scope)
        costs = _numbers(math.prod(shape), -8, 80)
        return costs.map(lambda flat: Table(scope, flat.reshape(shape) / 8))

    scopes = st.sampled_from(
        [p for count in range(4) for p in itertools.permutations(range(len(sizes)), count)]
    )
    return scopes.flatmap(over)


def _allowed(table: Table, draw: st.DrawFn) -> Table:
    """Forbid some of a table's combinations, never that of the last options."""
    if table.cost_ms.size < 2 or not draw(st.booleans()):
        return table
    forbidden = np.zeros(table.cost_ms.size, dtype=bool)
    forbidden[:-1] = draw(_numbers(table.cost_ms.size - 1, 0, 3)) == 3
    return Table(
        table.scope, np.where(forbidden.reshape(table.cost_ms.shape), np.inf, table.cost_ms)
    )


def all_costs(problem: Problem, *, target: int = 0) -> np.ndarray:
    """Give the cost of every combination, [options of variable 0, of 1, …]."""
    total = np.zeros(problem.sizes)
    for scope, cost, _, _ in problem.tables_of(target):
        axes = np.argsort(scope)
        shape = [n if v in scope else 1 for v, n in enumerate(problem.sizes)]
        total = total + np.transpose(cost, axes).reshape(shape)
    return total


def exhaustive(problem: Problem) -> Choice:
    """Choose by trying everything: the independent answer for small problems.

    Raises:
        BudgetTooSmall: If nothing fits.
    """
    every = [all_costs(problem, target=target) for target in range(len(problem.budgets_ms))]
    fits = np.logical_and.reduce(
        [np.isfinite(c) & (c <= ms) for c, ms in zip(every, problem.budgets_ms, strict=True)]
    )
    if not fits.any():
        raise BudgetTooSmall(problem.budget_ms, float(every[0].min()))
    values = np.zeros(problem.sizes)
    for variable, of_options in enumerate(problem.values):
        values += np.expand_dims(of_options, tuple(v for v in range(values.ndim) if v != variable))
    best = np.where(fits, values, -np.inf).argmax()
    picks = [int(index) for index in np.unravel_index(best, problem.sizes)]
    return Choice.of(problem, picks, bound=problem.value_of(picks))
