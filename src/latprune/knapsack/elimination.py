"""Variables are minimised out one by one, so that a sparse sum of tables is minimised exactly.

Bucket elimination: the variable that leaves takes every table over it along, and what remains is
a new table over its neighbours. Channel groups form sparse graphs, so those tables stay small.
Going back, the tables give the minimiser and, for any other choice, how much worse than the
minimum it is, variable by variable.

Where too many variables meet, a bucket is split: each part lets the variable leave on its own, as
if it had several widths at once. What comes out is a lower bound of the minimum instead, and the
distances of choices are distances from that.

Source:
    Dechter, "Bucket elimination: a unifying framework for reasoning", Artificial Intelligence
    113, 1999; Dechter and Rish, "Mini-buckets: a general scheme for bounded inference", Journal of
    the ACM 50, 2003.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from latprune.errors import ProblemTooDense
from latprune.knapsack.buckets import Bucket

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from latprune.knapsack.problem import Problem, Table

MEMORY_MIB = 2048


@dataclass(frozen=True, eq=False)
class Relaxed:
    """A weighted sum of costs and values, minimised.

    Attributes:
        buckets: In the order of elimination; a variable may have several.
        parts: Per bucket what it adds up.
        leasts: Per bucket [*scope], the least of that.
        minimum: The least sum of all; a lower bound of it if a variable has several buckets.
    """

    buckets: tuple[Bucket, ...]
    parts: tuple[Sequence[np.ndarray], ...]
    leasts: tuple[np.ndarray, ...]
    minimum: float

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The variables, in the order of elimination."""
        return tuple(dict.fromkeys(bucket.variable for bucket in self.buckets))

    @cached_property
    def _of_variable(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for index, bucket in enumerate(self.buckets):
            found.setdefault(bucket.variable, []).append(index)
        return found

    def picks(self) -> list[int]:
        """Give the minimiser; where options tie, the last of them, which is the widest."""
        picks = np.zeros((1, len(self.order)), dtype=np.intp)
        for variable in reversed(self.order):
            (row,) = self._rows(variable, picks)
            picks[0, variable] = len(row) - 1 - row[::-1].argmin()
        return [int(pick) for pick in picks[0]]

    def regrets(self, position: int, picks: np.ndarray) -> np.ndarray:
        """Give what each option of a variable adds to the minimum.

        Over all variables the regrets of a choice add up to its distance from the minimum.

        Args:
            position: Of the variable, in the order of elimination.
            picks: int [choices, variables], assigned where the variable's neighbours are.

        Returns:
            Regrets ≥ 0 up to rounding, [choices, options]; inf where forbidden.
        """
        variable = self.order[position]
        least = np.zeros(len(picks))
        for index in self._of_variable[variable]:
            least = (
                least + self.leasts[index][tuple(picks[:, v] for v in self.buckets[index].scope)]
            )
        # Where nothing is allowed, inf is not less inf.
        return self._rows(variable, picks) - np.where(np.isinf(least), 0.0, least)[..., None]

    def _rows(self, variable: int, picks: np.ndarray) -> np.ndarray:
        """Add up all that is known of a variable's options, [choices, options]."""
        indices = self._of_variable[variable]
        return reduce(add, (self.buckets[i].rows(self.parts[i], picks) for i in indices))


class Elimination:
    """The order in which a problem's variables leave, and its tables sorted by who takes them.

    Made once per problem; `minimise` is then called for many prices.

    Attributes:
        exact: Whether minima are; else they are lower bounds, since buckets were split.
    """

    def __init__(
        self, problem: Problem, *, memory_mib: float = MEMORY_MIB, split: bool = False
    ) -> None:
        """Find an order.

        Args:
            problem: What is to be minimised over.
            memory_mib: What one call of `minimise` may take.
            split: Split buckets rather than refuse the problem.

        Raises:
            ProblemTooDense: If it would take more.
        """
        self.problem = problem
        self.constants_ms = tuple(
            math.fsum(float(t.cost_ms) for t in problem.tables_of(target) if not t.scope)
            for target in range(len(problem.budgets_ms))
        )
        order = _order(problem)
        self.buckets = _buckets(problem, order)
        self.exact, self.needed_mib = True, _memory_mib(self.buckets)
        if self.needed_mib > memory_mib:
            if not split:
                raise ProblemTooDense(self.needed_mib, memory_mib)
            self.exact = False
            self.buckets = _split(problem, order, memory_mib=memory_mib)

    def minimise(self, *, value: float, cost: float | Sequence[float]) -> Relaxed:
        """Minimise `cost` times the sum of tables minus `value` times the sum of values.

        Args:
            value: Weight of the values, ≥ 0.
            cost: Weight of the tables, ≥ 0, one per target or one for all; what they forbid
                stays forbidden at 0.
        """
        weights = np.broadcast_to(np.asarray(cost, dtype=float), len(self.constants_ms))
        every: list[Sequence[np.ndarray]] = []
        leasts: list[np.ndarray] = []
        minimum = float(weights @ self.constants_ms)
        for bucket in self.buckets:
            parts = [
                *(weights[target] * table for target, table in bucket.costs),
                *bucket.constraints,
                *(leasts[position].reshape(shape) for position, shape in bucket.received),
            ]
            # Of several buckets of a variable one counts its values, the others nothing.
            values = -value * bucket.has_values * self.problem.values[bucket.variable]
            parts.insert(0, values.reshape([1] * len(bucket.scope) + [-1]))
            every.append(parts)
            leasts.append(bucket.least(parts))
            if not bucket.scope:
                minimum += float(leasts[-1])
        return Relaxed(self.buckets, tuple(every), tuple(leasts), minimum)


def _order(problem: Problem) -> list[int]:
    """Let the variable leave next whose bucket is smallest; give the variables in that order."""
    sizes = problem.sizes
    neighbours: list[set[int]] = [set() for _ in sizes]
    for table in problem.tables:
        for variable in table.scope:
            neighbours[variable].update(set(table.scope) - {variable})

    def entries(variable: int) -> int:
        return sizes[variable] * math.prod(sizes[v] for v in neighbours[variable])

    alive = {variable: entries(variable) for variable in range(len(sizes))}
    order: list[int] = []
    while alive:
        variable = min(alive, key=lambda v: (alive[v], v))
        del alive[variable]
        order.append(variable)
        for other in neighbours[variable]:
            neighbours[other] = (neighbours[other] | neighbours[variable]) - {other, variable}
            alive[other] = entries(other)
    return order


def _memory_mib(buckets: Sequence[Bucket]) -> float:
    """Count what is kept, every bucket's least, and the largest bucket while it is summed."""
    kept = sum(math.prod(bucket.shape[:-1]) for bucket in buckets)
    # One sum, and the part or the sum that it was made from.
    passing = 2 * max((bucket.entries for bucket in buckets), default=0)
    return (kept + passing) * np.dtype(np.float64).itemsize / 2**20


def _split(problem: Problem, order: Sequence[int], *, memory_mib: float) -> tuple[Bucket, ...]:
    """Split buckets until all fit the memory, or nothing is left to split."""
    most_entries = memory_mib * 2**20 / np.dtype(np.float64).itemsize / 2
    largest = max((table.cost_ms.size for table in problem.tables), default=1)
    while True:
        buckets = _buckets(problem, order, most_entries=most_entries)
        if _memory_mib(buckets) <= memory_mib or most_entries <= largest:
            return buckets
        most_entries /= 2


class _Piece(NamedTuple):
    """A table, or the least of an earlier bucket, over some variables."""

    scope: tuple[int, ...]
    table: Table | None = None
    bucket: int = -1


def _buckets(
    problem: Problem, order: Sequence[int], *, most_entries: float = math.inf
) -> tuple[Bucket, ...]:
    """Give every table, and every bucket's least, to the first of its variables to leave."""
    position = {variable: index for index, variable in enumerate(order)}
    waiting: dict[int, list[_Piece]] = {variable: [] for variable in order}

    def hand_on(piece: _Piece) -> None:
        if piece.scope:
            waiting[min(piece.scope, key=position.__getitem__)].append(piece)

    for table in problem.tables:
        hand_on(_Piece(table.scope, table))
    buckets: list[Bucket] = []
    for variable in order:
        for pieces in _shared_out(waiting[variable], variable, problem.sizes, most_entries):
            around = {v for piece in pieces for v in piece.scope} - {variable}
            scope = tuple(sorted(around, key=lambda v: -position[v]))
            has_values = not buckets or buckets[-1].variable != variable
            buckets.append(_bucket(problem, variable, scope, pieces, has_values=has_values))
            hand_on(_Piece(scope, bucket=len(buckets) - 1))
    return tuple(buckets)


def _shared_out(
    pieces: Sequence[_Piece], variable: int, sizes: Sequence[int], most_entries: float
) -> list[list[_Piece]]:
    """Put each piece, the largest first, where it first fits; all together if they all do."""

    def entries(scope: Iterable[int]) -> int:
        return math.prod(sizes[v] for v in scope)

    if math.isinf(most_entries):
        return [list(pieces)]
    shares: list[list[_Piece]] = [[]]
    scopes: list[set[int]] = [{variable}]
    for piece in sorted(pieces, key=lambda piece: -entries(piece.scope)):
        for share, scope in zip(shares, scopes, strict=True):
            if not share or entries(scope.union(piece.scope)) <= most_entries:
                share.append(piece)
                scope.update(piece.scope)
                break
        else:
            shares.append([piece])
            scopes.append({variable, *piece.scope})
    return shares


def _bucket(
    problem: Problem,
    variable: int,
    scope: tuple[int, ...],
    pieces: Sequence[_Piece],
    *,
    has_values: bool,
) -> Bucket:
    """Lay all pieces out along the same axes."""
    dims = (*scope, variable)
    costs: _Merged = {}
    constraints: _Merged = {}
    received: list[tuple[int, tuple[int, ...]]] = []
    for piece in pieces:
        shape = tuple(problem.sizes[v] if v in piece.scope else 1 for v in dims)
        if piece.table is None:
            received.append((piece.bucket, shape))
            continue
        axes = sorted(range(len(piece.scope)), key=lambda axis: dims.index(piece.scope[axis]))
        table = piece.table.cost_ms.transpose(axes).reshape(shape)
        forbidden = np.isinf(table)
        if forbidden.any():
            _merge(constraints, np.where(forbidden, np.inf, 0.0))
        _merge(costs, np.where(forbidden, 0.0, table), target=piece.table.target)
    return Bucket(
        variable=variable,
        scope=scope,
        shape=tuple(problem.sizes[v] for v in dims),
        costs=tuple((target, table) for (target, _), table in costs.items()),
        constraints=tuple(constraints.values()),
        received=tuple(received),
        has_values=has_values,
    )


_Merged = dict[tuple[int, tuple[int, ...]], np.ndarray]


def _merge(tables: _Merged, table: np.ndarray, *, target: int = 0) -> None:
    """Add a table to the one over the same axes; leave out one that is 0 everywhere."""
    if table.any():
        key = target, table.shape
        tables[key] = tables[key] + table if key in tables else table
