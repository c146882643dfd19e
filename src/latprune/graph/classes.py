"""Which channel labels must be cut together: a union-find over integers, with reasons.

Label 0 stands for a constant. A label that meets a constant, or that an operator asks to keep, is
frozen; so is, from then on, every label that is joined with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator

IntArray = npt.NDArray[np.int64]


class LabelClasses:
    """A partition of labels 1, 2, 3, … that only ever grows coarser."""

    def __init__(self) -> None:
        self._count = 1
        self._parent: IntArray = np.zeros(1, dtype=np.int64)  # with room to grow, as the next
        self._why: IntArray = np.zeros(1, dtype=np.int64)
        self._reasons: list[str] = [""]
        self._approximate: list[tuple[IntArray, str]] = []
        self._multiples: list[tuple[IntArray, int]] = []

    @property
    def count(self) -> int:
        """How many labels there are, 0 included."""
        return self._count

    def fresh(self, count: int) -> IntArray:
        """Give new labels, int [count], each in a class of its own."""
        labels = np.arange(self._count, self._count + count, dtype=np.int64)
        self._count += count
        if (missing := self._count - len(self._parent)) > 0:
            room = np.zeros(max(missing, len(self._parent)), dtype=np.int64)  # at least doubled
            self._parent = np.concatenate([self._parent, room])
            self._why = np.concatenate([self._why, room])
        self._parent[labels] = labels
        return labels

    def find(self, labels: IntArray) -> IntArray:
        """Give each label's class, by its representative; 0 stays 0."""
        roots = self._parent[labels]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                self._parent[labels] = roots
                return roots
            roots = above

    def join(self, first: IntArray, second: IntArray, reason: str) -> None:
        """Join labels pairwise (shapes broadcast); meeting a constant freezes, for `reason`."""
        a, b = (side.ravel() for side in np.broadcast_arrays(self.find(first), self.find(second)))
        constant = (a == 0) | (b == 0)
        self.freeze(np.maximum(a, b)[constant], reason)
        a, b = a[~constant], b[~constant]
        while (apart := a != b).any():
            low, high = np.minimum(a, b)[apart], np.maximum(a, b)[apart]
            np.minimum.at(self._parent, high, low)
            self._carry_reasons(np.unique(high))
            a, b = self.find(a[apart]), self.find(b[apart])

    def freeze(self, labels: IntArray, reason: str) -> None:
        """Keep these labels' classes from ever being cut; the first reason stays."""
        roots = np.unique(self.find(labels))
        roots = roots[(roots > 0) & (self._why[roots] == 0)]
        if len(roots):
            self._why[roots] = len(self._reasons)
            self._reasons.append(reason)

    def is_frozen(self, labels: IntArray) -> npt.NDArray[np.bool_]:
        """Say for each label whether it must stay; constants must."""
        roots = self.find(labels)
        frozen: npt.NDArray[np.bool_] = (roots == 0) | (self._why[roots] > 0)
        return frozen

    def reason(self, label: int) -> str:
        """Say why a frozen label must stay."""
        root = self.find(np.array([label]))[0]
        return self._reasons[int(self._why[root])]

    def approximate(self, labels: IntArray, reason: str) -> None:
        """Remember that without these labels what stays would be normalised by other numbers."""
        self._approximate.append((np.unique(labels[labels > 0]), reason))

    def approximations(self) -> dict[int, str]:
        """Give the classes that were said to be approximate, with the first reason each."""
        found: dict[int, str] = {}
        for labels, reason in self._approximate:
            for root in np.unique(self.find(labels)).tolist():
                found.setdefault(root, reason)
        return found

    def divide(self, labels: IntArray, blocks: int) -> None:
        """Remember that as many of these labels must stay as go evenly into blocks."""
        self._multiples.append((labels, blocks))

    def divisions(self) -> Iterator[tuple[IntArray, int]]:
        """Give the axes, as classes, whose width must be a multiple of something."""
        for labels, blocks in self._multiples:
            yield self.find(labels), blocks

    def _carry_reasons(self, joined: IntArray) -> None:
        """Freeze what frozen classes were joined to."""
        why, roots = self._why[joined], self.find(joined)
        new = (why > 0) & (self._why[roots] == 0)
        self._why[roots[new]] = why[new]
