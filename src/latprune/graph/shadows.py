"""Shadows: arrays of labels with as many axes as their tensor, of size 1 where nothing differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latprune.graph.classes import IntArray


def along_axis(labels: IntArray, axis: int, axes: int) -> IntArray:
    """Give labels of one axis as a shadow of a tensor with so many axes."""
    return labels.reshape([-1 if a == axis else 1 for a in range(max(axes, 1))])


def varying(shadow: IntArray) -> list[int]:
    """Give the axes along which a shadow's labels may differ."""
    return [axis for axis, size in enumerate(shadow.shape) if size > 1]


def shrunk(entries: IntArray) -> IntArray:
    """Shorten to 1 all axes along which nothing differs."""
    # Axes that were expanded come first: they cost nothing to look at, and then are gone.
    for axis in sorted(range(entries.ndim), key=lambda a: abs(entries.strides[a])):
        if entries.shape[axis] > 1:
            first = entries[tuple(slice(1 if a == axis else None) for a in range(entries.ndim))]
            if entries.strides[axis] == 0 or bool((entries == first).all()):
                entries = first
    return entries


def aligned(shadow: IntArray, axes: int) -> IntArray:
    """Give a shadow more axes in front, as broadcasting does."""
    return shadow.reshape([1] * (axes - shadow.ndim) + list(shadow.shape))
