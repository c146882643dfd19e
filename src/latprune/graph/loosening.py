"""Free the positions of a shuffled trunk, and find out which numbers of channels go together.

Where an axis is cut into equal blocks or shuffled again and again, as in ShuffleNet, cutting the
same positions from every block leaves few that are apart. A loose run joins no blocks: its groups
are channels of one layer that take the same way. How many stay of each, and where they lie, is seen
in runs of the network with a narrower trunk, whatever weights it has.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from latprune.graph.slicing import tell_modules, tensor_of
from latprune.graph.ties import Tie
from latprune.modes import copied

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from torch import nn

    from latprune.graph.classes import IntArray
    from latprune.graph.groups import ChannelGroup
    from latprune.graph.ties import Axis

    Read = Callable[[nn.Module], Sequence[ChannelGroup]]

MOST_OPTIONS = 8
"""Widths of a trunk that are tried: each takes a run."""


def find_ties(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    loose: Collection[str],
    read: Read,
) -> tuple[Tie, ...] | None:
    """Find the groups of a loose run that go together, and the widths that they can have.

    Args:
        model: The dense model.
        groups: What a loose run found.
        loose: Those of them whose positions are free.
        read: Runs a narrower network loosely, and gives what it finds.

    Returns:
        The ties; None if the positions cannot be free.
    """
    trunks = list(_trunks(groups, loose))
    if not trunks or not all(_can_be_narrowed(model, trunk) for trunk in trunks):
        return None
    options: list[list[_Option]] = [[] for _ in trunks]
    for step in range(1, MOST_OPTIONS):
        widths = [_sizes(model, trunk, step) for trunk in trunks]
        if not any(widths):
            continue
        try:
            found = read(_narrowed(model, groups, widths))
        except Exception:  # whatever a stranger's forward raises: it cannot be as narrow as that
            continue
        for trunk, kept, sizes in zip(trunks, options, widths, strict=True):
            option = _option(trunk, found, sizes)
            if sizes and option is not None:
                kept.append(option)
    ties = [_tie(trunk, kept) for trunk, kept in zip(trunks, options, strict=True)]
    return None if any(len(tie.widths) == 1 for tie in ties) else tuple(ties)


def _trunks(groups: Sequence[ChannelGroup], loose: Collection[str]) -> Iterator[list[ChannelGroup]]:
    """Loose groups, and what lies on an axis with them, by the axes that they share."""
    on = defaultdict(set)
    for index, group in enumerate(groups):
        for axis in _axes(group):
            on[axis].add(index)
    seen: set[int] = set()
    for index, group in enumerate(groups):
        if index in seen or group.name not in loose:
            continue
        trunk, new = {index}, {index}
        while new:
            new = {i for one in new for axis in _axes(groups[one]) for i in on[axis]} - trunk
            trunk |= new
        seen |= trunk
        yield [groups[i] for i in sorted(trunk)]


def _axes(group: ChannelGroup) -> list[Axis]:
    return [(member.parameter, member.axis) for member in group.members]


def _filled(groups: Iterable[ChannelGroup]) -> dict[Axis, int]:
    """How many entries of every axis belong to these groups."""
    entries: dict[Axis, int] = defaultdict(int)
    for group in groups:
        for member in group.members:
            entries[member.parameter, member.axis] += member.positions.size
    return entries


def _can_be_narrowed(model: nn.Module, trunk: Sequence[ChannelGroup]) -> bool:
    """Whether nothing but the trunk lies on its axes, and no number in Python counts it."""
    plain = all(group.multiple == 1 and not group.counts for group in trunk)
    return plain and all(
        tensor_of(model, name).shape[axis] == count
        for (name, axis), count in _filled(trunk).items()
    )


def _sizes(model: nn.Module, trunk: Sequence[ChannelGroup], step: int) -> dict[Axis, int]:
    """Give the sizes of a trunk's axes some steps wide; nothing if there is no such width."""
    sizes = {(n, a): tensor_of(model, n).shape[a] for n, a in _filled(trunk)}
    unit = math.gcd(*sizes.values())
    # Powers of two: runtimes are quick at multiples of these.
    pitch = 2 ** max(math.ceil(math.log2(unit / MOST_OPTIONS)), 0)
    if step * pitch >= unit:
        return {}
    return {axis: size // unit * step * pitch for axis, size in sizes.items()}


def _narrowed(
    model: nn.Module, groups: Sequence[ChannelGroup], widths: Sequence[Mapping[Axis, int]]
) -> nn.Module:
    """Give a network with narrower trunks, of any weights."""
    small = copied(model)
    before: dict[int, Sequence[int]] = {}
    for (name, axis), size in (item for sizes in widths for item in sizes.items()):
        tensor = tensor_of(small, name)
        before.setdefault(id(tensor), tensor.shape)
        tensor.data = tensor.data.narrow(axis, 0, size).contiguous()
    tell_modules(small, groups, {}, before)
    return small


class _Option:
    """The widths of a trunk's groups in a narrower network, and where their channels lie."""

    def __init__(self, trunk: Sequence[ChannelGroup], found: Mapping[object, ChannelGroup]) -> None:
        of = [found.get(_way(group)) for group in trunk]
        self.widths = [0 if group is None else group.channels for group in of]
        self.places: dict[Axis, IntArray] = {}
        sizes = _filled(group for group in of if group is not None)
        for axis, size in sizes.items():
            self.places[axis] = np.empty((size, 3), dtype=np.int64)
        for index, group in enumerate(of):
            for member in () if group is None else group.members:
                rank, time = np.indices(member.positions.shape)
                at = self.places[member.parameter, member.axis]
                at[member.positions.ravel()] = np.stack(
                    [np.full(rank.size, index), rank.ravel(), time.ravel()], axis=1
                )


def _way(group: ChannelGroup) -> frozenset[tuple[str, int, int]]:
    """Where the channels of a group lie, and how often: the same in a narrower network."""
    return frozenset((m.parameter, m.axis, m.positions.shape[1]) for m in group.members)


def _option(
    trunk: Sequence[ChannelGroup], found: Sequence[ChannelGroup], sizes: Mapping[Axis, int]
) -> _Option | None:
    """Read the widths off a narrower network; None where more take a way than there are now."""
    of_trunk = [group for group in found if not sizes.keys().isdisjoint(_axes(group))]
    most = {_way(group): group.channels for group in trunk}
    enough = all(group.channels <= most.get(_way(group), 0) for group in of_trunk)
    if not enough or _filled(of_trunk) != dict(sizes):
        return None
    return _Option(trunk, {_way(group): group for group in of_trunk})


def _tie(trunk: Sequence[ChannelGroup], narrower: Sequence[_Option]) -> Tie:
    options = [*narrower, _Option(trunk, {_way(group): group for group in trunk})]
    return Tie(
        tuple(group.name for group in trunk),
        np.array([option.widths for option in options]),
        tuple(option.places for option in options),
    )
