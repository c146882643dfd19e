"""Run a network with some channels masked: what it then loses, it would lose without them."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from latprune.errors import NotFinite
from latprune.graph.slicing import zeroed
from latprune.modes import arrange, copied, device_of, forget, moved
from latprune.samples import outputs_of, samples_of, several_at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from latprune.graph.groups import ChannelGroup

    Batch = tuple[Any, Any]
    Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, eq=False)
class MaskedTrial:
    """A copy of a network to mask, and what to judge it on.

    Its batch norms use the statistics of the batch, as they would once re-estimated after a cut.
    """

    model: nn.Module
    samples: Sequence[Batch]
    judge: Loss

    @classmethod
    def of(cls, model: nn.Module, samples: Sequence[Batch], judge: Loss) -> MaskedTrial:
        """Copy a network; it stays as it is."""
        trial = copied(model)
        trial.eval()
        arrange(trial, torch.channels_last)
        for module in trial.modules():
            if isinstance(module, _BatchNorm):
                module.training = True
        return cls(trial, samples, judge)

    @torch.no_grad()
    def against_itself(self, distance: Loss = F.mse_loss) -> MaskedTrial:
        """Judge by the distance of outputs from what this network answers now."""
        device = device_of(self.model)
        with several_at_once():
            answered = [
                (inputs, outputs_of(self.model, inputs, device)) for inputs, _ in self.samples
            ]
        return MaskedTrial(self.model, answered, distance)

    def on(self, samples: Sequence[Batch]) -> MaskedTrial:
        """Judge the same copy on some of the samples."""
        return replace(self, samples=samples)

    def on_finite(self) -> tuple[MaskedTrial, float]:
        """Leave out the batches on which this network's own loss is nan or infinite.

        Returns:
            What is left, and the mean loss on it.

        Raises:
            NotFinite: If that leaves none.
        """
        losses = self._losses()
        finite = [
            batch for batch, loss in zip(self.samples, losses, strict=True) if math.isfinite(loss)
        ]
        if not finite:
            raise NotFinite(
                f"the whole network has a loss of {losses[0]}: check inputs, weights and loss"
            )
        sizes = [samples_of(inputs) for inputs, _ in finite]
        return self.on(finite), _mean(filter(math.isfinite, losses), sizes)

    def loss(self, what: str) -> float:
        """Give the mean over all samples.

        Raises:
            NotFinite: If it is nan or infinite; `what` says of which network.
        """
        sizes = [samples_of(inputs) for inputs, _ in self.samples]
        mean = _mean(self._losses(), sizes)
        if not math.isfinite(mean):
            raise NotFinite(f"{what} has a loss of {mean}: check inputs, weights and loss")
        return mean

    @torch.no_grad()
    def _losses(self) -> list[float]:
        """Give the mean over every batch."""
        device = device_of(self.model)
        with several_at_once():
            return [
                float(self.judge(outputs_of(self.model, inputs, device), moved(labels, device)))
                for inputs, labels in self.samples
            ]

    @contextmanager
    def masked(
        self, groups: Sequence[ChannelGroup], kept: Mapping[str, Sequence[int]]
    ) -> Iterator[None]:
        """Mask groups' other channels where they are written and read, for as long as it takes."""
        try:
            with zeroed(self.model, groups, kept):
                forget(self.model)
                yield
        finally:
            forget(self.model)


def _mean(losses: Iterable[float], sizes: Sequence[int]) -> float:
    """Average over samples what is known per batch."""
    return sum(size * loss for size, loss in zip(sizes, losses, strict=True)) / sum(sizes)
