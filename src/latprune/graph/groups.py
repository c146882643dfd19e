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

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from latprune.graph.layers import Layer

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
    """

    parameter: str
    axis: int
    positions: np.ndarray
    role: Role

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values; positions 0, 1, 2, … are left out."""
        channels, per_channel = self.positions.shape
        plain = np.array_equal(self.positions.ravel(), np.arange(channels * per_channel))
        return {
            "parameter": self.parameter,
            "axis": self.axis,
            "role": self.role,
            "positions": [channels, per_channel] if plain else self.positions.tolist(),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Member:
        """Read what `to_json` gave."""
        stored = fields["positions"]
        plain = bool(stored) and isinstance(stored[0], int)
        positions = np.arange(stored[0] * stored[1]).reshape(stored) if plain else np.array(stored)
        return cls(fields["parameter"], int(fields["axis"]), positions, fields["role"])


@dataclass(frozen=True)
class Count:
    """A number in a module's attributes that counts channels of a group, such as `num_heads`.

    Attributes:
        module: Dotted name.
        attribute: Of the module; holds an integer, or a tuple or list of them.
        index: Which entry of a tuple or list.
        per_channel: What the number loses with every channel.
    """

    module: str
    attribute: str
    index: int | None
    per_channel: int


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
            (LayerNorm, GroupNorm, standardised weights); empty if nowhere. A cut of such a group
            is exact but for these statistics, which tuning makes good.
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
class PruningGraph:
    """A network as channel groups and the layers whose cost depends on them.

    Attributes:
        layers: What a table prices, in the order of execution.
        groups: What can be cut.
        frozen: What cannot, with reasons.
        unpriced: Operators that take time but that no table prices, by module and operator: what
            they take is part of what is measured as the network's rest.
    """

    layers: tuple[Layer, ...]
    groups: tuple[ChannelGroup, ...]
    frozen: tuple[Frozen, ...] = ()
    unpriced: tuple[str, ...] = ()
    _by_name: dict[str, ChannelGroup] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._by_name.update({group.name: group for group in self.groups})
        if len(self._by_name) != len(self.groups):
            raise ValueError("two channel groups have the same name")

    def group(self, name: str) -> ChannelGroup:
        """Give a group by its name."""
        return self._by_name[name]

    @property
    def widths(self) -> dict[str, int]:
        """The dense network's widths."""
        return {group.name: group.channels for group in self.groups}

    @cached_property
    def key(self) -> str:
        """A short name for the dense network's layers: the same for the same architecture."""
        text = json.dumps([[layer.name, layer.shape.to_json()] for layer in self.layers])
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
