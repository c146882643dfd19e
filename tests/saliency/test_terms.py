"""A term is the slope of the loss by a gate where the channel is read, whatever came before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import latprune as lp
from latprune.saliency import taylor
from latprune.saliency.terms import gates

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.tensor([1, 3])


class Inverted(nn.Module):
    """Norms follow each other around a depthwise layer, and no activation is homogeneous."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.expanded = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.depth, self.deep = nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.project, self.projected = nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.deep(self.depth(F.silu(self.expanded(self.expand(x))))))
        gate = self.excite(F.silu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()
        x = F.silu(self.projected(self.project(x * gate)))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


READERS = {"expand": ("squeeze", "project"), "squeeze": ("excite",), "project": ("head",)}


def network() -> Inverted:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Inverted().double().eval()
        for norm in (model.expanded, model.deep, model.projected):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
    return model


def slope_by_gates(model: nn.Module, readers: tuple[str, ...], channels: int) -> Tensor:
    """Differentiate the loss by gates that are put in front of these layers by hand."""
    gate = torch.ones(channels, dtype=torch.float64, requires_grad=True)

    def gated(module: nn.Module, inputs: Any) -> Any:
        (x,) = inputs
        return x * gate.view(1, -1, *[1] * (x.dim() - 2))

    hooks = [model.get_submodule(name).register_forward_pre_hook(gated) for name in readers]
    (slope,) = torch.autograd.grad(F.cross_entropy(model(IMAGES), LABELS), gate)
    for hook in hooks:
        hook.remove()
    return slope


@pytest.mark.parametrize("group", READERS)
def test_a_channel_is_scored_where_it_is_read(group: str) -> None:
    model = network()
    graph = lp.trace(model, IMAGES)
    found = taylor(model, graph, [(IMAGES, LABELS)], F.cross_entropy).scores[group]

    expected = slope_by_gates(model, READERS[group], graph.group(group).channels)
    np.testing.assert_allclose(found, expected.abs().numpy(), rtol=1e-9)


def test_norms_stand_in_where_a_reader_has_no_slopes() -> None:
    model = network()
    graph = lp.trace(model, IMAGES)
    frozen = model.head.weight

    found = gates(model, graph.groups, usable=lambda parameter: parameter is not frozen)

    assert {m.parameter for m in found["project"]} == {"projected.weight", "projected.bias"}
    assert {m.parameter for m in found["squeeze"]} == {"excite.weight"}


@pytest.mark.parametrize("norm", [weight_norm, spectral_norm])
def test_readers_whose_weights_are_normed_do_not_tell(norm: Callable[[nn.Module], object]) -> None:
    model = network()
    norm(model.head)
    graph = lp.trace(model, IMAGES)

    assert {m.role for m in gates(model, graph.groups)["project"]} == {"scale", "shift"}


def test_channels_that_no_weight_reads_are_scored_where_they_are_written() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(3, 8) for _ in range(3))
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(2).transpose(1, 2)
            x = F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
            scores: Tensor = self.head(x.mean(dim=1))
            return scores

    model = Attention().double().eval()
    graph = lp.trace(model, IMAGES)

    found = gates(model, graph.groups)

    assert {m.parameter for m in found["v"]} == {"head.weight"}
    assert {m.role for m in found["q"]} == {"writes"}
    scores = taylor(model, graph, [(IMAGES, LABELS)], F.cross_entropy).scores
    assert all(of_channels.any() for of_channels in scores.values())
