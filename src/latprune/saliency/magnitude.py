"""A channel is worth the sum of the absolute weights that write it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from latprune.saliency.scores import Saliency, parameters_of, per_channel, writers

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from latprune.graph.groups import ChannelGroup, PruningGraph


@torch.no_grad()
def magnitude(model: nn.Module, graph: PruningGraph) -> Saliency:
    """Score channels without data.

    Where several layers write a channel their sums are added. Biases do not count.

    Args:
        model: Holds the weights that `graph` names.
        graph: The channel groups.

    Returns:
        Scores; their size depends on the layers', so they compare channels within a group
        better than groups with each other.

    Raises:
        ModelMismatch: If `graph` was traced from another model.
        NotFinite: If a weight is nan or infinite; it names the group.

    Source:
        Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017.
    """
    parameters = parameters_of(model)
    scores = {group.name: _l1(group, parameters) for group in graph.groups}
    return Saliency(scores, criterion="magnitude")


def _l1(group: ChannelGroup, parameters: dict[str, nn.Parameter]) -> np.ndarray:
    weights = [m for m in writers(group, parameters) if parameters[m.parameter].ndim > 1]
    sums = torch.stack([per_channel(parameters[m.parameter].abs(), m) for m in weights])
    return sums.sum(dim=0).numpy()
