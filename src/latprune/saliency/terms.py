"""What a gate on a channel would do, from the slopes of parameters on the channel's way.

A gate that multiplies a channel where it is read changes the loss by x ∂L/∂x, added up over all
that is read; and as a layer is linear in its weights, that is Σ w ∂L/∂w over the weights that read
the channel. That is what the cut takes away: what comes before, a norm, an activation, a depthwise
layer with a norm of its own, does not matter.

Where no weights read a channel (queries and keys of attention), the gate stands behind the norms on
the channel's group, or else behind the weights that write it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from latprune.graph.reparametrised import normed_weights
from latprune.saliency.scores import parameters_of, present, writers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from latprune.graph.groups import ChannelGroup, Member


def gates(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    *,
    usable: Callable[[nn.Parameter], bool] = lambda _: True,
) -> dict[str, tuple[Member, ...]]:
    """Give per group the members whose Σ p ∂L/∂p is the slope of the loss by a gate on a channel.

    Args:
        model: Holds the parameters.
        groups: Its channel groups.
        usable: Whether a parameter's slopes can be had; where they cannot, members further up are
            taken, and at last those that write the group.

    Raises:
        ModelMismatch: If a group has none, or one is not a parameter of the model.
    """
    parameters = parameters_of(model)
    normed = {weight.name for weight in normed_weights(model)}
    buffers = dict(model.named_buffers(remove_duplicate=False)).keys()
    found = {}
    for group in groups:
        reading = group.with_role("reads")
        if any(member.parameter in normed or member.parameter in buffers for member in reading):
            reading = ()  # whose weights are not linear in these, or have no slopes
        for members in (reading, group.with_role("scale", "shift")):
            own = present(group, members, parameters)
            if own and all(usable(parameters[member.parameter]) for member in own):
                found[group.name] = own
                break
        else:
            found[group.name] = writers(group, parameters)
    return found


class Terms:
    """Adds up p ∂L/∂p per channel, in a few kernels for all groups together.

    Attributes:
        parameters: Those whose slopes count, in the order in which they are wanted; one that lies
            on several axes comes several times.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[ChannelGroup],
        members: Mapping[str, Sequence[Member]],
    ) -> None:
        """Prepare to add up.

        Args:
            model: Holds the parameters.
            groups: As they are now.
            members: Per group those whose p ∂L/∂p is added up, parameters all of them.
        """
        parameters = parameters_of(model)
        self.channels = {group.name: group.channels for group in groups}
        axes = dict.fromkeys((m.parameter, m.axis) for ms in members.values() for m in ms)
        # Vectors go together: two concatenations and one product for all norms.
        self._axes = sorted(axes, key=lambda one: parameters[one[0]].dim() > 1)
        self.parameters = [parameters[name] for name, _ in self._axes]
        device = self.parameters[0].device if self.parameters else torch.device("cpu")
        self._places = torch.from_numpy(self._places_of(groups, members)).to(device)

    @torch.no_grad()
    def of(self, slopes: Sequence[Tensor | None]) -> Tensor:
        """Give the terms of all channels, group by group, [channels], in float32 or better.

        Args:
            slopes: ∂L/∂p for each of `parameters`; None where the loss did not reach one.
        """
        given = [
            torch.zeros_like(p) if slope is None else slope
            for p, slope in zip(self.parameters, slopes, strict=True)
        ]
        vectors = sum(parameter.dim() == 1 for parameter in self.parameters)
        added = [
            _on_axis(parameter, slope, axis)
            for parameter, slope, (_, axis) in zip(
                self.parameters[vectors:], given[vectors:], self._axes[vectors:], strict=True
            )
        ]
        if vectors:
            together = torch.cat([*self.parameters[:vectors]])
            added.insert(0, _precise(together) * _precise(torch.cat(given[:vectors])))
        entries = torch.cat(added) if added else torch.zeros(0)
        return torch.cat([entries, entries.new_zeros(1)])[self._places].sum(dim=1)

    def by_group(self, of_channels: Tensor) -> dict[str, Tensor]:
        """Take apart what belongs to all channels, by group."""
        parts = torch.split(of_channels, list(self.channels.values()))
        return dict(zip(self.channels, parts, strict=True))

    def _places_of(
        self, groups: Sequence[ChannelGroup], members: Mapping[str, Sequence[Member]]
    ) -> np.ndarray:
        """Say which entries make up each channel: int [channels, most entries]."""
        sizes = [p.shape[axis] for p, (_, axis) in zip(self.parameters, self._axes, strict=True)]
        ends = np.cumsum([0, *sizes])
        begins = dict(zip(self._axes, ends.tolist(), strict=False))
        of_groups = [
            np.concatenate(
                [begins[m.parameter, m.axis] + m.positions for m in members[group.name]], axis=1
            )
            for group in groups
        ]
        most = max((places.shape[1] for places in of_groups), default=0)
        # What a channel lacks points at the zero behind the last entry.
        padded = [
            np.pad(places, ((0, 0), (0, most - places.shape[1])), constant_values=int(ends[-1]))
            for places in of_groups
        ]
        return np.concatenate(padded) if padded else np.zeros((0, 1), dtype=np.int64)


def _on_axis(parameter: Tensor, slope: Tensor, axis: int) -> Tensor:
    terms = _precise(parameter) * _precise(slope)
    if axis:  # those in front first: whole rows add up, where all at once would go entry by entry
        terms = terms.sum(dim=tuple(range(axis)))
    return terms.flatten(1).sum(dim=1) if terms.dim() > 1 else terms


def _precise(tensor: Tensor) -> Tensor:
    """Half precision is too coarse to add up in."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
