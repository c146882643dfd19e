"""Every criterion of latprune holds the contract that it ships."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch.nn.functional as F

from latprune.saliency import (
    fisher,
    gauss_newton,
    magnitude,
    names,
    probe,
    relative,
    scored,
    taylor,
    taylor_squared,
)
from latprune.testing import CriterionContract, random_batches, small_network

if TYPE_CHECKING:
    from torch import nn

    from latprune.graph.groups import PruningGraph
    from latprune.saliency import Saliency
    from latprune.testing import Batches, Loss


class TestTaylor(CriterionContract):
    def score(
        self, model: nn.Module, graph: PruningGraph, batches: Batches, loss: Loss
    ) -> Saliency:
        return taylor(model, graph, batches, loss)


class TestTaylorSquared(CriterionContract):
    def score(
        self, model: nn.Module, graph: PruningGraph, batches: Batches, loss: Loss
    ) -> Saliency:
        return taylor_squared(model, graph, batches, loss)


class TestFisher(CriterionContract):
    def score(
        self, model: nn.Module, graph: PruningGraph, batches: Batches, loss: Loss
    ) -> Saliency:
        return fisher(model, graph, batches, loss)


class TestGaussNewton(CriterionContract):
    def score(
        self, model: nn.Module, graph: PruningGraph, batches: Batches, loss: Loss
    ) -> Saliency:
        return gauss_newton(model, graph, batches)


class TestProbe(CriterionContract):
    def score(
        self, model: nn.Module, graph: PruningGraph, batches: Batches, loss: Loss
    ) -> Saliency:
        return probe(model, graph, batches, loss)


class TestRelative(CriterionContract):
    def score(
        self, model: nn.Module, graph: PruningGraph, batches: Batches, loss: Loss
    ) -> Saliency:
        return relative(fisher(model, graph, batches, loss), graph)


class TestMagnitude(CriterionContract):
    def score(
        self,
        model: nn.Module,
        graph: PruningGraph,
        batches: Batches,
        loss: Loss,
    ) -> Saliency:
        return magnitude(model, graph)


@pytest.mark.parametrize("name", names())
def test_a_criterion_is_had_by_its_name(name: str) -> None:
    model, graph = small_network()

    assert scored(name, model, graph, random_batches(), F.cross_entropy).criterion == name


def test_without_data_everything_is_scored_by_magnitude() -> None:
    model, graph = small_network()

    assert scored("fisher", model, graph, None, F.cross_entropy).criterion == "magnitude"


def test_an_unknown_name_says_what_there_is() -> None:
    model, graph = small_network()

    with pytest.raises(ValueError, match=r"taylor, .* or a function, not 'tailor'"):
        scored("tailor", model, graph, random_batches(), F.cross_entropy)


def test_by_name_groups_in_branches_are_valued_as_such() -> None:
    model, graph = small_network()
    graph = replace(graph, in_branches=frozenset({graph.groups[1].name}))
    batches = random_batches()

    found = scored("relative_fisher", model, graph, batches, F.cross_entropy)

    expected = relative(fisher(model, graph, batches, F.cross_entropy), graph)
    for group in graph.groups:
        np.testing.assert_allclose(found.values(group.name), expected.values(group.name))
    trunk, inner = (found.values(group.name)[-1] for group in graph.groups)
    assert trunk > 10 * inner  # the one without bound, the other one its own worth at most
