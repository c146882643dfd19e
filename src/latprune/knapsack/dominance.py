"""Options that another one beats in value and in every table need not be looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from latprune.knapsack.problem import Problem

    Restore = Callable[[Sequence[int]], list[int]]

# Numbers compared per variable, at the most: beyond that looking costs more than it saves.
MOST_COMPARED = 10_000_000
SAMPLED = 16


def undominated(problem: Problem) -> tuple[Problem, Restore]:
    """Leave out options that another of the same variable dominates.

    One option dominates another if it is worth as much or more and costs as much or less in every
    table, whatever the other variables are. Of options that are alike the last one stays.

    Returns:
        The smaller problem, and a function that gives its picks back in the options of the first.
    """
    kept = [_kept(problem, variable) for variable in range(len(problem.values))]
    if all(len(options) == n for options, n in zip(kept, problem.sizes, strict=True)):
        return problem, list
    smaller = replace(
        problem,
        values=[values[options] for values, options in zip(problem.values, kept, strict=True)],
        tables=[
            table._replace(cost_ms=table.cost_ms[np.ix_(*(kept[v] for v in table.scope))])
            for table in problem.tables
        ],
        widths=[
            None if widths is None else widths[options]
            for widths, options in zip(problem.widths, kept, strict=True)
        ],
    )
    return smaller, lambda picks: [int(kept[v][pick]) for v, pick in enumerate(picks)]


def _kept(problem: Problem, variable: int) -> np.ndarray:
    """Give the options of a variable that no other dominates, ascending."""
    options = problem.sizes[variable]
    rows = [-problem.values[variable][:, None]]
    for table in problem.tables:
        if variable in table.scope:
            axis = table.scope.index(variable)
            rows.append(np.moveaxis(table.cost_ms, axis, 0).reshape(options, -1))
    losses = np.concatenate(rows, axis=1)
    if options * losses.size > MOST_COMPARED:
        return np.arange(options)
    # Few options pass a look at some of the columns.
    looked_at = np.linspace(0, losses.shape[1] - 1, SAMPLED).astype(np.intp)
    some = losses[:, looked_at]
    passing: np.ndarray = np.all(some[None] <= some[:, None], axis=-1)
    kept = [
        option
        for option in range(options)
        if not _is_beaten(losses, option, by=np.flatnonzero(passing[option]))
    ]
    return np.array(kept, dtype=np.intp)


def _is_beaten(losses: np.ndarray, option: int, *, by: np.ndarray) -> bool:
    """Whether one of some rows is nowhere above an option's own; of equal ones the last stays."""
    own, others = losses[option], by[by != option]
    if not len(others):
        return False
    others = others[(losses[others] <= own).all(axis=1)]
    return bool((others > option).any() or (losses[others] < own).any())
