"""Hypothesis strategies that several tests share."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from latprune.graph.groups import ChannelGroup, Member, PruningGraph
from latprune.graph.layers import Layer, LayerShape, Width
from latprune.testing import problems

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["framed_networks", "group_of", "problems"]


def group_of(name: str, channels: int, *, multiple: int = 1) -> ChannelGroup:
    """Make a group whose only member is the weight that writes it."""
    positions = np.arange(channels)[:, None]
    return ChannelGroup(
        name, channels, (Member(f"{name}.weight", 0, positions, "writes"),), multiple
    )


def _products(names: list[str]) -> st.SearchStrategy[tuple[tuple[str, str, int], ...]]:
    """Draw at most one pair of groups that cross."""
    pairs = list(pairwise(names))
    if not pairs:
        return st.just(())
    crossing = st.tuples(st.sampled_from(pairs), st.integers(1, 2)).map(lambda t: ((*t[0], t[1]),))
    return st.one_of(st.just(()), crossing)


@st.composite
def framed_networks(draw: st.DrawFn) -> tuple[PruningGraph, Mapping[str, np.ndarray]]:
    """Draw channel groups with their options, and layers on any sums of them."""
    names = [f"g{index}" for index in range(draw(st.integers(1, 4)))]
    options = {
        name: np.array(sorted(draw(st.sets(st.integers(1, 6), min_size=1, max_size=3))))
        for name in names
    }
    groups = tuple(group_of(name, int(options[name][-1])) for name in names)
    widths = st.builds(
        Width,
        fixed=st.integers(1, 3),
        groups=st.lists(st.tuples(st.sampled_from(names), st.integers(1, 3)), max_size=4).map(
            tuple
        ),
        products=_products(names),
    )
    dense = {group.name: group.channels for group in groups}
    axes = draw(st.lists(st.tuples(widths, widths), max_size=4))
    layers = tuple(
        Layer(
            name=f"layer{index}",
            shape=LayerShape("linear", reads.at(dense), writes.at(dense), size=(1,)),
            reads=reads,
            writes=writes,
        )
        for index, (reads, writes) in enumerate(axes)
    )
    return PruningGraph(layers, groups), options
