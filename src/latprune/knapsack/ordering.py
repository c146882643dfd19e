"""Variables take turns in an order that does not depend on how they are numbered.

What a solver finds step by step depends on who comes first. The same network must give the same
widths however its groups are listed, so the groups themselves say who that is: the most valuable
one, and among those of the same values the one that stands out by its tables, or by what its
neighbours look like.

Source:
    Colour refinement: Weisfeiler and Leman, "The reduction of a graph to canonical form and the
    algebra which appears therein", 1968.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latprune.knapsack.problem import Problem, Table


def in_turn(problem: Problem, variables: Sequence[int]) -> list[int]:
    """Order variables, the most valuable first.

    Args:
        problem: Its units of time and value do not change the order.
        variables: Those to order. The order of such as are alike in every way, as two branches
            with equal values and costs are, changes nothing but their names.
    """
    ranks = _ranked([_looks(problem, variable) for variable in range(len(problem.values))])
    if len({ranks[v] for v in variables}) < len(variables):
        ranks = _told_apart(problem, variables, ranks)
    return sorted(variables, key=ranks.__getitem__)


def _looks(problem: Problem, variable: int) -> tuple[Any, ...]:
    values, widths = problem.values[variable], problem.widths[variable]
    return -values.max(), values.tolist(), [] if widths is None else widths.tolist()


def _told_apart(problem: Problem, variables: Sequence[int], ranks: list[int]) -> list[int]:
    tables = _ranked([_fingerprint(table) for table in problem.tables])
    while True:
        ranks = _refined(problem, tables, ranks)
        shared = [rank for rank, n in Counter(ranks[v] for v in variables).items() if n > 1]
        if not shared:
            return ranks
        # All that share a rank now are alike, so any may be the first.
        first = next(v for v in variables if ranks[v] == min(shared))
        ranks = _ranked([(rank, v != first) for v, rank in enumerate(ranks)])


def _refined(problem: Problem, tables: Sequence[int], ranks: list[int]) -> list[int]:
    """Tell variables apart by their tables and neighbours, until that tells no more apart."""
    while True:
        seen: list[list[tuple[Any, ...]]] = [[] for _ in ranks]
        for table, alike in zip(problem.tables, tables, strict=True):
            for position, variable in enumerate(table.scope):
                seen[variable].append((alike, position, [ranks[v] for v in table.scope]))
        finer = _ranked([(rank, sorted(own)) for rank, own in zip(ranks, seen, strict=True)])
        if max(finer) == max(ranks):
            return finer
        ranks = finer


def _fingerprint(table: Table) -> tuple[Any, ...]:
    """Sum a table up in a few numbers that hardly any other table has."""
    flat = table.cost_ms.ravel()
    allowed = np.isfinite(flat)
    weights = np.cos(np.arange(flat.size))
    sums = float((np.where(allowed, flat, 0.0) * weights).sum()), float(weights[allowed].sum())
    written = -1 if table.writes is None else table.writes % len(table.scope)
    return table.cost_ms.shape, table.target, written, *sums


def _ranked(keys: Sequence[Any]) -> list[int]:
    """Number keys in their order; equal ones alike."""
    ordered = sorted(range(len(keys)), key=keys.__getitem__)
    ranks = [0] * len(keys)
    for before, after in pairwise(ordered):
        ranks[after] = ranks[before] + (keys[after] != keys[before])
    return ranks
