"""Variables are minimised out one by one, so that a sparse sum of tables is minimised exactly.

Bucket elimination: the variable that leaves takes every table over it along, and what remains is
a new table over its neighbours. Channel groups form sparse graphs, so those tables stay small.
Going back, the tables give the minimiser and, for any other choice, how much worse than the
minimum it is, variable by variable.

Source:
    Dechter, "Bucket elimination: a unifying framework for reasoning", Artificial Intelligence
    113, 1999.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latprune.errors import ProblemTooDense
from latprune.knapsack.buckets import Bucket

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from latprune.knapsack.problem import Problem

MEMORY_MIB = 2048


@dataclass(frozen=True, eq=False)
class Relaxed:
    """A weighted sum of costs and values, minimised.

    Attributes:
        buckets: In the order of elimination.
        parts: Per bucket what it adds up.
        leasts: Per bucket [*scope], the least of that.
        minimum: The least sum of all.
    """

    buckets: tuple[Bucket, ...]
    parts: tuple[Sequence[np.ndarray], ...]
    leasts: tuple[np.ndarray, ...]
    minimum: float

    def picks(self) -> list[int]:
        """Give the minimiser; where options tie, the last of them, which is the widest."""
        picks = np.zeros((1, len(self.buckets)), dtype=np.intp)
        for bucket, parts in zip(reversed(self.buckets), reversed(self.parts), strict=True):
            (row,) = bucket.rows(parts, picks)
            picks[0, bucket.variable] = len(row) - 1 - row[::-1].argmin()
        return [int(pick) for pick in picks[0]]

    def regrets(self, position: int, picks: np.ndarray) -> np.ndarray:
        """Give what each option of a bucket's variable adds to the minimum.

        Over all buckets the regrets of a choice add up to its distance from the minimum.

        Args:
            position: Of the bucket, in the order of elimination.
            picks: int [choices, variables], assigned where the bucket's neighbours are.

        Returns:
            Regrets ≥ 0 up to rounding, [choices, options]; inf where forbidden.
        """
        bucket = self.buckets[position]
        rows = bucket.rows(self.parts[position], picks)
        least = self.leasts[position][tuple(picks[:, v] for v in bucket.scope)]
        # Where nothing is allowed, inf is not less inf.
        return rows - np.where(np.isinf(least), 0.0, least)[..., None]


class Elimination:
    """The order in which a problem's variables leave, and its tables sorted by who takes them.

    Made once per problem; `minimise` is then called for many prices.
    """

    def __init__(self, problem: Problem, *, memory_mib: float = MEMORY_MIB) -> None:
        """Find an order.

        Args:
            problem: What is to be minimised over.
            memory_mib: What one call of `minimise` may take.

        Raises:
            ProblemTooDense: If it would take more.
        """
        self.problem = problem
        self.constant_ms = math.fsum(float(cost) for scope, cost in problem.tables if not scope)
        self.buckets = _buckets(problem, _order(problem))
        _check_memory(self.buckets, memory_mib=memory_mib)

    def minimise(self, *, value: float, cost: float) -> Relaxed:
        """Minimise `cost` times the sum of tables minus `value` times the sum of values.

        Args:
            value: Weight of the values, ≥ 0.
            cost: Weight of the tables, ≥ 0; what they forbid stays forbidden at 0.
        """
        every: list[Sequence[np.ndarray]] = []
        leasts: list[np.ndarray] = []
        minimum = cost * self.constant_ms
        for bucket in self.buckets:
            values = -value * self.problem.values[bucket.variable]
            parts = [
                values.reshape([1] * len(bucket.scope) + [-1]),
                *(cost * table for table in bucket.costs),
                *bucket.constraints,
                *(leasts[position].reshape(shape) for position, shape in bucket.received),
            ]
            every.append(parts)
            leasts.append(bucket.least(parts))
            if not bucket.scope:
                minimum += float(leasts[-1])
        return Relaxed(self.buckets, tuple(every), tuple(leasts), minimum)


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


def _check_memory(buckets: Sequence[Bucket], *, memory_mib: float) -> None:
    """Count what is kept, every bucket's least, and the largest bucket while it is summed."""
    kept = sum(math.prod(bucket.shape[:-1]) for bucket in buckets)
    # One sum, and the part or the sum that it was made from.
    passing = 2 * max((bucket.entries for bucket in buckets), default=0)
    needed_mib = (kept + passing) * np.dtype(np.float64).itemsize / 2**20
    if needed_mib > memory_mib:
        raise ProblemTooDense(needed_mib, memory_mib)


def _buckets(problem: Problem, scopes: Mapping[int, tuple[int, ...]]) -> tuple[Bucket, ...]:
    """Give every table, and every bucket's least, to the first of its variables to leave."""
    position = {variable: index for index, variable in enumerate(scopes)}
    costs: dict[int, _Merged] = {v: {} for v in scopes}
    constraints: dict[int, _Merged] = {v: {} for v in scopes}
    received: dict[int, list[tuple[int, tuple[int, ...]]]] = {v: [] for v in scopes}

    def axes_at(taker: int, scope: Sequence[int]) -> tuple[int, ...]:
        dims = (*scopes[taker], taker)
        return tuple(problem.sizes[v] if v in scope else 1 for v in dims)

    for scope, cost in problem.tables:
        if not scope:
            continue
        axes = sorted(range(len(scope)), key=lambda axis: -position[scope[axis]])
        taker = scope[axes[-1]]
        table = cost.transpose(axes).reshape(axes_at(taker, scope))
        forbidden = np.isinf(table)
        if forbidden.any():
            _merge(constraints[taker], np.where(forbidden, np.inf, 0.0))
        _merge(costs[taker], np.where(forbidden, 0.0, table))
    for index, scope in enumerate(scopes.values()):
        if scope:
            received[scope[-1]].append((index, axes_at(scope[-1], scope)))
    return tuple(
        Bucket(
            variable=v,
            scope=scope,
            shape=tuple(problem.sizes[u] for u in (*scope, v)),
            costs=tuple(costs[v].values()),
            constraints=tuple(constraints[v].values()),
            received=tuple(received[v]),
        )
        for v, scope in scopes.items()
    )


_Merged = dict[tuple[int, ...], np.ndarray]


def _merge(tables: _Merged, table: np.ndarray) -> None:
    """Add a table to the one over the same axes; leave out one that is 0 everywhere."""
    if table.any():
        shape = table.shape
        tables[shape] = tables[shape] + table if shape in tables else table
