"""What a model returns stays as it is, however it is wrapped."""

from __future__ import annotations

from collections import UserDict, deque
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from latprune.errors import UntraceableModel
from latprune.graph.results import tensors_in
from latprune.graph.tracing import trace
from tests.graph.test_tracing import EXAMPLE
from tests.networks import Head, Plain

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Answer:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


class Slotted:
    __slots__ = ("logits",)

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


class Named(list[Any]):
    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits


class Circular:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits, self.parent = [logits], self


WRAPPERS = [
    Answer,
    Slotted,
    Named,
    Circular,
    lambda logits: SimpleNamespace(logits=logits),
    lambda logits: UserDict(logits=[logits]),
    lambda logits: deque([Answer(logits)]),
]


class Wrapped(Plain):
    def __init__(self, wrap: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x: torch.Tensor) -> Any:
        return self.wrap(super().forward(x))


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_outputs_stay_whatever_holds_them(wrap: Callable[[torch.Tensor], Any]) -> None:
    graph = trace(Wrapped(wrap), EXAMPLE)

    assert graph.widths == trace(Plain(), EXAMPLE).widths
    assert any(f.where == "head.2" and "output" in f.reason for f in graph.frozen)


def test_what_a_module_holds_is_no_result() -> None:
    assert not list(tensors_in([nn.Linear(2, 2), {"model": nn.ReLU()}]))


def test_a_model_that_returns_no_tensor_says_so() -> None:
    with pytest.raises(UntraceableModel, match="returns no tensor, but str"):
        trace(Wrapped(lambda logits: str(logits.shape)), EXAMPLE)


class Exits(nn.Module):
    """Its first head runs in every mode, and is handed out otherwise or in training only."""

    def __init__(self, *, keeps: bool) -> None:
        super().__init__()
        self.stem, self.body, self.keeps = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), keeps
        self.early, self.late = Head(8), Head(6)
        self.seen: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x).relu()
        early = self.early(x)
        late = self.late(self.body(x).relu())
        if self.keeps:
            self.seen = early
        return (late, early) if self.training and not self.keeps else late


@pytest.mark.parametrize(
    ("keeps", "reason"), [(False, "it is an output of the model"), (True, "nothing reads it")]
)
def test_what_is_handed_out_otherwise_or_some_day_stays(keeps: bool, reason: str) -> None:
    graph = trace(Exits(keeps=keeps), EXAMPLE)

    assert graph.widths == {"stem": 8, "body": 6}
    assert any(f.where == "early.2" and f.reason == reason for f in graph.frozen)
