"""Groups whose numbers of channels go together, though it is free which channels stay.

A trunk that is chunked and shuffled, as ShuffleNet's, hands every channel on by its position.
After a cut a channel must still come to the layers that read it now, so as many of a group's
channels must stay as positions lead to these layers in a network that much narrower. All groups of
such a trunk therefore follow one width, and what stays lies where the narrower network has it: a
layer that reads it gets its inputs, and so its weights, in another order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from latprune.errors import ModelMismatch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from latprune.graph.classes import IntArray
    from latprune.graph.groups import ChannelGroup

Axis: TypeAlias = tuple[str, int]
"""A parameter or buffer by its dotted name, and one of its axes."""


@dataclass(frozen=True, eq=False)
class Tie:
    """Groups that follow one width.

    Attributes:
        groups: Their names.
        widths: The numbers of channels that go together, int [options, groups], from the narrowest
            to all; a group may have none where others have some.
        places: Per option, what stands on each axis of a network that narrow, int [entries, 3]:
            which of the groups, which of its channels that stay, and for one that stands on the
            axis several times, which time.
    """

    groups: tuple[str, ...]
    widths: IntArray
    places: tuple[Mapping[Axis, IntArray], ...]

    def __post_init__(self) -> None:
        if self.widths.shape != (len(self.places), len(self.groups)):
            raise ValueError(
                f"a tie of {len(self.groups)} groups and {len(self.places)} options has widths of "
                f"shape {self.widths.shape}"
            )

    def option(self, widths: Mapping[str, int]) -> int | None:
        """Say which option these widths are; None if they are none."""
        asked = [widths.get(group, -1) for group in self.groups]
        (found,) = np.nonzero((self.widths == asked).all(axis=1))
        return int(found[0]) if len(found) else None

    def entries(
        self, groups: Mapping[str, ChannelGroup], kept: Mapping[str, Sequence[int]]
    ) -> dict[Axis, IntArray]:
        """Give the entries that stay on every axis, in the order in which they then lie.

        Args:
            groups: Where the channels lie now, by name.
            kept: Per group the channels that stay; a group that is missing stays whole.

        Returns:
            Nothing if all stay.

        Raises:
            ModelMismatch: If these numbers of channels do not go together.
        """
        stay = {g: list(kept.get(g, range(groups[g].channels))) for g in self.groups}
        if all(len(stay[group]) == groups[group].channels for group in self.groups):
            return {}
        option = self.option({group: len(channels) for group, channels in stay.items()})
        if option is None:
            raise ModelMismatch(
                f"the plan keeps numbers of channels of {self.groups[0]} and the other "
                f"{len(self.groups) - 1} groups of its trunk that do not go together: it was made "
                "for another network"
            )
        entries = {axis: np.empty(len(at), np.int64) for axis, at in self.places[option].items()}
        for index, name in enumerate(self.groups):
            for member in groups[name].members:
                axis = member.parameter, member.axis
                at = self.places[option][axis]
                own = np.flatnonzero(at[:, 0] == index)
                rank, time = at[own, 1], at[own, 2]
                entries[axis][own] = member.positions[stay[name]][rank, time]
        return entries

    def only(self, widths: Mapping[str, int]) -> Tie:
        """Give the tie with the option alone that these widths are.

        Raises:
            ModelMismatch: If they are none.
        """
        option = self.option(widths)
        if option is None:
            raise ModelMismatch("these widths do not go together: they are another network's")
        return Tie(self.groups, self.widths[option : option + 1], (self.places[option],))

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values."""
        return {
            "groups": list(self.groups),
            "widths": self.widths.tolist(),
            "places": [
                [[*axis, at.tolist()] for axis, at in option.items()] for option in self.places
            ],
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Tie:
        """Read what `to_json` gave, after a trip through JSON text."""
        return cls(
            tuple(fields["groups"]),
            np.array(fields["widths"], dtype=np.int64),
            tuple(
                {(name, axis): np.array(at, dtype=np.int64) for name, axis, at in option}
                for option in fields["places"]
            ),
        )


def tied_groups(ties: Sequence[Tie]) -> frozenset[str]:
    """Give the names of all groups in ties."""
    return frozenset(group for tie in ties for group in tie.groups)
