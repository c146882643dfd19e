"""Prove that groups can be cut: on a copy with random weights, cut some channels and compare.

The cut network must equal the network whose weights ignore those channels. Random weights make
the proof independent of zero-initialised branches, which would hide a wrong cut.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from latprune.graph.labels import labelled_tensors, tensors_in
from latprune.graph.slicing import slice_model, zero_where_read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latprune.graph.groups import ChannelGroup

TOLERANCE = 1e-3
"""Largest difference allowed, relative to the largest output (float32, random weights)."""


def find_broken(
    model: nn.Module, inputs: tuple[torch.Tensor, ...], groups: Sequence[ChannelGroup]
) -> dict[str, str]:
    """Give the groups that cannot be cut, with what went wrong.

    All groups are tried at once; only if that fails, halves are tried, down to single groups.

    Args:
        model: A copy of the dense model, for trial use: it gets random weights.
        inputs: An example input.
        groups: The groups to try.

    Returns:
        The failing groups' names and reasons; empty if all hold.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        randomise(model)
        trial = _Trial(model.eval(), inputs)
        broken: dict[str, str] = {}
        _admit(trial, list(groups), [], broken)
    return broken


def random_kept(groups: Sequence[ChannelGroup], share: float, seed: int) -> dict[str, list[int]]:
    """Choose at random the channels that stay, at least one and all but `share` of each group."""
    generator = np.random.default_rng(seed)
    kept = {}
    for group in groups:
        steps = group.channels // group.multiple
        gone = min(max(1, round(steps * share)), steps - 1) * group.multiple
        order = generator.permutation(group.channels)
        kept[group.name] = sorted(order[: group.channels - max(gone, 0)].tolist())
    return kept


def randomise(model: nn.Module) -> None:
    """Give a model random weights, in place, of a size that keeps activations in range."""
    variances = {
        f"{name}.running_var".lstrip(".")
        for name, module in model.named_modules()
        if isinstance(getattr(module, "running_var", None), torch.Tensor)
    }
    with torch.no_grad():
        for name, tensor in labelled_tensors(model):
            if name in variances:
                tensor.uniform_(0.5, 1.5)
            elif tensor.dim() >= 2:
                fan_in = tensor[0].numel()
                tensor.normal_(std=(2.0 / max(fan_in, 1)) ** 0.5)
            else:
                tensor.uniform_(0.5, 1.0) if "weight" in name else tensor.normal_(std=0.1)


class _Trial:
    """Cuts a copy of a model and compares what it computes."""

    def __init__(self, model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._model, self._inputs = model, inputs

    def failure(self, groups: Sequence[ChannelGroup]) -> str | None:
        """Say what is wrong after cutting a part of these groups; None if nothing is."""
        kept = random_kept(groups, share=0.3, seed=0)
        masked, small = copy.deepcopy(self._model), copy.deepcopy(self._model)
        zero_where_read(masked, groups, kept)
        slice_model(small, groups, kept)
        try:
            found = self._outputs(small)
        except Exception as error:  # whatever a stranger's forward raises is the finding
            return f"cut, it no longer runs: {_first_line(error)}"
        return _difference(self._outputs(masked), found)

    def _outputs(self, model: nn.Module) -> list[torch.Tensor]:
        with torch.no_grad():
            return [t for t in tensors_in(model(*self._inputs)) if t.is_floating_point()]


def _admit(
    trial: _Trial,
    groups: list[ChannelGroup],
    admitted: list[ChannelGroup],
    broken: dict[str, str],
) -> None:
    """Move groups to `admitted` as far as all of them together hold; the rest to `broken`."""
    if not groups:
        return
    failure = trial.failure([*admitted, *groups])
    if failure is None:
        admitted.extend(groups)
    elif len(groups) == 1:
        broken[groups[0].name] = failure
    else:
        half = len(groups) // 2
        _admit(trial, groups[:half], admitted, broken)
        _admit(trial, groups[half:], admitted, broken)


def _difference(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> str | None:
    if [t.shape for t in expected] != [t.shape for t in found]:
        return "cut, its outputs have other shapes"
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        scale = float(a.abs().max()) if a.numel() else 0.0
        if not np.isfinite(scale):
            return "its outputs on random weights are not finite, so a cut cannot be judged"
        if scale:
            worst = max(worst, float((a - b).abs().max()) / scale)
    return None if worst <= TOLERANCE else f"cut, its outputs change by {worst:.2g} of their size"


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
