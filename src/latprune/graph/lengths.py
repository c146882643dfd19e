"""Sizes that code reads from tensors, such as `x.shape[-1]`, and what must stay as long.

In `b, n, c = x.shape; y.reshape(b, n, c)` the last axis of `y` has as many channels as that of `x`,
and must keep as many: both are cut together, position by position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from latprune.graph.classes import IntArray, LabelClasses
    from latprune.graph.numbers import NumberMode


@dataclass(frozen=True, eq=False)
class Length:
    """The size of a labelled axis, read while the model ran.

    Attributes:
        shadow: Labels of the tensor.
        axis: Which axis.
        why: What was read, in words.
        owner: Who watched the run.
    """

    shadow: IntArray
    axis: int
    why: str
    owner: NumberMode

    def labels(self, classes: LabelClasses) -> IntArray | None:
        """Give the labels that lie on the axis; None if they do not lie along it alone."""
        found = _along(self.shadow, self.axis)
        return found[:, 0] if _is_alone(classes, found) else None

    def keep(self, classes: LabelClasses, shadow: IntArray, axis: int) -> None:
        """Let an axis shrink as this one does: a tensor was told this size, or a part of it."""
        full = self.labels(classes)
        if full is None:
            return
        own = _along(shadow, axis)
        # As in `reshape(b, n, heads, c // heads)`: two axes together make up c.
        pairs = _pairs(shadow, axis, len(full) // len(own)) if len(full) > len(own) else []
        for rows in (*pairs, own):
            if _is_alone(classes, rows) and as_often(classes, rows[:, 0], full):
                return
        own = pairs[0] if pairs else own
        block = math.gcd(len(own), len(full))
        first = full[:block, None]
        for rows in (full[:, None], own):
            for row in rows.reshape(-1, block, rows.shape[1]):
                classes.join(first, row, self.why)


def _along(shadow: IntArray, axis: int) -> IntArray:
    """The labels as a matrix, one row per entry of the axis."""
    return np.moveaxis(shadow, axis, 0).reshape(shadow.shape[axis], -1)


def _is_alone(classes: LabelClasses, rows: IntArray) -> bool:
    """Whether classes differ along the axis only."""
    of_class = classes.find(rows)
    return bool((of_class == of_class[:, :1]).all())


def _pairs(shadow: IntArray, axis: int, others: int) -> list[IntArray]:
    """The same of this axis and another one of so many entries, as if they were one.

    The nearest comes first; where heads were moved, windows may lie in between.
    """
    beside = [a for a in range(shadow.ndim) if a != axis and shadow.shape[a] == others]
    beside.sort(key=lambda a: (abs(a - axis), a))
    pairs = [np.moveaxis(shadow, sorted((a, axis)), (0, 1)) for a in beside]
    return [both.reshape(both.shape[0] * both.shape[1], -1) for both in pairs]


def as_often(classes: LabelClasses, own: IntArray, full: IntArray) -> bool:
    """Whether both axes hold the same channels, in whatever order: then they shrink alike."""
    found, counts = np.unique(classes.find(own), return_counts=True)
    wanted, most = np.unique(classes.find(full), return_counts=True)
    return np.array_equal(found, wanted) and np.array_equal(counts * len(full), most * len(own))
