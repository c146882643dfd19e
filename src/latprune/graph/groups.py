"""Channels that must go together, and the network seen as such groups.

A channel of a group is cut by removing, from every member, the entries at its positions.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from latprune.graph.describing import describe
from latprune.graph.ties import tied_groups

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from latprune.graph.layers import Layer, LayerShape
    from latprune.graph.ties import Tie

Role = Literal["writes", "reads", "through", "scale", "shift", "statistic", "other"]


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one parameter or buffer on which a group's channels lie.

    Attributes:
        parameter: Dotted name in the model.
        axis: The axis.
        positions: Entries of the axis, int [channels, entries per channel].
        role: `writes` and `reads` for a layer's weight (its bias `writes` too), `through` for a
            grouped convolution that loses whole groups, as a depthwise one does; `scale` and
            `shift` for a norm's affine parameters, `statistic` for its running buffers.
        size: How many entries the axis has, the others among them; None where a file of an earlier
            version does not say.
    """

    parameter: str
    axis: int
    positions: np.ndarray
    role: Role
    size: int | None = None

    def __repr__(self) -> str:
        return f"<Member: axis {self.axis} of {self.parameter}, {self.role}>"

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values; positions 0, 1, 2, … are left out."""
        channels, per_channel = self.positions.shape
        plain = np.array_equal(self.positions.ravel(), np.arange(channels * per_channel))
        return {
            "parameter": self.parameter,
            "axis": self.axis,
            "role": self.role,
            "positions": [channels, per_channel] if plain else self.positions.tolist(),
            "size": self.size,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Member:
        """Read what `to_json` gave."""
        stored = fields["positions"]
        plain = bool(stored) and isinstance(stored[0], int)
        positions = np.arange(stored[0] * stored[1]).reshape(stored) if plain else np.array(stored)
        axis, size = int(fields["axis"]), fields.get("size")
        return cls(fields["parameter"], axis, positions, fields["role"], size)


@dataclass(frozen=True)
class Count:
    """A number in a module's attributes that counts channels of a group, such as `num_heads`.

    Attributes:
        module: Dotted name.
        attribute: Of the module; holds an integer, or a tuple or list of them.
        index: Which entry of a tuple or list.
        per_channel: What the number loses with every channel.
        within: A group whose channels it counts, too: it then loses this with every channel, for
            each channel that stays of that group.
    """

    module: str
    attribute: str
    index: int | None
    per_channel: int
    within: str = ""


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """A set of channels that share one width.

    Attributes:
        name: Of the first layer that writes it.
        channels: How many.
        members: Where they lie.
        multiple: A width must be a multiple of this, or the full one.
        counts: Numbers in Python that count them.
        approximate: Where what stays is normalised by statistics that the group takes part in
            (LayerNorm, GroupNorm, local response norm, standardised weights); empty if nowhere. A
            cut of such a group is exact but for these statistics, which tuning makes good.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    multiple: int = 1
    counts: tuple[Count, ...] = ()
    approximate: str = ""

    def __post_init__(self) -> None:
        for member in self.members:
            if len(member.positions) != self.channels:
                raise ValueError(
                    f"{self.name}: {member.parameter} has positions for {len(member.positions)} "
                    f"of {self.channels} channels"
                )

    def __repr__(self) -> str:
        return f"<ChannelGroup: {self.name}, {self.channels} channels, {len(self.members)} members>"

    def with_role(self, *roles: Role) -> tuple[Member, ...]:
        """Give the members that play one of these roles."""
        return tuple(member for member in self.members if member.role in roles)


@dataclass(frozen=True)
class Frozen:
    """Channels that must stay, and why.

    Attributes:
        where: The parameter that holds them, or the group's name.
        channels: How many.
        reason: In words.
    """

    where: str
    channels: int
    reason: str


