"""Relative values: like the sum of scores for small cuts, and without mercy for large ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from latprune.graph.groups import PruningGraph
from latprune.saliency import Saliency, relative

WITHOUT_BRANCHES = PruningGraph((), ())
SCORES = arrays(np.float64, st.integers(1, 40), elements=st.floats(0.0, 1e3))


def valued(*groups: np.ndarray, prior: float = 1.0) -> list[np.ndarray]:
    """Give what the widths of groups are worth."""
    scores = {f"group{number}": of_channels for number, of_channels in enumerate(groups)}
    found = relative(Saliency(scores, criterion="mine"), WITHOUT_BRANCHES, prior=prior)
    return [found.values(name) for name in scores]


@given(st.lists(SCORES, min_size=1, max_size=4), st.floats(0.0, 10.0))
def test_every_channel_more_is_worth_less_than_the_one_before(
    groups: list[np.ndarray], prior: float
) -> None:
    for values in valued(*groups, prior=prior):
        gains = np.diff(values)
        assert values[0] == 0
        assert (gains >= 0).all()
        assert (np.diff(gains) <= 1e-9 * max(1.0, values[-1])).all()


def test_a_small_cut_costs_what_the_sum_says() -> None:
    scores = np.linspace(1.0, 2.0, 1000)

    (values,) = valued(scores, prior=0.0)

    assert values[-1] - values[-2] == pytest.approx(scores.min(), rel=0.01)


def test_what_is_lost_is_weighed_by_what_is_left() -> None:
    (values,) = valued(np.ones(10), prior=0.0)

    lost = values[-1] - values
    assert lost[5] == pytest.approx(10.0)  # half: as much noise as signal
    assert lost[2] == pytest.approx(40.0)
    assert np.isfinite(lost[0])
    assert lost[0] > 2 * lost[1]


def test_no_group_is_worth_less_than_the_prior() -> None:
    loud, quiet = 100.0 * np.ones(8), np.ones(8)  # typical is the sum between them, 80

    def ratio(prior: float) -> float:
        first, second = valued(loud, quiet, prior=prior)
        return float(first[-1] / second[-1])

    assert ratio(0.0) == pytest.approx(800 / 8)
    assert ratio(1.0) == pytest.approx(880 / 88)
    assert ratio(10.0) == pytest.approx(1600 / 808)


@given(SCORES.filter(lambda scores: scores.sum() > 1e-3), st.floats(1e-3, 1e3))
def test_the_unit_of_the_scores_does_not_matter(scores: np.ndarray, factor: float) -> None:
    other = np.ones(4)

    first, second = valued(scores, other), valued(factor * scores, factor * other)

    for one, scaled in zip(first, second, strict=True):
        np.testing.assert_allclose(scaled, factor * one, rtol=1e-9)


def lost(**settings: float) -> dict[str, np.ndarray]:
    """Give what the widths of three groups cost, two of them in a branch."""
    scores = {"trunk": np.ones(10), "inner": np.ones(10), "deeper": np.full(10, 3.0)}
    inside = frozenset({"inner", "deeper"})
    graph = PruningGraph((), (), in_branches=inside)
    found = relative(Saliency(scores, criterion="mine"), graph, prior=0.0, **settings)
    return {group: found.worth(group)[-1] - found.worth(group) for group in scores}


def test_a_branch_is_lost_only_once() -> None:
    costs = lost()

    assert costs["inner"][[0, 5]] == pytest.approx([10, 10 * 0.5 / 1.5])
    assert costs["trunk"][5] == pytest.approx(10.0)
    assert costs["trunk"][0] > 100.0


@given(st.floats(0.2, 10.0), st.floats(0.2, 10.0))
def test_the_stronger_the_trunk_the_less_a_branch_costs(one: float, other: float) -> None:
    weak, strong = (lost(trunk=trunk)["inner"] for trunk in sorted([one, other]))

    assert (strong <= weak + 1e-9).all()
    assert weak[0] == pytest.approx(10 / min(one, other))


def test_beside_no_trunk_a_branch_is_like_any_group() -> None:
    costs = lost(trunk=0.0)

    np.testing.assert_allclose(costs["inner"], costs["trunk"])


def test_nothing_is_worth_about_as_much_as_next_to_nothing() -> None:
    nothing, something = valued(np.zeros(3), np.ones(3))
    hardly, _ = valued(np.full(3, 1e-12), np.ones(3), prior=0.0)

    np.testing.assert_allclose(nothing, something / 2)  # what is typical, and no sum besides
    np.testing.assert_allclose(hardly, 1e-12 * something / 2)


def test_where_nothing_is_typical_a_group_without_worth_stays_without() -> None:
    (alone,) = valued(np.zeros(3))
    nothing, _ = valued(np.zeros(3), np.ones(3), prior=0.0)

    assert not alone.any()
    assert not nothing.any()


def test_the_order_of_channels_stays() -> None:
    saliency = Saliency({"stem": np.array([1.0, 4.0, 0.0, 2.0])}, criterion="fisher")

    found = relative(saliency, WITHOUT_BRANCHES)

    assert found.ranked("stem").tolist() == saliency.ranked("stem").tolist()
    assert found.criterion == "relative_fisher"


def test_curves_are_refused() -> None:
    probed = Saliency({"stem": np.ones(2)}, criterion="probe", curves={"stem": np.arange(3.0)})

    with pytest.raises(ValueError, match="probe judges widths as a whole"):
        relative(probed, WITHOUT_BRANCHES)


@pytest.mark.parametrize("name", ["prior", "trunk"])
def test_what_is_below_0_is_refused(name: str) -> None:
    saliency, settings = Saliency({"stem": np.ones(2)}, criterion="mine"), {name: -1.0}

    with pytest.raises(ValueError, match=f"{name} is at least 0, not -1"):
        relative(saliency, WITHOUT_BRANCHES, **settings)
