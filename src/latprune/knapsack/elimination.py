"""Variables are minimised out one by one, so that a sparse sum of tables is minimised exactly.

Bucket elimination: the variable that leaves takes every table over it along, and what remains is
a new table over its neighbours. Channel groups form sparse graphs, so those tables stay small.
What each variable had to choose from is kept: it gives the minimiser and, for any other choice,
how much worse than the minimum it is, variable by variable.

Source:
    Dechter, "Bucket elimination: a unifying framework for reasoning", Artificial Intelligence
    113, 1999.
"""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from latprune.errors import ProblemTooDense

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from latprune.knapsack.problem import Problem

MEMORY_MIB = 2048


@dataclass(frozen=True, eq=False)
class Bucket:
    """A variable at the moment it leaves.

    Attributes:
        variable: The one that leaves.
        scope: Its neighbours that are still there, the last to leave first.
        tables: The costs over it, in ms, with axes (*scope, variable), of which some are 1 long.
        received: Earlier buckets whose minimum is a table over it: their position in the order
            and the shape that gives that minimum the same axes.
    """

    variable: int
    scope: tuple[int, ...]
    tables: tuple[np.ndarray, ...]
    received: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True, eq=False)
class Relaxed:
    """A weighted sum of costs and values, minimised.

    Attributes:
        buckets: In the order of elimination.
        totals: Per bucket, float [*scope, variable]: the least sum of all that is gone by then.
        minimum: The least sum of all.
    """

    buckets: tuple[Bucket, ...]
    totals: tuple[np.ndarray, ...]
    minimum: float

    def picks(self) -> list[int]:
        """Give the minimiser; where options tie, the last of them, which is the widest."""
        picks = [0] * len(self.buckets)
        for bucket, total in zip(reversed(self.buckets), reversed(self.totals), strict=True):
            row = total[tuple(picks[v] for v in bucket.scope)]
            picks[bucket.variable] = len(row) - 1 - int(row[::-1].argmin())
        return picks

    @cached_property
    def regrets(self) -> tuple[np.ndarray, ...]:
        """Per bucket, float [*scope, variable] ≥ 0: what an option adds to the minimum."""
        return tuple(_regret(total) for total in self.totals)


def _regret(total: np.ndarray) -> np.ndarray:
    least = total.min(axis=-1, keepdims=True)
    return np.where(np.isinf(total), np.inf, total - np.where(np.isinf(least), 0.0, least))


class Elimination:
    """The order in which a problem's variables leave, and its tables sorted by who takes them.

    Made once per problem; `minimise` is then called for many prices.
    """

    def __init__(self, problem: Problem, *, memory_mib: float = MEMORY_MIB) -> None:
        """Find an order.

        Args:
            problem: What is to be minimised over.
            memory_mib: What the tables of one pass may take together.

        Raises:
            ProblemTooDense: If they would take more.
        """
        self.problem = problem
        self.constant_ms = math.fsum(float(cost) for scope, cost in problem.tables if not scope)
        scopes = _order(problem)
        _check_memory(problem.sizes, scopes, memory_mib=memory_mib)
        self.buckets = _buckets(problem, scopes)

    def minimise(self, *, value: float, cost: float) -> Relaxed:
        """Minimise `cost` times the sum of tables minus `value` times the sum of values.

        Args:
            value: Weight of the values, ≥ 0.
            cost: Weight of the tables, ≥ 0; what they forbid stays forbidden at 0.
        """
        totals: list[np.ndarray] = []
        leasts: list[np.ndarray] = []
        minimum = cost * self.constant_ms
        for bucket in self.buckets:
            parts = [-value * self.problem.values[bucket.variable]]
            parts += [_weighted(table, cost) for table in bucket.tables]
            parts += [leasts[position].reshape(shape) for position, shape in bucket.received]
            # Smallest first: only the last additions then run over the full shape.
            total = functools.reduce(operator.add, sorted(parts, key=np.size))
            totals.append(total)
            leasts.append(total.min(axis=-1))
            if not bucket.scope:
                minimum += float(leasts[-1])
        return Relaxed(self.buckets, tuple(totals), minimum)


def _weighted(table: np.ndarray, weight: float) -> np.ndarray:
    """Scale a table; 0 times inf is inf, for what is forbidden is so at every price."""
    if weight:
        return table * weight
    return np.where(np.isinf(table), np.inf, 0.0)


def _order(problem: Problem) -> dict[int, tuple[int, ...]]:
    """Let the variable leave next whose bucket is smallest.

    Returns:
        The variables in that order, each with its neighbours when it leaves, those that leave
        last first.
    """
    sizes = problem.sizes
    neighbours: list[set[int]] = [set() for _ in sizes]
    for scope, _ in problem.tables:
        for variable in scope:
            neighbours[variable].update(set(scope) - {variable})

    def entries(variable: int) -> int:
        return sizes[variable] * math.prod(sizes[v] for v in neighbours[variable])

    alive = {variable: entries(variable) for variable in range(len(sizes))}
    order: dict[int, set[int]] = {}
    while alive:
        variable = min(alive, key=lambda v: (alive[v], v))
        del alive[variable]
        order[variable] = neighbours[variable]
        for other in neighbours[variable]:
            neighbours[other] = (neighbours[other] | neighbours[variable]) - {other, variable}
            alive[other] = entries(other)
    position = {variable: index for index, variable in enumerate(order)}
    return {v: tuple(sorted(around, key=lambda u: -position[u])) for v, around in order.items()}


def _check_memory(
    sizes: Sequence[int], scopes: Mapping[int, tuple[int, ...]], *, memory_mib: float
) -> None:
    entries = sum(sizes[v] * math.prod(sizes[u] for u in scope) for v, scope in scopes.items())
    needed_mib = entries * np.dtype(np.float64).itemsize / 2**20
    if needed_mib > memory_mib:
        raise ProblemTooDense(needed_mib, memory_mib)


def _buckets(problem: Problem, scopes: Mapping[int, tuple[int, ...]]) -> tuple[Bucket, ...]:
    """Give every table, and every bucket's minimum, to the first of its variables to leave."""
    position = {variable: index for index, variable in enumerate(scopes)}
    tables: dict[int, dict[tuple[int, ...], np.ndarray]] = {v: {} for v in scopes}
    received: dict[int, list[tuple[int, tuple[int, ...]]]] = {v: [] for v in scopes}

    def axes_at(taker: int, scope: Sequence[int]) -> tuple[int, ...]:
        dims = (*scopes[taker], taker)
        return tuple(problem.sizes[v] if v in scope else 1 for v in dims)

    for scope, cost in problem.tables:
        if not scope:
            continue
        axes = sorted(range(len(scope)), key=lambda axis: -position[scope[axis]])
        taker = scope[axes[-1]]
        shape = axes_at(taker, scope)
        table = cost.transpose(axes).reshape(shape)
        merged = tables[taker]
        merged[shape] = merged[shape] + table if shape in merged else table
    for index, scope in enumerate(scopes.values()):
        if scope:
            received[scope[-1]].append((index, axes_at(scope[-1], scope)))
    return tuple(
        Bucket(v, scope, tuple(tables[v].values()), tuple(received[v]))
        for v, scope in scopes.items()
    )
