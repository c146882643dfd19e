"""A variable at the moment it leaves: what it costs there, and the least of it.

Tables that tie variables together, as those of sums do, forbid nearly all combinations. A bucket
with such a table goes through the combinations that it allows and no others.
"""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Going through a list is slower per combination; it pays where it leaves most of them out.
SPARSE_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class Bucket:
    """A variable that leaves, its neighbours that stay, and what is known about them together.

    Every array has the axes (*scope, variable), some of which may be 1 long.

    Attributes:
        variable: The one that leaves.
        scope: Its neighbours, those that leave last first.
        shape: How many options they have, the variable last.
        costs: Finite costs in ms, each with its target.
        constraints: 0 where a combination is allowed, inf where not.
        received: Earlier buckets whose least is a table over the variable: their position in the
            order, and the shape that gives that least these axes.
        has_values: Whether the variable's values are counted here; they are once.
    """

    variable: int
    scope: tuple[int, ...]
    shape: tuple[int, ...]
    costs: tuple[tuple[int, np.ndarray], ...]
    constraints: tuple[np.ndarray, ...]
    received: tuple[tuple[int, tuple[int, ...]], ...]
    has_values: bool = True
    _allowed: _Allowed | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        shares = [float(np.isfinite(table).mean()) for table in self.constraints]
        if shares and min(shares) <= SPARSE_SHARE:
            tightest = self.constraints[int(np.argmin(shares))]
            object.__setattr__(self, "_allowed", _Allowed(tightest, self.shape))

    @property
    def entries(self) -> int:
        """How many numbers there are to go through."""
        return math.prod(self.shape) if self._allowed is None else self._allowed.entries

    def least(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Add up parts and give the least over the variable's options, [*scope].

        Args:
            parts: Arrays like the bucket's own, those among them.
        """
        if self._allowed is not None:
            return self._allowed.least(parts)
        least: np.ndarray = np.broadcast_to(_sum(parts), self.shape).min(axis=-1)
        return least

    def rows(self, parts: Iterable[np.ndarray], picks: np.ndarray) -> np.ndarray:
        """Add up parts at picks of the neighbours.

        Args:
            parts: As in `least`.
            picks: int [choices, all variables].

        Returns:
            Sums [choices, options of the variable].
        """
        rows = np.zeros((len(picks), self.shape[-1]))
        for part in parts:
            at = (
                picks[:, v] if length > 1 else 0
                for v, length in zip(self.scope, part.shape[:-1], strict=True)
            )
            rows += part[tuple(at)]
        return rows


class _Allowed:
    """The combinations that a constraint allows, along the axes that it spans."""

    def __init__(self, constraint: np.ndarray, shape: tuple[int, ...]) -> None:
        self._shape = shape
        last = len(shape) - 1
        self._spanned = [axis for axis in range(last) if constraint.shape[axis] > 1]
        self._others = [axis for axis in range(last) if constraint.shape[axis] == 1]
        # In the order of an array, so that options of the variable follow each other.
        allowed = np.nonzero(np.isfinite(constraint))
        self._at = {axis: allowed[axis] for axis in (*self._spanned, last)}
        self._of_neighbours = [shape[axis] for axis in self._spanned]
        flat = np.zeros(len(allowed[0]), dtype=np.intp)
        if self._spanned:
            flat = np.ravel_multi_index([allowed[a] for a in self._spanned], self._of_neighbours)
        self._neighbours, self._starts = np.unique(flat, return_index=True)
        self._single = len(self._neighbours) == len(flat)

    @property
    def entries(self) -> int:
        """How many combinations there are, with every option of the axes not spanned."""
        others = math.prod(self._shape[axis] for axis in self._others)
        return others * len(self._at[len(self._shape) - 1])

    def least(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        others = [self._shape[axis] for axis in self._others]
        listed = [self._list(part) for part in parts]
        sums = np.broadcast_to(_sum(listed), (*others, len(self._at[len(self._shape) - 1])))
        if not self._single:
            sums = np.minimum.reduceat(sums, self._starts, axis=-1)
        least = sums
        if len(self._neighbours) < math.prod(self._of_neighbours):
            least = np.full((*others, math.prod(self._of_neighbours)), np.inf)
            least[..., self._neighbours] = sums
        axes = np.argsort([*self._others, *self._spanned])
        return least.reshape([*others, *self._of_neighbours]).transpose(axes)

    def _list(self, part: np.ndarray) -> np.ndarray:
        """Give a part at the allowed combinations, [*axes not spanned, combinations or 1]."""
        last = part.ndim - 1
        moved = part.transpose([*self._others, *self._spanned, last])
        at = [self._at[axis] if part.shape[axis] > 1 else 0 for axis in (*self._spanned, last)]
        if all(isinstance(index, int) for index in at):
            return moved.reshape(*moved.shape[: len(self._others)], 1)
        return moved[(..., *at)]


def _sum(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Add up, smallest first: only the last additions then run over the full shape."""
    return functools.reduce(operator.add, sorted(parts, key=np.size))
