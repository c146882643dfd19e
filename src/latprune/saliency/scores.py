"""What every channel of every group is worth, under one criterion."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from latprune.errors import ModelMismatch, NotFinite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from latprune.graph.groups import ChannelGroup, Member, PruningGraph


@dataclass(frozen=True, eq=False)
class Saliency:
    """What channels are worth; only ratios matter.

    A width is worth the sum of the scores of the channels that it keeps, unless a curve says
    otherwise.

    Attributes:
        scores: Per group a float64 array [channels], ≥ 0, no unit: those with the least go first.
        criterion: What made them.
        curves: Where widths were judged as a whole, for every group a float64 array
            [channels + 1]: what the 0, 1, 2, … channels with the highest scores are worth
            together, from 0 and never falling.
        gone: What is left of a group's worth where the branch that it lies in is gone as a whole,
            ≥ 0, in the curves' unit; 0 where nothing is said.
    """

    scores: Mapping[str, np.ndarray]
    criterion: str
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    gone: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        channels = sum(map(len, self.scores.values()))
        return f"<Saliency: {self.criterion}, {channels} channels in {len(self.scores)} groups>"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", _float64(self.scores))
        object.__setattr__(self, "curves", _float64(self.curves))
        for group, of_channels in self.scores.items():
            if not np.isfinite(of_channels).all():
                raise NotFinite(
                    f"{self.criterion} scores a channel of {group} as nan or inf: check the "
                    f"weights for numbers that are not finite"
                )
            if of_channels.ndim != 1 or (of_channels < 0).any():
                raise ValueError(
                    f"{group} needs one score ≥ 0 per channel, not {of_channels.shape} scores "
                    f"from {of_channels.min(initial=0.0)}"
                )
        if self.curves and set(self.curves) != set(self.scores):
            raise ValueError(
                "either every group has a curve or none: sums do not compare with them"
            )
        for group, curve in self.curves.items():
            _check_curve(
                curve, channels=len(self.scores[group]), what=f"{self.criterion} of {group}"
            )
        for group, left in self.gone.items():
            if group not in self.scores or not 0 <= left < math.inf:
                raise ValueError(f"{group}, gone, leaves {left}: it is a scored group and ≥ 0")

    def ranked(self, group: str, *, among: Sequence[int] | None = None) -> np.ndarray:
        """Give a group's channels from the most to the least worth, equals by index.

        Args:
            group: Its name.
            among: The channels to rank; None: all.
        """
        scores = self.scores[group]
        channels = np.arange(len(scores)) if among is None else np.asarray(among)
        ranked: np.ndarray = channels[np.argsort(-scores[channels], kind="stable")]
        return ranked

    def values(self, group: str, *, among: Sequence[int] | None = None) -> np.ndarray:
        """Give what the first 0, 1, 2, … of the ranked channels are worth, [channels + 1]."""
        ranked = self.ranked(group, among=among)
        if self.curves:
            return self.curves[group][: len(ranked) + 1]
        return np.concatenate([[0.0], np.cumsum(self.scores[group][ranked])])

    def worth(self, group: str, *, among: Sequence[int] | None = None) -> np.ndarray:
        """Give `values`, and at width 0 what is left where the group's branch is gone."""
        values = self.values(group, among=among).copy()
        values[0] = self.gone.get(group, 0.0)
        return values

    def lost(self, widths: Mapping[str, int]) -> float:
        """Give what is predicted to be lost at some widths, a number per group, all told."""
        values = {group: self.worth(group) for group in self.scores}
        return math.fsum(float(v[-1] - v[widths[group]]) for group, v in values.items())

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


def check_weights(model: nn.Module) -> None:
    """Refuse a network whose weights are broken, as by a training that went astray.

    Raises:
        NotFinite: If a parameter holds a NaN.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta or is_lazy(parameter) or parameter.dtype.itemsize == 1:
            continue
        broken = int(parameter.detach().isnan().sum())
        if broken:
            raise NotFinite(
                f"{broken} of the {parameter.numel()} numbers of {name} are NaN: its channels "
                f"cannot be scored, nor the network tuned. Load the weights from before that"
            )


def _float64(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {group: np.asarray(array, dtype=np.float64) for group, array in arrays.items()}


def _check_curve(curve: np.ndarray, *, channels: int, what: str) -> None:
    if not np.isfinite(curve).all():
        raise NotFinite(f"{what}: the curve has a value that is nan or inf")
    if curve.shape != (channels + 1,) or curve[0] != 0 or (np.diff(curve) < 0).any():
        raise ValueError(
            f"{what}: a curve goes from 0 and never falls over the {channels + 1} widths 0 to "
            f"{channels}, not {curve}"
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
