"""Masks that can be lifted: a channel outside the plan is not read, and goes on learning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from latprune.graph.reparametrised import gains_made_up, normed_weights
from latprune.saliency.scores import parameters_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from latprune.graph.groups import ChannelGroup


class SoftMasks:
    """Zeros in the weights that read masked channels, and what stood there.

    Gains of `weight_norm` take up what its norms lose to them, as they do in a cut.

    Forward and backward passes see the network that the plan would leave. Before the optimizer
    steps the masks are lifted, so that it moves what stood there by the gradients at zero, and
    lowered again after it.

    Source:
        Humble et al., "Soft Masking for Cost-Constrained Channel Pruning", ECCV 2022.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._parameters = parameters_of(model)
        self._gone: dict[str, Tensor] = {}
        self._stood: dict[str, Tensor] = {}
        self._changed: list[str] = []

    def put(self, groups: Sequence[ChannelGroup], kept: Mapping[str, Sequence[int]]) -> None:
        """Mask the channels that a plan does not keep, and no others."""
        self.lift()
        self._gone = {}
        for group in groups:
            masked = np.setdiff1d(np.arange(group.channels), list(kept[group.name]))
            for member in group.with_role("reads") if len(masked) else ():
                parameter = self._parameters.get(member.parameter)
                if parameter is None:
                    continue  # a buffer, as of spectral_norm, beside the weight that it is for
                new = torch.zeros(parameter.shape, dtype=torch.bool, device=parameter.device)
                gone = self._gone.setdefault(member.parameter, new)
                entries = torch.from_numpy(member.positions[masked].ravel())
                gone.index_fill_(member.axis, entries.to(gone.device), True)
        names = {id(parameter): name for name, parameter in self._model.named_parameters()}
        normed = [one for one in normed_weights(self._model) if one.name in self._gone]
        self._changed = list(dict.fromkeys([*self._gone, *(names[id(one.gain)] for one in normed)]))
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
        before = {name: self._parameters[name].clone() for name in self._changed}
        with gains_made_up(self._model):
            for name, gone in self._gone.items():
                self._parameters[name].masked_fill_(gone, 0.0)
        for name, stood in before.items():
            left = self._parameters[name]
            self._stood[name] = torch.where(left == stood, 0.0, stood - left)

    def state_dict(self) -> dict[str, Tensor]:
        """Give what stands behind the masks, by parameter."""
        return dict(self._stood)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put other weights behind the masks; they are lowered."""
        for name, stood in self._stood.items():
            stood.copy_(state[name])
