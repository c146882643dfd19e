"""Scores are checked where they are made."""

from __future__ import annotations

import numpy as np
import pytest

from latprune.errors import ModelMismatch, NotFinite
from latprune.graph.groups import PruningGraph
from latprune.saliency import Saliency
from tests.strategies import group_of


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(score: float) -> None:
    with pytest.raises(NotFinite, match="stem"):
        Saliency({"stem": np.array([1.0, score])}, criterion="mine")


@pytest.mark.parametrize("scores", [np.array([1.0, -0.5]), np.ones((2, 2))])
def test_negative_scores_and_scores_not_one_per_channel_are_refused(scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one score ≥ 0 per channel"):
        Saliency({"stem": scores}, criterion="mine")


@pytest.mark.parametrize(
    ("scores", "message"),
    [({}, "none of them"), ({"stem": np.ones(7)}, "7 of them")],
)
def test_scores_of_another_network_are_told_apart(
    scores: dict[str, np.ndarray], message: str
) -> None:
    graph = PruningGraph((), (group_of("stem", 8),))

    with pytest.raises(ModelMismatch, match=message):
        Saliency(scores, criterion="mine").check(graph)
