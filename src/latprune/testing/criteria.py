# ruff: noqa: D102  # a test's name is its sentence
"""What every criterion must hold."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latprune.errors import ModelMismatch
from latprune.testing.small_network import random_batches, small_network

if TYPE_CHECKING:
    from latprune.graph.groups import PruningGraph
    from latprune.saliency.scores import Saliency

Batches: TypeAlias = Sequence[tuple[Tensor, Tensor]]
Loss: TypeAlias = Callable[[Any, Any], Tensor]


class CriterionContract:
    """What every criterion must hold; inherit it, and write `score`."""

    def score(
        self, model: nn.Module, graph: PruningGraph, batches: Batches, loss: Loss
    ) -> Saliency:
        """Call the criterion; data-free ones ignore batches and loss."""
        raise NotImplementedError(f"{type(self).__name__} must write score()")

    def _scores(self, model: nn.Module, graph: PruningGraph) -> dict[str, np.ndarray]:
        return dict(self.score(model, graph, random_batches(), F.cross_entropy).scores)

    def test_every_channel_gets_a_finite_score_that_is_not_negative(self) -> None:
        model, graph = small_network()
        scores = self._scores(model, graph)

        assert {group: s.shape for group, s in scores.items()} == {"stem": (8,), "inner": (4,)}
        for of_channels in scores.values():
            assert of_channels.dtype == np.float64
            assert np.isfinite(of_channels).all()
            assert (of_channels >= 0).all()
            assert (of_channels > 0).any()

    def test_a_width_is_worth_no_less_than_a_narrower_one(self) -> None:
        model, graph = small_network()
        saliency = self.score(model, graph, random_batches(), F.cross_entropy)

        for group in graph.groups:
            values = saliency.values(group.name)
            assert values.shape == (group.channels + 1,)
            assert values[0] == 0
            assert (np.diff(values) >= 0).all()

    def test_the_same_input_gives_the_same_scores(self) -> None:
        model, graph = small_network()
        first, second = self._scores(model, graph), self._scores(model, graph)

        for group, expected in first.items():
            np.testing.assert_array_equal(second[group], expected)

    @pytest.mark.parametrize("training", [True, False])
    def test_the_model_stays_as_it_was(self, training: bool) -> None:
        model, graph = small_network()
        model.train(training)
        model.stem_norm.train(not training)
        images, labels = random_batches(1)[0]
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        before = _state(model)
        self._scores(model, graph)

        assert _equal(_state(model), before)

    def test_frozen_parameters_are_scored_and_stay_frozen(self) -> None:
        model, graph = small_network()
        expected = self._scores(model, graph)
        model.requires_grad_(False)

        with torch.no_grad():
            found = self._scores(model, graph)

        for group, of_channels in expected.items():
            np.testing.assert_array_equal(found[group], of_channels)
        assert not any(parameter.requires_grad for parameter in model.parameters())

    def test_a_channel_whose_writers_are_zero_is_worth_nothing(self) -> None:
        model, graph = small_network()
        with torch.no_grad():
            for group in graph.groups:
                for member in group.with_role("writes", "scale", "shift"):
                    model.get_parameter(member.parameter)[1] = 0
        scores = self._scores(model, graph)

        assert scores["stem"][1] == 0
        assert scores["inner"][1] == 0

    def test_another_models_graph_is_an_error(self) -> None:
        _, graph = small_network()

        with pytest.raises(ModelMismatch):
            self._scores(nn.Sequential(nn.Conv2d(3, 8, 3)), graph)


def _state(model: nn.Module) -> dict[str, Any]:
    """Copy all that a criterion might change."""
    return {
        "entries": copy.deepcopy(model.state_dict()),
        "gradients": {name: copy.deepcopy(p.grad) for name, p in model.named_parameters()},
        "frozen": {name: torch.tensor(p.requires_grad) for name, p in model.named_parameters()},
        "modes": {name: torch.tensor(m.training) for name, m in model.named_modules()},
    }


def _equal(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    return all(
        torch.equal(found[kind][name], entries)
        for kind, of_kind in expected.items()
        for name, entries in of_kind.items()
    )
