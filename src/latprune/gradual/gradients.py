"""Score channels by the gradients that training produces anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from latprune.errors import NotFinite
from latprune.gradual.processes import averaged
from latprune.saliency.scores import parameters_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
        parameters = parameters_of(model)
        self._channels = {group.name: group.channels for group in groups}
        axes = dict.fromkeys((m.parameter, m.axis) for ms in members.values() for m in ms)
        # Vectors go together: two concatenations and one product for all norms.
        self._axes = sorted(axes, key=lambda one: parameters[one[0]].dim() > 1)
        self._parameters = [parameters[name] for name, _ in self._axes]
        device = self._parameters[0].device if self._parameters else torch.device("cpu")
        self._places = torch.from_numpy(self._places_of(groups, members)).to(device)
        channels = len(self._places)
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
        if not self._parameters:
            return
        changes = self._changes()
        if scale is not None:
            changes = changes / scale
        terms = changes[self._places].sum(dim=1)
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
        if most > max_skips or (self._parameters and not used):
            raise NotFinite(self._about(most, failed))
        parts = torch.split(sums / max(used, 1.0), list(self._channels.values()))
        return {name: part.numpy() for name, part in zip(self._channels, parts, strict=True)}

    def state_dict(self) -> dict[str, Tensor]:
        """Give what has been counted."""
        return {"sums": self._sums, "failed": self._failed, "used": self._used}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave."""
        for name, own in self.state_dict().items():
            own.copy_(state[name])

    def _changes(self) -> Tensor:
        """Give p ∂L/∂p by entry of every axis, with a zero at the end."""
        # What the loss did not reach has no gradient.
        slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        vectors = sum(parameter.dim() == 1 for parameter in self._parameters)
        changes = [
            (parameter.float() * slope.float()).movedim(axis, 0).flatten(1).sum(dim=1)
            for parameter, slope, (_, axis) in zip(
                self._parameters, slopes, self._axes, strict=True
            )
            if parameter.dim() > 1
        ]
        if vectors:
            together = torch.cat([*self._parameters[:vectors]]).float()
            changes.insert(0, together * torch.cat(slopes[:vectors]).float())
        return torch.cat([*changes, self._sums.new_zeros(1)])

    def _places_of(
        self, groups: Sequence[ChannelGroup], members: Mapping[str, Sequence[Member]]
    ) -> np.ndarray:
        """Say which entries make up each channel: int [channels, most entries]."""
        sizes = [p.shape[axis] for p, (_, axis) in zip(self._parameters, self._axes, strict=True)]
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

    def _about(self, most: int, failed: Tensor) -> str:
        if not most:
            return "no step gave gradients to score with: does the optimizer step?"
        parts: list[Any] = list(torch.split(failed, list(self._channels.values())))
        worst = [name for name, part in zip(self._channels, parts, strict=True) if part.any()]
        return (
            f"the gradients of {most} steps are nan or infinite in {', '.join(worst[:3])}"
            f"{' and others' if len(worst) > 3 else ''}. Lower the learning rate, clip gradients, "
            f"and look for nan in the inputs."
        )
