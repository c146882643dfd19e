"""Layers that a model holds where it does not see them are told, with what makes them visible."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from latprune.graph.tracing import trace
from tests.graph.test_tracing import EXAMPLE


class Holding(nn.Module):
    """Two convolutions in whatever holds them, between two that are attributes."""

    def __init__(self, hold: Any) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        self.layers = hold(nn.Conv2d(6, 8, 1), nn.Conv2d(8, 6, 1))
        self.unused = [nn.Linear(2, 2)]
        self.again: list[Any] = [self.first, nn.ReLU()]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held = self.layers
        first, second = held.values() if hasattr(held, "values") else held
        y: torch.Tensor = self.last(self.again[1](second(first(self.again[0](x)))))
        return y


class Around(nn.Module):
    def __init__(self, hold: Any) -> None:
        super().__init__()
        self.inner = Holding(hold)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x)
        return y


@pytest.mark.parametrize(
    ("hold", "said"),
    [
        (lambda *two: list(two), "a plain list holds its layers, .* in an nn.ModuleList"),
        (lambda *two: two, "a plain tuple holds its layers, .* in an nn.ModuleList"),
        (lambda *two: dict(zip("ab", two, strict=True)), "a plain dict .* in an nn.ModuleDict"),
    ],
)
def test_layers_in_a_plain_container_that_run_are_told_with_what_makes_them_visible(
    hold: Any, said: str
) -> None:
    frozen = {one.where: one.reason for one in trace(Around(hold), EXAMPLE).frozen}

    assert frozen.keys() & {"inner.layers", "inner.unused", "inner.again"} == {"inner.layers"}
    assert re.match(said, frozen["inner.layers"])


def test_nothing_is_told_of_layers_in_a_module_list() -> None:
    graph = trace(Around(lambda *two: nn.ModuleList(two)), EXAMPLE)

    assert not [one for one in graph.frozen if "plain" in one.reason]
    assert set(graph.widths) == {"inner.first", "inner.layers.0", "inner.layers.1"}
