"""What every channel of every group is worth, under one criterion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from latprune.errors import ModelMismatch, NotFinite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from latprune.graph.groups import ChannelGroup, Member, PruningGraph


@dataclass(frozen=True, eq=False)
class Saliency:
    """Scores of channels; only their ratios matter.

    Attributes:
        scores: Per group a float64 array [channels], ≥ 0, no unit.
        criterion: What made them.
    """

    scores: Mapping[str, np.ndarray]
    criterion: str

    def __post_init__(self) -> None:
        scores = {group: np.asarray(s, dtype=np.float64) for group, s in self.scores.items()}
        object.__setattr__(self, "scores", scores)
        for group, of_channels in scores.items():
            if not np.isfinite(of_channels).all():
                raise NotFinite(f"{self.criterion} scores a channel of {group} as nan or inf")
            if of_channels.ndim != 1 or (of_channels < 0).any():
                raise ValueError(
                    f"{group} needs one score ≥ 0 per channel, not {of_channels.shape} scores "
                    f"from {of_channels.min(initial=0.0)}"
                )

    def check(self, graph: PruningGraph) -> None:
        """Make sure that every channel of a graph has a score.

        Raises:
            ModelMismatch: If one has not; the scores are another network's.
        """
        for group in graph.groups:
            found = self.scores.get(group.name)
            if found is None or len(found) != group.channels:
                has = "none" if found is None else f"{len(found)}"
                raise ModelMismatch(
                    f"the {self.criterion} scores are not of this network: {group.name} has "
                    f"{group.channels} channels and {has} of them have scores"
                )


def per_channel(entries: torch.Tensor, member: Member) -> torch.Tensor:
    """Add up a parameter's entries by the channel that they belong to.

    Args:
        entries: One number per entry of the member's parameter.
        member: Says where the group's channels lie.

    Returns:
        Sums, float64 [channels], on the CPU.
    """
    # Not every accelerator has float64.
    by_entry = entries.detach().cpu().to(torch.float64).movedim(member.axis, 0)
    on_axis = by_entry.reshape(len(by_entry), -1).sum(dim=1)
    return on_axis[torch.from_numpy(np.ascontiguousarray(member.positions))].sum(dim=1)


def writers(group: ChannelGroup, parameters: Mapping[str, torch.Tensor]) -> tuple[Member, ...]:
    """Give the weights and biases that write a group's channels, depthwise ones included.

    Raises:
        ModelMismatch: If the group has none, or one is not a parameter of the model.
    """
    members = group.with_role("writes", "through")
    if not members:
        raise ModelMismatch(f"no weight writes the channels of {group.name}; they cannot be scored")
    return present(group, members, parameters)


def present(
    group: ChannelGroup, members: tuple[Member, ...], parameters: Mapping[str, torch.Tensor]
) -> tuple[Member, ...]:
    """Make sure that the model has the parameters that these members name.

    Raises:
        ModelMismatch: If one is missing or too short.
    """
    for member in members:
        parameter = parameters.get(member.parameter)
        if (
            parameter is None
            or parameter.ndim <= member.axis
            or parameter.shape[member.axis] <= member.positions.max()
        ):
            found = "no such parameter" if parameter is None else f"{tuple(parameter.shape)}"
            raise ModelMismatch(
                f"the graph is not of this model: {group.name} lies on axis {member.axis} of "
                f"{member.parameter}, and the model has {found}"
            )
    return members


def parameters_of(model: nn.Module) -> dict[str, torch.nn.Parameter]:
    """Give a model's parameters by every name that they have."""
    return dict(model.named_parameters(remove_duplicate=False))
