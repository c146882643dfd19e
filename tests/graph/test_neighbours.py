"""Which layers read nothing below zero, and which a depthwise one follows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from latprune.graph.layers import LayerShape
from latprune.graph.tracing import trace

if TYPE_CHECKING:
    from collections.abc import Callable

X = torch.randn(2, 3, 12, 12)


class Between(nn.Module):
    """Something between two convolutions."""

    def __init__(self, what: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.what(self.first(x)))
        return found


def last_is_rectified(what: Callable[[Tensor], Tensor]) -> bool:
    layers = {layer.name: layer.shape for layer in trace(Between(what), X).layers}
    assert not layers["first"].rectified
    return layers["last"].rectified


def test_a_layer_behind_a_relu_reads_nothing_below_zero() -> None:
    assert last_is_rectified(nn.ReLU())
    assert last_is_rectified(nn.ReLU(inplace=True))
    assert last_is_rectified(nn.ReLU6())
    assert last_is_rectified(lambda x: x.clamp(min=0))
    assert last_is_rectified(torch.sigmoid)


def test_one_behind_another_activation_or_none_may_read_anything() -> None:
    assert not last_is_rectified(nn.Identity())
    assert not last_is_rectified(nn.SiLU())
    assert not last_is_rectified(nn.Hardtanh())
    assert not last_is_rectified(lambda x: x.clamp(max=6))
    assert not last_is_rectified(nn.BatchNorm2d(8).eval())


def test_what_keeps_a_sign_is_looked_through() -> None:
    assert last_is_rectified(lambda x: torch.max_pool2d(x.relu(), 2) + x.sigmoid()[..., :5, :5])
    assert last_is_rectified(lambda x: x.relu().mean((2, 3), keepdim=True))
    assert last_is_rectified(lambda x: torch.cat([x.relu()[:, :4], x.sigmoid()[:, 4:]], dim=1))
    assert last_is_rectified(lambda x: 2 * x.relu() + 1)
    assert last_is_rectified(lambda x: x.relu().clamp(max=6))


@pytest.mark.parametrize(
    "what",
    [
        lambda x: x.relu() + x,
        lambda x: x.relu() - x.sigmoid(),
        lambda x: x.relu() - 1,
        lambda x: x.relu() * -1,
        lambda x: torch.cat([x.relu()[:, :4], x[:, 4:]], dim=1),
        lambda x: x.relu().add_(x),
        lambda x: torch.nn.functional.pad(x.relu(), (1, 1), value=-1.0),
    ],
)
def test_what_loses_it_is_seen(what: Callable[[Tensor], Tensor]) -> None:
    assert not last_is_rectified(what)


def test_linear_layers_are_told_too() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))

    assert [layer.shape.rectified for layer in trace(model, torch.randn(2, 6)).layers] == [
        False,
        True,
        False,
    ]


def test_it_is_told_by_operators_and_not_by_values() -> None:
    model = Between(nn.Identity())
    model.first.weight.data.zero_()
    model.first.bias = nn.Parameter(torch.ones(8))

    assert not trace(model, X).layers[-1].shape.rectified


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.SiLU(inplace=True), nn.Identity()])
def test_a_depthwise_convolution_is_seen_behind_norm_and_activation(activation: nn.Module) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.BatchNorm2d(8),
        activation,
        nn.Conv2d(8, 8, 3, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=4),
        nn.Conv2d(8, 4, 1),
    )

    layers = trace(model, X).layers
    assert [layer.shape.to_depthwise for layer in layers if layer.shape.has_weights] == [
        True,
        False,
        False,
        False,
    ]


def test_what_was_stored_before_neighbours_were_known_is_still_read() -> None:
    shape = LayerShape("conv", 3, 8, (12, 12), (3, 3), (1, 1), (0, 0), (1, 1))
    stored = shape.to_json()

    assert not {"rectified", "to_depthwise"} & stored.keys()
    assert LayerShape.from_json(stored) == shape
    for field in ("rectified", "to_depthwise"):
        other = LayerShape.from_json(stored | {field: True})
        assert LayerShape.from_json(other.to_json()) == other != shape
        assert other.by_itself == shape


def test_a_networks_key_is_what_it_was_before_neighbours_were_known() -> None:
    whole = trace(Between(nn.ReLU()), X)
    layers = tuple(replace(layer, shape=layer.shape.by_itself) for layer in whole.layers)

    assert whole.layers != layers
    assert whole.key == replace(whole, layers=layers).key