@dataclass(frozen=True, eq=False)
class Branch:
    """What only adds to a trunk, and can go as a whole: its groups then keep 0 channels.

    What is left is the trunk and a constant, the biases and norm shifts behind the channels.

    Attributes:
        name: Of the module that holds it, or of the one that gave what it added.
        groups: Of the graph's groups those that lie inside. All of them are at 0, or none is.
        layers: The graph's layers that are not run without it.
        modules: The modules that nothing needs without it, by name, in the order in which they
            run.
        block: The module to run to find out the constant; it takes one tensor.
        takes: The shape of that tensor in the example.
        trunk: Where the block as a whole is replaced by trunk + constant: the submodule that its
            input passes through, or empty for none. None where the block stays, and the last of
            `modules` is replaced by the constant.
        relu: Whether such a block ends in a ReLU.
        axis: On which axis of what it adds the channels lie, counted from the end: -1 for the last.
        lies: Where channels of groups lie on that axis.
        whole: Whether the constant that stands for a module has a value for every place.
    """

    name: str
    groups: tuple[str, ...]
    layers: tuple[str, ...]
    modules: tuple[str, ...]
    block: str
    takes: tuple[int, ...]
    trunk: str | None
    relu: bool
    axis: int
    lies: tuple[tuple[str, Member], ...] = ()
    whole: bool = False

    def __repr__(self) -> str:
        return f"<Branch: {self.name}, layers {', '.join(self.layers)}>"

    def is_removed(self, widths: Mapping[str, int]) -> bool:
        """Whether it is gone at these widths."""
        return all(widths.get(group) == 0 for group in self.groups)

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values."""
        fields = {**vars(self), "lies": [[group, m.to_json()] for group, m in self.lies]}
        if not self.whole:
            del fields["whole"]  # which older versions do not know
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Branch:
        """Read what `to_json` gave, after a trip through JSON text."""
        lists = ("groups", "layers", "modules", "takes")
        lies = tuple((group, Member.from_json(member)) for group, member in fields["lies"])
        return cls(**{**fields, **{name: tuple(fields[name]) for name in lists}, "lies": lies})


_Widths = frozenset[tuple[str, int]]

_MOST_SHAPES = 1000
"""Widths whose layers are remembered: the closed loop asks for those of every network that was
timed, again and again."""


@dataclass(frozen=True, eq=False)
class PruningGraph:
    """A network as channel groups and the layers whose cost depends on them.

    Attributes:
        layers: What a table prices, in the order of execution.
        groups: What can be cut.
        frozen: What cannot, with reasons.
        unpriced: Operators that take time but that no table prices, by module and operator: what
            they take is part of what is measured as the network's rest.
        in_branches: The groups that lie in a residual branch, whether or not it can go: what they
            carry only adds to a trunk.
        branches: What can go as a whole; no group lies in two of them.
        ties: Groups whose numbers of channels go together; no group lies in two of them.
    """

    layers: tuple[Layer, ...]
    groups: tuple[ChannelGroup, ...]
    frozen: tuple[Frozen, ...] = ()
    unpriced: tuple[str, ...] = ()
    in_branches: frozenset[str] = frozenset()
    branches: tuple[Branch, ...] = ()
    ties: tuple[Tie, ...] = ()
    _by_name: dict[str, ChannelGroup] = field(init=False, repr=False, default_factory=dict)
    _shapes: dict[_Widths, dict[str, LayerShape]] = field(
        init=False, repr=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        self._by_name.update({group.name: group for group in self.groups})
        if len(self._by_name) != len(self.groups):
            raise ValueError("two channel groups have the same name")

    def __repr__(self) -> str:
        channels = sum(self.widths.values())
        return (
            f"<PruningGraph: {channels} channels in {len(self.groups)} groups, "
            f"{len(self.layers)} layers, {len(self.branches)} branches that can go>"
        )

    def group(self, name: str) -> ChannelGroup:
        """Give a group by its name."""
        return self._by_name[name]

    @property
    def widths(self) -> dict[str, int]:
        """The dense network's widths."""
        return {group.name: group.channels for group in self.groups}

    def shapes_at(self, widths: Mapping[str, int]) -> dict[str, LayerShape]:
        """Give, by name, the layers that run at these widths of the groups.

        Raises:
            ValueError: If a group has no channels and does not lie in a branch that is removed.
        """
        key = frozenset(widths.items())
        known = self._shapes.get(key)
        if known is None:
            known = self._shapes_at(widths)
            if len(self._shapes) >= _MOST_SHAPES:
                del self._shapes[next(iter(self._shapes))]
            self._shapes[key] = known
        return dict(known)

    def _shapes_at(self, widths: Mapping[str, int]) -> dict[str, LayerShape]:
        gone = {
            layer
            for branch in self.branches
            if branch.is_removed(widths)
            for layer in branch.layers
        }
        left = (layer for layer in self.layers if layer.name not in gone)
        return {layer.name: layer.shape_at(widths) for layer in left}

    def allows(self, widths: Mapping[str, int]) -> bool:
        """Whether these widths are this graph's, go together, and only removed branches have none.

        Of groups that are tied some may have none, too.
        """
        free = {g for b in self.branches if b.is_removed(widths) for g in b.groups}
        free |= tied_groups(self.ties)
        return (
            widths.keys() == self.widths.keys()
            and all(width > 0 or group in free for group, width in widths.items())
            and all(tie.option(widths) is not None for tie in self.ties)
        )

    def describe(self) -> str:
        """Say what can be cut, what cannot, and why, in lines of text."""
        return describe(self)

    @cached_property
    def key(self) -> str:
        """A short name for the dense network's layers: the same for the same architecture."""
        text = json.dumps([[layer.name, layer.shape.by_itself.to_json()] for layer in self.layers])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def groups_to_json(groups: Sequence[ChannelGroup]) -> list[dict[str, Any]]:
    """Give groups as JSON values."""
    return [
        {
            "name": group.name,
            "channels": group.channels,
            "multiple": group.multiple,
            "counts": [vars(count) for count in group.counts],
            "approximate": group.approximate,
            "members": [member.to_json() for member in group.members],
        }
        for group in groups
    ]


def groups_from_json(stored: Sequence[Mapping[str, Any]]) -> tuple[ChannelGroup, ...]:
    """Read what `groups_to_json` gave."""
    return tuple(
        ChannelGroup(
            name=entry["name"],
            channels=int(entry["channels"]),
            members=tuple(Member.from_json(member) for member in entry["members"]),
            multiple=int(entry["multiple"]),
            counts=tuple(Count(**count) for count in entry.get("counts", ())),
            approximate=entry.get("approximate", ""),
        )
        for entry in stored
    )
