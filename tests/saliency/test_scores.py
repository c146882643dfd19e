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


def test_without_curves_a_width_is_worth_its_best_channels_scores() -> None:
    saliency = Saliency({"stem": np.array([1.0, 4.0, 0.0, 4.0])}, criterion="mine")

    assert saliency.ranked("stem").tolist() == [1, 3, 0, 2]
    assert saliency.values("stem").tolist() == [0, 4, 8, 9, 9]


def test_a_curve_decides_what_a_width_is_worth_and_scores_who_stays() -> None:
    curve = np.array([0.0, 1.0, 1.0, 7.0])
    scores = {"stem": np.array([1.0, 3.0, 2.0])}
    saliency = Saliency(scores, criterion="mine", curves={"stem": curve})

    assert saliency.ranked("stem").tolist() == [1, 2, 0]
    assert saliency.values("stem").tolist() == [0, 1, 1, 7]


def test_what_is_lost_is_added_over_groups() -> None:
    scores = {"stem": np.array([1.0, 3.0, 2.0]), "inner": np.array([5.0, 0.5])}
    saliency = Saliency(scores, criterion="mine")

    assert saliency.lost({"stem": 1, "inner": 1}) == pytest.approx(1 + 2 + 0.5)


def test_a_group_may_be_worth_more_gone_with_its_branch_than_narrow() -> None:
    scores = {"stem": np.ones(2), "inner": np.array([5.0, 0.5])}
    saliency = Saliency(scores, criterion="mine", gone={"inner": 5.2})

    assert saliency.values("inner").tolist() == [0, 5, 5.5]
    assert saliency.worth("inner").tolist() == [5.2, 5, 5.5]
    assert saliency.worth("stem").tolist() == [0, 1, 2]
    assert saliency.lost({"stem": 1, "inner": 0}) == pytest.approx(1 + 0.3)


@pytest.mark.parametrize("gone", [{"other": 1.0}, {"stem": -1.0}, {"stem": np.nan}])
def test_what_no_group_can_leave_is_refused(gone: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="is a scored group and ≥ 0"):
        Saliency({"stem": np.ones(2)}, criterion="mine", gone=gone)


@pytest.mark.parametrize(
    "curve", [[0.0, 1.0], [0.5, 1.0, 2.0], [0.0, 2.0, 1.0]], ids=["short", "not from 0", "falls"]
)
def test_a_curve_that_is_none_is_refused(curve: list[float]) -> None:
    with pytest.raises(ValueError, match="never falls over the 3 widths"):
        Saliency({"stem": np.ones(2)}, criterion="mine", curves={"stem": np.array(curve)})


def test_curves_that_are_not_finite_are_refused() -> None:
    with pytest.raises(NotFinite, match="stem"):
        Saliency({"stem": np.ones(1)}, criterion="mine", curves={"stem": np.array([0, np.inf])})


def test_curves_for_some_groups_alone_are_refused() -> None:
    scores = {"stem": np.ones(1), "inner": np.ones(1)}

    with pytest.raises(ValueError, match="every group has a curve or none"):
        Saliency(scores, criterion="mine", curves={"stem": np.array([0.0, 1.0])})
