"""Every criterion of latprune holds the contract that it ships."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latprune.saliency import magnitude, taylor
from latprune.testing import CriterionContract

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


class TestMagnitude(CriterionContract):
    def score(
        self,
        model: nn.Module,
        graph: PruningGraph,
        batches: Batches,
        loss: Loss,
    ) -> Saliency:
        return magnitude(model, graph)
