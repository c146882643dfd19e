"""Layers whose weight is made of other parameters: cut, or frozen with a reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

from latprune.graph.tracing import trace

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def three_layers(wrap: Callable[[nn.Module], nn.Module], *, bias: bool = True) -> nn.Module:
    return nn.Sequential(
        wrap(nn.Conv2d(3, 8, 3, padding=1, bias=bias)),
        nn.ReLU(),
        wrap(nn.Conv2d(8, 12, 3, padding=1, bias=bias)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        wrap(nn.Linear(12, 10, bias=bias)),
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "wrap", [parametrizations.orthogonal, parametrizations.spectral_norm, spectral_norm]
)
def test_a_weight_made_by_an_unknown_operator_is_frozen_with_a_reason(
    wrap: Callable[[nn.Module], nn.Module], bias: bool
) -> None:
    graph = trace(three_layers(wrap, bias=bias), EXAMPLE)

    assert not graph.groups
    assert [frozen.where.partition(".")[0] for frozen in graph.frozen] == ["0", "2", "6"]
    assert all("no rule for" in f.reason or "constant" in f.reason for f in graph.frozen)
