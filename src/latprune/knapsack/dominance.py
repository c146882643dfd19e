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
    index = np.arange(options)
    beaten = np.zeros(options, dtype=bool)
    for option, own in enumerate(losses):
        no_worse = (losses <= own).all(axis=1)
        alike = (losses == own).all(axis=1)
        beaten[option] = (no_worse & (~alike | (index > option))).any()
    return index[~beaten]
