"""Features are cut that are compared with centres, and centres whose distances are read."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from benchmarks.coverage.judge import judge
from torch import Tensor, nn

from latprune.export import export_onnx
from latprune.graph.slicing import slice_model, zero_channels
from latprune.graph.tracing import trace
from latprune.graph.verifying import random_kept
from latprune.saliency import magnitude, taylor
from tests.graph.test_tracing import EXAMPLE, cut_at_random

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Prototypes(nn.Module):
    """Answers with the distances of features from centres, or with what is read off these."""

    def __init__(
        self,
        count: int = 5,
        *,
        p: float = 2.0,
        head: bool = False,
        learnt: bool = True,
        last: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            *(nn.Linear(16, 12), last or nn.Identity()),
        )
        self.p = p
        centres = torch.randn(count, 12)
        if learnt:
            self.centres = nn.Parameter(centres)
        else:
            self.register_buffer("centres", centres)
        self.head = nn.Linear(count, 7) if head else None

    def forward(self, x: Tensor) -> Tensor:
        found = torch.cdist(self.body(x), self.centres, p=self.p)
        return found if self.head is None else self.head((-found).exp())


# Torch computes those from more than 25 centres by products of matrices.
@pytest.mark.parametrize("count", [5, 40])
@pytest.mark.parametrize("p", [1.0, 2.0])
def test_features_that_are_compared_with_centres_are_cut(count: int, p: float) -> None:
    model = Prototypes(count, p=p).eval()

    graph = trace(model, EXAMPLE)

    assert sorted(graph.widths.values()) == [12, 16]
    assert not any(group.approximate for group in graph.groups)
    assert judge(model, lambda m: cut_at_random(m, graph), EXAMPLE).holds == "exact"
    assert any("distances" in name for name in graph.unpriced)


def test_so_are_features_that_are_compared_with_a_buffer() -> None:
    model = Prototypes(learnt=False).double().eval()
    example = EXAMPLE.double()

    graph = trace(model, example)
    assert sorted(graph.widths.values()) == [12, 16]
    kept = random_kept(graph.groups, share=0.3, seed=0)
    slice_model(small := copy.deepcopy(model), graph.groups, kept)
    zero_channels(model, graph.groups, kept)

    assert torch.allclose(small(example), model(example), rtol=1e-9)


@pytest.mark.parametrize("count", [6, 40])
def test_so_are_hidden_centres(count: int) -> None:
    model = Prototypes(count, head=True).eval()

    graph = trace(model, EXAMPLE)

    assert sorted(graph.widths.values()) == sorted([12, 16, count])
    assert judge(model, lambda m: cut_at_random(m, graph), EXAMPLE).holds == "exact"


class Batched(Prototypes):
    """Compares the features of every place with the same centres."""

    def forward(self, x: Tensor) -> Tensor:
        places = self.body[:2](x).flatten(2).transpose(1, 2)
        found: Tensor = torch.cdist(self.body[4](places), self.centres[None])
        return found.amin(1)


def test_features_of_places_are_cut_too() -> None:
    model = Batched().eval()

    graph = trace(model, EXAMPLE)

    assert sorted(graph.widths.values()) == [12, 16]
    assert judge(model, lambda m: cut_at_random(m, graph), EXAMPLE).holds == "exact"


def test_features_that_are_not_zero_where_nothing_comes_in_stay() -> None:
    """The centres' entries would go, and what stood beside them would not have been zero."""
    graph = trace(Prototypes(last=nn.Sigmoid()).eval(), EXAMPLE)

    assert graph.widths == {"body.0": 16}


class Made(Prototypes):
    """Makes its centres of others."""

    def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.of = of

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(self.body(x), self.of(self.centres))


def test_centres_may_be_made_of_others() -> None:
    model = Made(lambda c: 2 * c.tanh()).eval()

    graph = trace(model, EXAMPLE)

    assert sorted(graph.widths.values()) == [12, 16]
    assert judge(model, lambda m: cut_at_random(m, graph), EXAMPLE).holds == "exact"
    assert trace(Made(lambda c: c.exp()).eval(), EXAMPLE).widths == {"body.0": 16}


@pytest.mark.parametrize("learnt", [True, False])
def test_features_are_scored(learnt: bool) -> None:
    model = Prototypes(learnt=learnt).eval()
    graph = trace(model, EXAMPLE)
    (name,) = (group.name for group in graph.groups if group.channels == 12)

    found = taylor(model, graph, [(EXAMPLE, torch.tensor([0, 1]))], loss=F.cross_entropy)

    assert found.scores[name].sum() > 0
    assert magnitude(model, graph).scores[name].sum() > 0


def test_a_cut_network_with_distances_is_exported(tmp_path: Path) -> None:
    model = Prototypes().eval()
    graph = trace(model, EXAMPLE)
    small = cut_at_random(model, graph)
    assert small.centres.shape == (5, 8)

    export_onnx(small, EXAMPLE, tmp_path / "small.onnx")  # which compares what it writes

    assert (tmp_path / "small.onnx").is_file()
