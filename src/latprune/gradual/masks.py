"""Masks that can be lifted: a channel outside the plan is not read, and goes on learning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from latprune.saliency.scores import parameters_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from latprune.graph.groups import ChannelGroup


class SoftMasks:
    """Zeros in the weights that read masked channels, and what stood there.

    Forward and backward passes see the network that the plan would leave. Before the optimizer
    steps the masks are lifted, so that it moves what stood there by the gradients at zero, and
    lowered again after it.

    Source:
        Humble et al., "Soft Masking for Cost-Constrained Channel Pruning", ECCV 2022.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = parameters_of(model)
        self._gone: dict[str, Tensor] = {}
        self._stood: dict[str, Tensor] = {}

    def put(self, groups: Sequence[ChannelGroup], kept: Mapping[str, Sequence[int]]) -> None:
        """Mask the channels that a plan does not keep, and no others."""
        self.lift()
        self._gone = {}
        for group in groups:
            masked = np.setdiff1d(np.arange(group.channels), list(kept[group.name]))
            for member in group.with_role("reads") if len(masked) else ():
                parameter = self._parameters[member.parameter]
                new = torch.zeros(parameter.shape, dtype=torch.bool, device=parameter.device)
                gone = self._gone.setdefault(member.parameter, new)
                entries = torch.from_numpy(member.positions[masked].ravel())
                gone.index_fill_(member.axis, entries.to(gone.device), True)
        self.lower()

    @torch.no_grad()
    def lift(self) -> None:
        """Put back what stood there."""
        for name, stood in self._stood.items():
            self._parameters[name].add_(stood)
        self._stood = {}

    @torch.no_grad()
    def lower(self) -> None:
        """Keep what stands there, and zero it."""
        if self._stood:
            return
        for name, gone in self._gone.items():
            parameter = self._parameters[name]
            self._stood[name] = torch.where(gone, parameter, 0.0)
            parameter.masked_fill_(gone, 0.0)

    def state_dict(self) -> dict[str, Tensor]:
        """Give what stands behind the masks, by parameter."""
        return dict(self._stood)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put other weights behind the masks; they are lowered."""
        for name, stood in self._stood.items():
            stood.copy_(state[name])
