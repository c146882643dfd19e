"""Read channel groups and layers off the labels of a run."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from typing import TYPE_CHECKING

import numpy as np

from latprune.graph.crossing import owners
from latprune.graph.groups import ChannelGroup, Count, Frozen, Member
from latprune.graph.integers import Difference
from latprune.graph.layers import Layer, Width
from latprune.graph.lengths import as_often

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from latprune.graph.classes import IntArray
    from latprune.graph.groups import Role
    from latprune.graph.integers import Place
    from latprune.graph.labels import LabelMode
    from latprune.graph.recording import SeenLayer


@dataclass(frozen=True)
class _Axis:
    """One labelled axis of a parameter, its labels as classes."""

    parameter: str
    axis: int
    classes: IntArray
    role: Role


class ReadGraph:
    """The classes of labels after a run, read as groups and layers.

    Attributes:
        groups: What can be cut, as far as the rules know.
        channels: How many each of these has.
    """

    def __init__(self, mode: LabelMode, *, suffix: str = "") -> None:
        """Read.

        Args:
            mode: After a run.
            suffix: What the groups' names are to end in.
        """
        self._mode, self._suffix = mode, suffix
        numbers = _counted_once(mode)
        self._axes = [
            _Axis(parameter, axis, mode.classes.find(labels), role)
            for parameter, axis, labels, role in mode.parameters()
        ]
        self._numbers = [(place, mode.classes.find(labels)) for place, labels in numbers]
        self._approximate = mode.classes.approximations()
        self._divisions = list(mode.classes.divisions())
        apart = [*mode.blocks, *(labels for labels, _ in mode.shuffles)] if mode.loose else []
        self._loose = frozenset(
            mode.classes.find(np.concatenate([*apart, []]).astype(int)).tolist()
        )
        self._members: dict[str, IntArray] = {}
        self.groups = tuple(self._read_groups())
        self.channels = {group.name: group.channels for group in self.groups}
        self._owner = self._owner_among(self.groups)

    def _read_groups(self) -> Iterator[ChannelGroup]:
        """Classes that lie on the same axes, equally often, form a group."""
        together: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
        for label, found in self._places().items():
            together[tuple(found)].append(label)
        names = self._writer_names()
        taken: Counter[str] = Counter()
        for signature, labels in together.items():
            axes = [self._axes[index] for index, _ in signature if index < len(self._axes)]
            if not any(axis.role in ("writes", "through") for axis in axes):
                self._freeze(np.array(labels), "no layer writes it")
                continue
            classes = self._in_order(np.array(labels), axes)
            multiple = self._multiple(int(classes[0]))
            alone = multiple == 1 and int(classes[0]) in self._loose
            if not alone and (len(classes) <= multiple or len(classes) % multiple):
                self._freeze(classes, _too_few(multiple))
                continue
            name = next((names[c] for c in classes.tolist() if c in names), axes[0].parameter)
            taken[name] += 1
            name = (name if taken[name] == 1 else f"{name}#{taken[name]}") + self._suffix
            self._members[name] = classes
            yield ChannelGroup(
                name,
                len(classes),
                members=tuple(
                    Member(
                        axis.parameter,
                        axis.axis,
                        _positions(axis.classes, classes),
                        axis.role,
                        len(axis.classes),
                    )
                    for axis in axes
                ),
                multiple=multiple,
                counts=tuple(
                    Count(*self._numbers[index - len(self._axes)][0], count)
                    for index, count in signature
                    if index >= len(self._axes)
                ),
                approximate=next(filter(None, map(self._approximate.get, classes.tolist())), ""),
            )

    def _places(self) -> dict[int, list[tuple[int, int]]]:
        """On which axes, and in which numbers behind them, each free class lies how often."""
        places: dict[int, list[tuple[int, int]]] = defaultdict(list)
        vectors = [*(axis.classes for axis in self._axes), *(found for _, found in self._numbers)]
        for index, classes in enumerate(vectors):
            free = classes[~self._mode.classes.is_frozen(classes)]
            for label, count in zip(*np.unique(free, return_counts=True), strict=True):
                # A class that only a number counts has nothing that could be cut.
                if index < len(self._axes) or int(label) in places:
                    places[int(label)].append((index, int(count)))
        return places

    def _multiple(self, label: int) -> int:
        """Of what the number of channels of this class's group must be a multiple."""
        counts = ((int((on == label).sum()), blocks) for on, blocks in self._divisions)
        return math.lcm(*(blocks // math.gcd(blocks, n) for n, blocks in counts if n))

    def _freeze(self, classes: IntArray, why: str) -> None:
        self._mode.classes.freeze(classes, why)

    def _writer_names(self) -> dict[int, str]:
        """The first layer that writes each class."""
        names: dict[int, str] = {}
        for layer in self._mode.seen.layers:
            if not layer.shape.has_weights:
                continue
            for label in np.unique(self._mode.classes.find(layer.writes)).tolist():
                names.setdefault(label, layer.name)
        return names

    @staticmethod
    def _in_order(classes: IntArray, axes: Sequence[_Axis]) -> IntArray:
        """Order classes as they first lie on the axis that writes them."""
        main = next((axis for axis in axes if axis.role == "writes"), axes[0]).classes
        _, first = np.unique(main, return_index=True)
        order = main[np.sort(first)]
        return order[np.isin(order, classes)]

    def owners_of(self, parameter: str, axis: int) -> tuple[np.ndarray, IntArray]:
        """Give group and class of every entry on an axis, nothing and 0 where they must stay."""
        found = (a.classes for a in self._axes if (a.parameter, a.axis) == (parameter, axis))
        classes = next(found, np.zeros(0, dtype=np.int64))
        names = owners(self._owner, classes)
        return names, np.where(names == "", 0, classes)

    def owners_counted(self, place: Place) -> np.ndarray:
        """Give the groups of what a number counts; none if it counts nothing."""
        found = (classes for known, classes in self._numbers if known == place)
        return owners(self._owner, next(found, np.zeros(0, dtype=np.int64)))

    def frozen(self, inner: ReadGraph | None, within: Sequence[ChannelGroup]) -> Iterator[Frozen]:
        """Channels that must stay, all but those of `within`.

        What a layer writes is told of the layer. Of a parameter that nobody saw written or read,
        because an operator without a rule made something else of it, its first axis is told.

        Args:
            inner: The other reading, if there is one.
            within: Groups of it.
        """
        crossed = {group.name for group in within}
        told: dict[str, set[int]] = defaultdict(set)
        for axis in self._axes:
            if axis.role == "writes" and not axis.parameter.endswith(".bias"):
                stays = self._staying(axis, inner, crossed)
                told[_owner(axis)].update(stays.tolist())
                yield from self._reasons(axis, stays)
        known = set().union(*told.values())
        for axis in self._unwritten():
            stays = self._staying(axis, inner, crossed)
            if _owner(axis) not in told and known.isdisjoint(stays.tolist()):
                told[_owner(axis)].update(stays.tolist())
                yield from self._reasons(axis, stays)

    def _unwritten(self) -> Iterator[_Axis]:
        """The first axis of every parameter that is no layer's and of which nothing can go."""
        by_parameter: dict[str, list[_Axis]] = defaultdict(list)
        for axis in self._axes:
            by_parameter[axis.parameter].append(axis)
        for parameter, axes in by_parameter.items():
            # One with a single channel, as of a layer that writes one, has no labels on its first.
            is_single = axes[0].axis > 0
            of_layer = any(axis.role == "writes" for axis in axes)
            stays = all(self._mode.classes.is_frozen(axis.classes).all() for axis in axes)
            if stays and not (is_single or of_layer or self._mode.is_buffer(parameter)):
                yield axes[0]

    def _staying(self, axis: _Axis, inner: ReadGraph | None, crossed: Collection[str]) -> IntArray:
        """The classes on an axis that must stay, all but those that crossing groups hold."""
        must = self._mode.classes.is_frozen(axis.classes)
        if inner is not None and crossed:
            names, _ = inner.owners_of(axis.parameter, axis.axis)
            must &= [name not in crossed for name in names]
        return axis.classes[must]

    def _reasons(self, axis: _Axis, stays: IntArray) -> Iterator[Frozen]:
        reasons = Counter(self._mode.classes.reason(int(label)) for label in stays)
        for reason, count in reasons.items():
            yield Frozen(_owner(axis), count, reason)

    @property
    def loose_groups(self) -> tuple[str, ...]:
        """The groups with channels that were in equal blocks, or shuffled, by a loose run."""
        return tuple(g.name for g in self.groups if int(self._members[g.name][0]) in self._loose)

    @property
    def falls_together(self) -> bool:
        """Whether fewer positions of a shuffled axis are apart than its blocks leave free."""
        found = ((self._mode.classes.find(labels), count) for labels, count in self._mode.shuffles)
        return any(len(np.unique(of)) * count < len(of) for of, count in found)

    def layers(
        self, groups: Sequence[ChannelGroup], inner: ReadGraph | None = None
    ) -> Iterator[Layer]:
        """The layers that ran, their widths in terms of these groups, the other reading's, too."""
        channels = {group.name: group.channels for group in groups}
        own = self._owners_on_layers(groups)
        crossed = {} if inner is None else inner._owners_on_layers(groups)
        for name, (seen, *sides) in own.items():
            _, *others = crossed.get(name, (seen, None, None))
            reads, writes = starmap(partial(_width, channels), zip(sides, others, strict=True))
            yield Layer(name, seen.shape, reads, writes, groups_follow=seen.groups_follow)

    def _owners_on_layers(
        self, groups: Sequence[ChannelGroup]
    ) -> dict[str, tuple[SeenLayer, np.ndarray, np.ndarray]]:
        """The layers that ran, by name, with the groups of what they read and write."""
        owner = self._owner_among(groups)
        calls: Counter[str] = Counter()
        find = self._mode.classes.find
        found = {}
        for seen in self._mode.seen.layers:
            calls[seen.name] += 1
            name = seen.name + (f"@{calls[seen.name]}" if calls[seen.name] > 1 else "")
            reads, writes = owners(owner, find(seen.reads)), owners(owner, find(seen.writes))
            found[name] = seen, reads, writes
        return found

    def _owner_among(self, groups: Sequence[ChannelGroup]) -> dict[int, str]:
        own = (group.name for group in groups if group.name in self._members)
        return {label: name for name in own for label in self._members[name].tolist()}

    def members_on(
        self, labels: IntArray, groups: Sequence[ChannelGroup], *, name: str, axis: int
    ) -> Iterator[tuple[str, Member]]:
        """Say where channels of these groups lie on a labelled axis of some result."""
        classes = self._mode.classes.find(labels)
        for group in groups:
            own = self._members.get(group.name)
            if own is not None and np.isin(own, classes).all():
                yield group.name, Member(name, axis, _positions(classes, own), "shift")


def _owner(axis: _Axis) -> str:
    """The module that a parameter belongs to; the model's own go by their names."""
    return axis.parameter.rpartition(".")[0] or axis.parameter


def _width(channels: Mapping[str, int], own: np.ndarray, crossed: np.ndarray | None) -> Width:
    """Count the entries of an axis by group, and by pair of groups where two readings cross."""
    if crossed is None or len(crossed) != len(own):
        crossed = np.full(len(own), "", dtype=object)
    found = Counter(zip(own.tolist(), crossed.tolist(), strict=True))
    fixed = found.pop(("", ""), 0)
    alone: Counter[str] = Counter()
    for (one, two), entries in found.items():
        if not (one and two):
            alone[one or two] += entries
    return Width(
        fixed,
        tuple((name, entries // channels[name]) for name, entries in alone.items()),
        tuple(
            (one, two, entries // (channels[one] * channels[two]))
            for (one, two), entries in found.items()
            if one and two
        ),
    )


def _positions(axis: IntArray, classes: IntArray) -> IntArray:
    """Where each class lies on an axis, int [classes, entries per class]."""
    rank = {int(label): index for index, label in enumerate(classes)}
    entries = np.flatnonzero(np.isin(axis, classes))
    ranks = np.array([rank[int(label)] for label in axis[entries]])
    return entries[np.argsort(ranks, kind="stable")].reshape(len(classes), -1)


def _counted_once(mode: LabelMode) -> list[tuple[Place, IntArray]]:
    """The numbers that count channels, and which; one that counts several axes keeps them alike."""
    for counted in mode.numbers.counted:
        counted.keep_as_long(mode.classes)
    found = _counted(mode)
    for (module, attribute, _), axes in found.items():
        for labels in axes[1:]:
            if len(labels) != len(axes[0]):
                mode.classes.freeze(labels, f"{module}.{attribute} is used for several sizes")
            elif not as_often(mode.classes, labels, axes[0]):
                mode.classes.join(axes[0], labels, f"counted by {module}.{attribute} and stays")
    return [(place, axes[0]) for place, axes in found.items()]


def _counted(mode: LabelMode) -> dict[Place, list[IntArray]]:
    """The labels on every axis whose size was a number of the model's."""
    found: dict[Place, list[IntArray]] = defaultdict(list)
    rests: list[tuple[Difference, IntArray]] = []
    for counted in mode.numbers.counted:
        labels = counted.labels(mode.classes)
        if labels is None:
            continue
        if isinstance(counted.origin, tuple):
            found[counted.origin].append(labels)
        elif isinstance(counted.origin, Difference):
            rests.append((counted.origin, labels))
    for rest, labels in rests:
        for part in found.get(rest.part, [])[:1]:
            found[rest.whole].append(np.concatenate([part, labels]))
    for ratio in mode.numbers.equal:
        for place, other in (ratio.whole, ratio.part), (ratio.part, ratio.whole):
            if other in found:
                found[place].append(found[other][0])
    return found


def _too_few(multiple: int) -> str:
    if multiple == 1:
        return "it would be the only channel of its group"
    return f"its channels cannot be cut in multiples of {multiple}"
