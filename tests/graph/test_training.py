"""What a model does in training mode alone follows a cut, too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from latprune.graph.tracing import trace
from tests.graph.test_tracing import EXAMPLE, cut_at_random
from tests.networks import Head


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), Head(6)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.body(self.changed(self.stem(x)).relu()).relu())

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Noisy(Small):
    """A buffer that is read in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("size", torch.ones(8, 1, 1))

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.size, torch.Tensor)
        return x + torch.randn_like(x) * self.size if self.training else x


class Averaging(Small):
    """A buffer that is written in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            assert isinstance(self.mean, torch.Tensor)
            self.mean.mul_(0.9).add_(x.detach().mean((0, 2, 3)), alpha=0.1)
        return x


class Fixed(Small):
    """A size that is needed in training only."""

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        return x * (torch.rand(len(x), 8, 1, 1) > 0.1) if self.training else x


class Dropping(Small):
    def changed(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout2d(x, 0.5, training=self.training)


class Telling(Small):
    """In training it gives features, too."""

    def forward(self, x: torch.Tensor) -> Any:
        features = self.body(self.stem(x).relu()).relu()
        logits = self.head(features)
        return (logits, features) if self.training else logits


@pytest.mark.parametrize("network", [Noisy, Averaging, Fixed, Dropping, Telling])
def test_what_is_cut_still_trains(network: type[Small]) -> None:
    model = network()

    outputs = cut_at_random(model, trace(model, EXAMPLE)).train()(EXAMPLE)

    expected = model.train()(EXAMPLE)
    tensors = outputs if isinstance(outputs, tuple) else (outputs,)
    wanted = expected if isinstance(expected, tuple) else (expected,)
    assert [t.shape for t in tensors] == [t.shape for t in wanted]


@pytest.mark.parametrize("network", [Noisy, Averaging])
def test_buffers_of_training_are_cut(network: type[Small]) -> None:
    group = trace(network(), EXAMPLE).group("stem")

    assert {"size", "mean"} & {member.parameter for member in group.members}


def test_channels_that_are_dropped_by_a_function_can_go() -> None:
    assert trace(Dropping(), EXAMPLE).widths == {"stem": 8, "body": 6}


def test_a_size_that_code_asks_for_in_training_is_found() -> None:
    graph = trace(Fixed(), EXAMPLE)

    assert graph.widths == {"body": 6}
    assert any(f.where == "stem" and "in training mode" in f.reason for f in graph.frozen)


def test_what_training_returns_is_output() -> None:
    graph = trace(Telling(), EXAMPLE)

    assert graph.widths == {"stem": 8}
    assert any(f.where == "body" and "output" in f.reason for f in graph.frozen)
