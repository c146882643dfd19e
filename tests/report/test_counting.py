"""Counts agree with torch's own counter of operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from latprune.graph.layers import LayerShape
from latprune.graph.tracing import trace
from latprune.report import macs, network_macs, parameters
from tests.report.examples import chain

if TYPE_CHECKING:
    from collections.abc import Callable

small = st.integers(1, 3)


@st.composite
def convolutions(draw: Callable[..., int]) -> tuple[LayerShape, nn.Module]:
    """A convolution over one to three axes as a shape and as a module."""
    axes, groups, transposed = draw(small), draw(small), bool(draw(st.booleans()))
    ins, outs = groups * draw(small), groups * draw(small)
    kernel, stride, padding, dilation = (draw(small) for _ in range(4))
    shape = LayerShape(
        "conv",
        ins,
        outs,
        size=tuple(draw(st.integers(9, 12)) for _ in range(axes)),
        kernel=(kernel,) * axes,
        stride=(stride,) * axes,
        padding=(padding,) * axes,
        dilation=(dilation,) * axes,
        groups=groups,
        transposed=transposed,
    )
    name = f"Conv{'Transpose' if transposed else ''}{axes}d"
    module: nn.Module = getattr(nn, name)(
        ins, outs, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    return shape, module


@given(convolutions())
def test_a_convolution_costs_what_torch_counts(drawn: tuple[LayerShape, nn.Module]) -> None:
    shape, module = drawn

    assert 2 * macs(shape) == flops(module, torch.zeros(1, shape.in_channels, *shape.size))


@pytest.mark.parametrize("size", [(1,), (5,), (3, 4)])
def test_a_linear_layer_costs_what_torch_counts(size: tuple[int, ...]) -> None:
    shape = LayerShape("linear", 6, 7, size=size, bias=True)

    assert 2 * macs(shape) == flops(nn.Linear(6, 7), torch.zeros(*size, 6))


def test_a_network_costs_what_torch_counts_at_any_width() -> None:
    graph = chain(8, 6)
    cut = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1),
        nn.Conv2d(5, 2, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2, 10),
    )

    counted = network_macs(graph, {"conv0": 5, "conv1": 2})

    assert 2 * counted == flops(cut, torch.zeros(1, 3, 8, 8))


def test_what_has_no_weights_costs_nothing() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(8)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    ).eval()
    graph = trace(model, torch.zeros(1, 3, 12, 12))

    assert not all(layer.shape.has_weights for layer in graph.layers)
    assert network_macs(graph, graph.widths) == 3 * 8 * 9 * 10 * 10 + 8 * 4


def test_a_shared_parameter_counts_once() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight

    assert parameters(nn.Sequential(first, second)) == 16 + 4 + 4


def flops(module: nn.Module, example: torch.Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(example)
    return int(counter.get_total_flops())
