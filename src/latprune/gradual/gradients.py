"""Score channels by the gradients that training produces anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from latprune.errors import NotFinite
from latprune.gradual.processes import averaged
from latprune.modes import device_of
from latprune.saliency.terms import Terms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from torch import Tensor, nn

    from latprune.graph.groups import ChannelGroup, Member


class GradientScores:
    """Averages |Σ p ∂L/∂p|, or its square, per channel over steps, in a few kernels a step.

    Nothing is read back from an accelerator, and nobody waits for it, before `mean`: a step whose
    gradients are nan or infinite counts for nothing, and `mean` says if there were too many.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[ChannelGroup],
        members: Mapping[str, Sequence[Member]],
        *,
        squared: bool = False,
    ) -> None:
        """Prepare to score.

        Args:
            model: Holds the parameters, and will hold their gradients.
            groups: As they are now.
            members: Per group those whose p ∂L/∂p is added up, parameters all of them.
            squared: Whether squares are averaged, not absolute values.
        """
        self._squared = squared
        self._terms = Terms(model, groups, members)
        channels = sum(self._terms.channels.values())
        device = device_of(model)
        self._sums = torch.zeros(channels, device=device)
        self._failed = torch.zeros(channels, device=device)
        self._used = torch.zeros((), device=device)

    @torch.no_grad()
    def add(self, *, scale: Tensor | None = None, overflown: Tensor | None = None) -> None:
        """Count the gradients that the parameters hold now.

        Args:
            scale: What the gradients were multiplied by, if they still are.
            overflown: Above 0 if the step is about to be skipped for that scale; counts nothing.
        """
        if not self._terms.parameters:
            return
        terms = self._terms.of([parameter.grad for parameter in self._terms.parameters])
        if scale is not None:
            terms = terms / scale
        scores = terms.square() if self._squared else terms.abs()
        finite = scores.isfinite()
        counts = finite.all().float()
        judged = torch.ones_like(counts) if overflown is None else (overflown == 0).float()
        self._sums += torch.where(finite, scores, 0.0) * (counts * judged)
        self._used += counts * judged
        self._failed += (~finite).float() * judged

    def mean(self, *, max_skips: int) -> dict[str, np.ndarray]:
        """Give every group's scores, float64 [channels], averaged over steps and processes.

        Raises:
            NotFinite: If more than `max_skips` steps had gradients that are nan or infinite, or
                all had; it names the groups.
        """
        found = torch.cat([self._sums, self._failed, self._used.view(1)])
        found = averaged(found).cpu().to(torch.float64)
        sums, failed = found[: len(self._sums)], found[len(self._sums) : -1]
        used = float(found[-1])
        most = int(failed.max()) if len(failed) else 0
        if most > max_skips or (self._terms.parameters and not used):
            raise NotFinite(self._about(most, failed))
        means = self._terms.by_group(sums / max(used, 1.0))
        return {name: of_channels.numpy() for name, of_channels in means.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Give what has been counted."""
        return {"sums": self._sums, "failed": self._failed, "used": self._used}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave."""
        for name, own in self.state_dict().items():
            own.copy_(state[name])

    def _about(self, most: int, failed: Tensor) -> str:
        if not most:
            return "no step gave gradients to score with: does the optimizer step?"
        worst = [name for name, part in self._terms.by_group(failed).items() if part.any()]
        return (
            f"the gradients of {most} steps are nan or infinite in {', '.join(worst[:3])}"
            f"{' and others' if len(worst) > 3 else ''}. Lower the learning rate, clip gradients, "
            f"and look for nan in the inputs."
        )
