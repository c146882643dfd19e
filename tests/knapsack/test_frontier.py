"""The frontier has every corner of the hull of all choices, and each is an optimum."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings

from latprune.errors import ProblemTooDense
from latprune.knapsack import Problem, Table, frontier, joint
from tests.knapsack.networks import resnet50
from tests.strategies import problems

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latprune.knapsack import Choice


def hull(problem: Problem) -> list[tuple[float, float]]:
    """Walk the concave hull of all choices, from the cheapest up to the most valuable."""
    every = itertools.product(*(range(n) for n in problem.sizes))
    points = {(problem.cost_of(picks), problem.value_of(picks)) for picks in every}
    ascending = sorted(point for point in points if math.isfinite(point[0]))
    corners: list[tuple[float, float]] = []
    for cost, value in ascending:
        if corners and value <= corners[-1][1]:
            continue
        while corners and corners[-1][0] == cost:
            corners.pop()
        while len(corners) > 1 and _slope(corners[-2], corners[-1]) <= _slope(
            corners[-1], (cost, value)
        ):
            corners.pop()
        corners.append((cost, value))
    return corners


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])


def points(corners: Sequence[Choice]) -> list[tuple[float, float]]:
    return [(corner.cost_ms, corner.value) for corner in corners]


@settings(max_examples=100, deadline=None)
@given(problem=problems())
def test_it_has_every_corner_and_nothing_else(problem: Problem) -> None:
    assert points(frontier(problem)) == hull(problem)


def test_of_choices_as_cheap_the_more_valuable_one_begins_it() -> None:
    # Options 0 and 1 of the first group cost the same; the middle of the frontier lies elsewhere.
    values = [np.array([0.0, 1.0]), np.array([0.0, 6.0, 8.0])]
    tables = [Table((0,), np.zeros(2)), Table((0, 1), np.array([[0.0, 1.0, 4.0]] * 2))]
    problem = Problem(values, tables, math.inf)

    assert points(frontier(problem)) == hull(problem) == [(0.0, 1.0), (1.0, 7.0), (4.0, 9.0)]


@settings(max_examples=50, deadline=None)
@given(problem=problems())
def test_every_corner_is_the_optimum_at_its_own_cost(problem: Problem) -> None:
    for corner in frontier(problem):
        best = joint(replace(problem, budget_ms=corner.cost_ms))

        assert corner.value == pytest.approx(best.value, rel=1e-9)
        assert corner.bound == corner.value


def test_prices_fall_towards_the_dense_network() -> None:
    corners = frontier(resnet50().problem(0.5), tolerance=1e-3)
    prices = [corner.prices[0] for corner in corners]

    assert prices == sorted(prices, reverse=True)
    assert prices[-1] == 0


def test_a_tolerance_leaves_out_corners_that_hardly_rise() -> None:
    problem = resnet50().problem(0.5)
    some, more = frontier(problem, tolerance=1e-3), frontier(problem, tolerance=2e-4)

    assert 10 < len(some) < len(more)
    costs = [corner.cost_ms for corner in some]
    values = np.interp(
        [corner.cost_ms for corner in more], costs, [corner.value for corner in some]
    )
    short = np.array([corner.value for corner in more]) - values
    assert short.max() <= 2e-3 * some[-1].value


def test_two_budgets_have_no_frontier() -> None:
    with pytest.raises(ValueError, match="one budget"):
        frontier(Problem([np.ones(2)], [], 1.0, further_ms=[1.0]))


def test_a_problem_that_forbids_everything_is_an_error() -> None:
    with pytest.raises(ValueError, match="forbid every combination"):
        frontier(Problem([np.ones(1)], [Table((0,), np.array([math.inf]))], 1.0))


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(ProblemTooDense):
        frontier(resnet50().problem(0.5), memory_mib=0.1)
