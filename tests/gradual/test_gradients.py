"""Scores from training's own gradients are the formula's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import latprune as lp
from latprune.errors import NotFinite
from latprune.gradual.gradients import GradientScores
from latprune.saliency import taylor, taylor_squared
from latprune.saliency.terms import gates
from tests.gradual.training import EXAMPLE, batch, network
from tests.networks import EVERY


def scorer(model: nn.Module, *, squared: bool = False) -> tuple[GradientScores, lp.PruningGraph]:
    graph = lp.trace(model, EXAMPLE)
    members = gates(model, graph.groups)
    return GradientScores(model, graph.groups, members, squared=squared), graph


def backward(model: nn.Module, number: int) -> None:
    images, labels = batch(number)
    model.zero_grad()
    F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]


CLASSIFIERS = [one for one in EVERY if one.__name__ != "Transposed"]


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("criterion", [taylor, taylor_squared])
def test_scores_are_those_of_the_criterion_on_the_same_batches(
    kind: type[nn.Module], criterion: Any
) -> None:
    model = kind().eval()
    scores, graph = scorer(model, squared=criterion is taylor_squared)

    for number in range(3):
        backward(model, number)
        scores.add()

    expected = criterion(model, graph, map(batch, range(3)), F.cross_entropy).scores
    found = scores.mean(max_skips=0)
    for group in graph.groups:
        assert found[group.name] == pytest.approx(expected[group.name], rel=1e-4, abs=1e-7)


def test_a_scale_is_taken_out() -> None:
    model = network().eval()
    plain, graph = scorer(model)
    scaled, _ = scorer(model)
    backward(model, 0)
    plain.add()
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad *= 64
    scaled.add(scale=torch.tensor(64.0), overflown=torch.tensor(0.0))

    ours, theirs = plain.mean(max_skips=0), scaled.mean(max_skips=0)
    assert all(np.allclose(ours[g.name], theirs[g.name]) for g in graph.groups)


@pytest.mark.parametrize("overflown", [None, torch.tensor(1.0)])
def test_a_step_that_is_not_finite_counts_for_nothing(overflown: Tensor | None) -> None:
    model = network().eval()
    scores, graph = scorer(model)
    alone, _ = scorer(model)
    backward(model, 0)
    scores.add()
    alone.add()
    gradient = model.get_parameter("norm.bias").grad
    assert gradient is not None
    gradient[3] = float("inf")
    scores.add(overflown=overflown)

    expected = alone.mean(max_skips=0)
    found = scores.mean(max_skips=1 if overflown is None else 0)
    assert all(np.array_equal(found[g.name], expected[g.name]) for g in graph.groups)


def test_more_steps_that_are_not_finite_than_allowed_name_the_group() -> None:
    model = network().eval()
    scores, _ = scorer(model)
    backward(model, 0)
    scores.add()
    gradient = model.get_parameter("outer.weight").grad  # which reads `inner`
    assert gradient is not None
    gradient[:, 0] = float("nan")
    scores.add()
    scores.add()

    with pytest.raises(NotFinite, match=r"gradients of 2 steps are nan or infinite in inner\.0\."):
        scores.mean(max_skips=1)


def test_parameters_that_the_loss_did_not_reach_add_nothing() -> None:
    model = network().eval()
    scores, graph = scorer(model)
    model.zero_grad()
    model.get_submodule("inner")(model.get_submodule("stem")(EXAMPLE + 1)).sum().backward()
    scores.add()

    found = scores.mean(max_skips=0)
    assert found["stem.0"].any()
    assert not found["inner.0"].any()
    assert set(found) == {group.name for group in graph.groups}


def test_no_steps_at_all_are_an_error() -> None:
    scores, _ = scorer(network().eval())

    with pytest.raises(NotFinite, match="no step gave gradients"):
        scores.mean(max_skips=0)
