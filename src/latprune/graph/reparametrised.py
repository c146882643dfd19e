"""Weights that modules make of other parameters, as `weight_norm` does.

That makes a weight of gain · direction / |direction|. The norm runs over the channels that a layer
reads, and would change when some go. The gain then takes up the difference, so that the weights
that stay are those that the layer had.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.weight_norm import WeightNorm

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from latprune.graph.classes import IntArray


class NormedWeight(NamedTuple):
    """A weight under `weight_norm`, in its older form with hooks or as a parametrization.

    Attributes:
        gain: Its norms.
        direction: What is divided by its own norms.
        name: Of the direction, dotted.
        axis: Along which each entry has a norm of its own; -1 for a single norm of all.
    """

    gain: Tensor
    direction: Tensor
    name: str
    axis: int

    def norms_of(self, direction: Tensor) -> Tensor:
        """Give the norms of a direction, or of a part of it, in the gain's shape."""
        norms: Tensor = torch.norm_except_dim(direction.detach(), 2, self.axis)
        return norms


def normed_weights(model: nn.Module) -> Iterator[NormedWeight]:
    """Give the weights of a model that are under `weight_norm`, those that layers share once."""
    seen: set[tuple[int, int]] = set()
    for normed in _every_normed_weight(model):
        made_of = id(normed.gain), id(normed.direction)
        if made_of not in seen:
            seen.add(made_of)
            yield normed


def _every_normed_weight(model: nn.Module) -> Iterator[NormedWeight]:
    for name, module in model.named_modules():
        at = f"{name}." if name else ""
        if isinstance(module, ParametrizationList) and isinstance(module[0], _WeightNorm):
            own: Mapping[str, Any] = module._parameters
            made = own["original0"], own["original1"]
            yield NormedWeight(*made, f"{at}original1", module[0].dim)
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                own = module._parameters
                made = own[f"{hook.name}_g"], own[f"{hook.name}_v"]
                yield NormedWeight(*made, f"{at}{hook.name}_v", hook.dim)


@contextmanager
def gains_made_up(model: nn.Module) -> Iterator[None]:
    """Let gains take up what norms lose to entries that are set to zero inside this context.

    Of a direction of which nothing is left the gain says so: it would be divided by nothing.
    """
    before = [(normed, normed.direction.detach().clone()) for normed in normed_weights(model)]
    try:
        yield
    finally:
        for normed, direction in before:
            left = normed.norms_of(normed.direction)
            normed.gain.data.mul_(_ratio(left, normed.norms_of(direction)))
            normed.direction.data.copy_(torch.where(left > 0, normed.direction.data, direction))


def make_up_gains(model: nn.Module, entries: Mapping[str, Mapping[int, IntArray]]) -> None:
    """Let gains take up what norms lose to entries that do not stay, before these go.

    Args:
        model: Gets other gains, in place.
        entries: By tensor and axis those that stay.
    """
    for normed in normed_weights(model):
        left = whole = normed.direction.detach()
        for axis, stay in entries.get(normed.name, {}).items():
            if axis != normed.axis:
                left = left.index_select(axis, torch.from_numpy(stay).to(left.device))
        # Not in place: a copy may share the model's memory.
        normed.gain.data = normed.gain.data * _ratio(normed.norms_of(left), normed.norms_of(whole))


def _ratio(left: Tensor, whole: Tensor) -> Tensor:
    """What is left of norms; of nothing all is left."""
    return torch.where(whole > 0, left / whole, torch.ones_like(whole))


def weights_of(module: nn.Module) -> tuple[Tensor, ...]:
    """Give a module's weight, or the parameters that it is made of; the last has its shape."""
    parametrizations: Any = getattr(module, "parametrizations", {})
    if "weight" in parametrizations:
        return tuple(parametrizations["weight"]._parameters.values())
    names = ("weight", "weight_g", "weight_v", "weight_orig")
    found = (module._parameters.get(name) for name in names)
    return tuple(tensor for tensor in found if tensor is not None)
