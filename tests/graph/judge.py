"""An independent judge of a cut, which trusts nothing that the graph says.

Every parameter and buffer is overwritten with its own flat indices; the network is cut; which
entries survived is read back from the numbers. The original, with all other entries of its
layers' weights set to zero, must then compute what the cut network computes with the surviving
entries' real values. LayerNorm and GroupNorm, which take statistics over channels, are replaced in
both by their scale and shift.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from latprune.graph.labels import labelled_tensors, tensors_in
from latprune.graph.verifying import randomise

if TYPE_CHECKING:
    from collections.abc import Callable


def relative_error(
    model: nn.Module, cutter: Callable[[nn.Module], nn.Module], *inputs: torch.Tensor
) -> float:
    """Give the largest difference of outputs, relative to the largest output, in float64."""
    original = copy.deepcopy(model).double().eval()
    randomise(original)
    numbered = copy.deepcopy(original)
    with torch.no_grad():
        for _, tensor in labelled_tensors(numbered):
            tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape))
    small = cutter(numbered)
    survivors = {name: tensor.long().ravel() for name, tensor in labelled_tensors(small)}
    values = {name: tensor.clone() for name, tensor in labelled_tensors(original)}
    with torch.no_grad():
        for name, tensor in labelled_tensors(small):
            tensor.copy_(values[name].ravel()[survivors[name]].view(tensor.shape))
        for name, tensor in labelled_tensors(original):
            if tensor.dim() >= 2 or name.endswith((".weight", ".bias")):
                stays = torch.zeros(tensor.numel(), dtype=torch.bool)
                stays[survivors[name]] = True
                tensor.mul_(stays.view(tensor.shape))
    _without_statistics(original)
    _without_statistics(small)
    wide = [x.double() for x in inputs]
    worst = 0.0
    with torch.no_grad():
        for a, b in zip(tensors_in(original(*wide)), tensors_in(small(*wide)), strict=True):
            worst = max(worst, float((a - b).abs().max() / a.abs().max()))
    return worst


class _ScaleAndShift(nn.Module):
    def __init__(self, norm: nn.LayerNorm | nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.trailing = isinstance(norm, nn.GroupNorm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (-1, *(1 for _ in x.shape[2:])) if self.trailing else (-1,)
        return x * self.weight.view(shape) + self.bias.view(shape)


def _without_statistics(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.LayerNorm | nn.GroupNorm):
                setattr(module, name, _ScaleAndShift(child))
