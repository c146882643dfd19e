"""Recurrent layers, and states that begin at zero, are cut like any others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from latprune.graph.tracing import trace
from tests.graph.test_tracing import cut_at_random, is_right

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
CLIP = torch.randn(2, 3, 2, 6, 6, generator=torch.Generator().manual_seed(1))


class Read(nn.Module):
    """A recurrent layer between two linear ones."""

    def __init__(self, layer: nn.RNNBase, *, last: bool = False) -> None:
        super().__init__()
        self.before, self.recurrent, self.last = nn.Linear(6, layer.input_size), layer, last
        self.after = nn.Linear(layer.hidden_size * (1 + layer.bidirectional), 9)
        self.head = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        steps, state = self.recurrent(self.before(x).relu())
        state = state[0] if isinstance(state, tuple) else state
        y: Tensor = self.head(self.after(state[-1] if self.last else steps[:, -1]).relu())
        return y


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LSTM(8, 10, batch_first=True),
        lambda: nn.LSTM(8, 10, batch_first=True, bias=False),
        lambda: nn.LSTM(8, 10, num_layers=2, batch_first=True, bidirectional=True),
        lambda: nn.GRU(8, 10, num_layers=2, batch_first=True, bidirectional=True),
        lambda: nn.RNN(8, 10, batch_first=True),
    ],
)
def test_what_a_recurrent_layer_reads_and_its_state_are_cut(make: Callable[[], nn.RNNBase]) -> None:
    model = Read(make()).eval()

    graph = trace(model, STEPS)
    small = cut_at_random(model, graph)

    assert sorted(graph.widths.values()) == [8, 9, 10]
    assert is_right(model, graph, STEPS)
    assert isinstance(small, Read)
    assert (small.recurrent.input_size, small.recurrent.hidden_size) == (6, 7)


def test_the_last_state_of_an_lstm_is_cut() -> None:
    model = Read(nn.LSTM(8, 10, batch_first=True), last=True).eval()

    graph = trace(model, STEPS)

    assert sorted(graph.widths.values()) == [8, 9, 10]
    assert is_right(model, graph, STEPS)


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_the_steps_of_a_recurrent_layer_are_no_layers(layer: type[nn.LSTM | nn.GRU]) -> None:
    graph = trace(Read(layer(8, 10, batch_first=True)), STEPS)

    assert [one.name for one in graph.layers if one.shape.has_weights] == [
        "before",
        "after",
        "head",
    ]
    assert any("recurrent layer" in name for name in graph.unpriced)


class Cell(nn.Module):
    """A convolutional LSTM, whose state has as many channels as an attribute says."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.gates = nn.Conv2d(2 + width, 4 * width, 3, padding=1)
        self.head = nn.Conv2d(width, 3, 1)

    def begin(self, x: Tensor) -> Tensor:
        return torch.zeros(x.shape[0], self.width, *x.shape[-2:], dtype=x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        state, memory = self.begin(x), self.begin(x)
        for step in x.unbind(1):
            into, forget, out, new = self.gates(torch.cat([step, state], 1)).chunk(4, 1)
            memory = forget.sigmoid() * memory + into.sigmoid() * new.tanh()
            state = out.sigmoid() * memory.tanh()
        y: Tensor = self.head(state)
        return y


class Filled(Cell):
    """The state begins with what each channel has of its own."""

    def begin(self, x: Tensor) -> Tensor:
        return super().begin(x) + torch.arange(self.width)[:, None, None]


def test_a_state_that_begins_at_zero_is_cut() -> None:
    model = Cell(8).eval()

    graph = trace(model, CLIP)

    assert graph.widths == {"gates": 8}
    assert is_right(model, graph, CLIP)


def test_a_state_that_begins_with_constants_of_its_channels_stays() -> None:
    graph = trace(Filled(8), CLIP)

    assert not graph.groups
    assert any(frozen.where == "gates" for frozen in graph.frozen)
