"""Groups that lie within each channel of others: the width of heads beside their number.

An axis of [heads × width] can be cut along both. A run of the model settles such an axis on its
heads; another one, which settles on the last axis there is, finds the groups of the width. They
are kept where they cross the first run's groups evenly, so that what is left is a product of two.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from latprune.graph.groups import Count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from latprune.graph.classes import IntArray
    from latprune.graph.groups import ChannelGroup, Member
    from latprune.graph.reading import ReadGraph

SUFFIX = "#within"
"""What the names of such groups end in: they are written by the same layers as those they cross."""


def crossing_groups(outer: ReadGraph, inner: ReadGraph) -> tuple[ChannelGroup, ...]:
    """Give the groups of one reading that cross another's evenly, and are none of them.

    Args:
        outer: What a run of the model found.
        inner: What a run found that settled on the last of several axes.
    """
    crossing = (group for group in inner.groups if _is_even(outer, group))
    return tuple(replace(group, counts=tuple(_counts(outer, inner, group))) for group in crossing)


def _is_even(outer: ReadGraph, group: ChannelGroup) -> bool:
    return all(_crosses(outer, member) for member in group.members)


def _crosses(outer: ReadGraph, member: Member) -> bool:
    """Whether all channels meet all channels of the groups on an axis, equally often each."""
    owners, classes = outer.owners_of(member.parameter, member.axis)
    rows = np.sort(classes[member.positions], axis=1)
    if (rows != rows[0]).any():
        return False
    met = dict(zip(*np.unique(rows[0], return_counts=True), strict=True))
    for name in set(owners[member.positions[0]]) - {""}:
        own = np.unique(classes[owners == name])
        if len({met.get(label, 0) for label in own}) > 1:
            return False
    return True


def _counts(outer: ReadGraph, inner: ReadGraph, group: ChannelGroup) -> Iterator[Count]:
    """Give the numbers that count a group's channels, those that count crossed ones, too, apart."""
    for place in dict.fromkeys((c.module, c.attribute, c.index) for c in group.counts):
        own = inner.owners_counted(place) == group.name
        crossed = outer.owners_counted(place)
        found = Counter(crossed[own].tolist() if len(crossed) == len(own) else [""] * own.sum())
        for name, entries in found.items():
            pairs = group.channels * (outer.channels[name] if name else 1)
            yield Count(*place, entries // pairs, within=name)


def owners(names: dict[int, str], classes: IntArray) -> np.ndarray:
    """Give the group of every class, by name; empty for those that belong to none."""
    return np.array([names.get(label, "") for label in classes.tolist()], dtype=object)
