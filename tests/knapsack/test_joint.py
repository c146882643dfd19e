"""`joint` proves its choices on networks of real size, and its bound holds at any effort."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latprune.errors import BoundIsLooser, BudgetsTooSmall, BudgetTooSmall
from latprune.knapsack import Problem, Table, joint, uniform
from latprune.testing import exhaustive
from tests.knapsack.networks import densenet, googlenet, resnet50
from tests.strategies import problems

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.knapsack.networks import Sketch


@pytest.mark.parametrize("network", [resnet50, densenet, googlenet])
@pytest.mark.parametrize("share", [0.8, 0.55, 0.3])
def test_a_network_of_real_size_is_solved_to_a_proven_gap(
    network: Callable[[], Sketch], share: float
) -> None:
    problem = network().problem(share)
    choice = joint(problem)

    assert problem.cost_of(choice.picks) <= problem.budget_ms
    assert choice.gap <= 1e-4
    assert choice.value > uniform(problem).value


@settings(max_examples=50)
@given(problem=problems(), searches=st.lists(st.integers(1, 4), max_size=2))
def test_the_bound_holds_however_little_is_searched(problem: Problem, searches: list[int]) -> None:
    choice = joint(problem, gap=0.0, search_widths=searches)

    assert choice.cost_ms <= problem.budget_ms
    assert choice.value <= exhaustive(problem).value <= choice.bound + 1e-9


def tangled(seed: int) -> Problem:
    """Make a problem in which the relaxed optimum seldom fits: six groups that all meet."""
    rng = np.random.default_rng(seed)
    values = [np.sort(rng.random(4)) for _ in range(6)]
    pairs = [(a, b) for a in range(6) for b in range(a)]
    tables = [Table(pair, rng.random((4, 4)) * rng.integers(1, 4)) for pair in pairs]
    mean_ms = math.fsum(float(cost.mean()) for _, cost, *_ in tables)
    return Problem(values, tables, 0.8 * mean_ms)


@pytest.mark.parametrize("searches", [(), (1,), (3,), (1, 8)])
def test_little_search_leaves_a_gap_but_no_false_bound(searches: tuple[int, ...]) -> None:
    choices = [
        (joint(tangled(s), search_widths=searches, branches=0), exhaustive(tangled(s)))
        for s in range(40)
    ]

    for found, best in choices:
        assert found.value <= best.value <= found.bound + 1e-12
    assert any(found.gap > 0 for found, _ in choices)


@pytest.mark.parametrize("branches", [1, 3, 100])
def test_dividing_raises_values_and_lowers_bounds_but_never_past_the_optimum(
    branches: int,
) -> None:
    for seed in range(40):
        problem, best = tangled(seed), exhaustive(tangled(seed))
        undivided = joint(problem, search_widths=(), branches=0)
        found = joint(problem, search_widths=(), branches=branches)

        assert undivided.value <= found.value <= best.value + 1e-12
        assert best.value <= found.bound + 1e-12 <= undivided.bound + 2e-12
        if branches == 100:
            assert found.gap <= 1e-4


def one_large_step(small: int) -> Problem:
    """Make a problem whose budget lies in a gap that one large option leaves in the frontier."""
    rng = np.random.default_rng(0)
    values = [np.array([0.0, 100.0]), *(np.sort(rng.random(8)) for _ in range(small))]
    costs = [np.array([0.0, 50.0]), *(np.sort(rng.random(8)) for _ in range(small))]
    tables = [Table((v,), cost) for v, cost in enumerate(costs)]
    return Problem(values, tables, 49.0)


def test_a_budget_between_two_far_corners_of_the_frontier_is_used() -> None:
    problem = one_large_step(100)
    undivided, found = joint(problem, branches=0), joint(problem)

    assert found.picks[0] == 0  # the large option does not fit
    assert found.gap <= 1e-4 < undivided.gap
    assert found.cost_ms >= 0.99 * problem.budget_ms


def test_enough_search_finds_the_optimum_and_proves_it() -> None:
    for seed in range(40):
        found, best = joint(tangled(seed), gap=0.0), exhaustive(tangled(seed))

        assert found.value == best.value == found.bound


def test_a_cost_above_the_budget_by_rounding_alone_does_not_fit() -> None:
    assert 0.1 + 0.2 > 0.3
    tables = [Table((0,), np.array([0.0, 0.1])), Table((1,), np.array([0.0, 0.2]))]
    problem = Problem([np.array([0.0, 1.0]), np.array([0.0, 1.5])], tables, 0.3)

    assert joint(problem).picks == (0, 1)


@settings(max_examples=50)
@given(problem=problems())
def test_a_budget_of_exactly_the_floor_is_met(problem: Problem) -> None:
    with pytest.raises(BudgetTooSmall) as error:
        joint(Problem(problem.values, problem.tables, -1e6))
    floor_ms = error.value.floor_ms

    assert joint(Problem(problem.values, problem.tables, floor_ms)).cost_ms == floor_ms


def test_channels_worth_nothing_go_where_they_cost_time() -> None:
    problem = Problem([np.zeros(3)], [Table((0,), np.array([2.0, 1.0, 3.0]))], 3.0)

    assert joint(problem).picks == (1,)


def test_two_groups_are_traded_against_each_other() -> None:
    # Alone, the first gains more per ms; both fit only if it stays narrow.
    values = [np.array([0.0, 6.0]), np.array([0.0, 5.0]), np.array([0.0, 5.0])]
    tables = [Table((v,), np.array([0.0, cost])) for v, cost in enumerate([5.0, 4.5, 4.5])]

    assert joint(Problem(values, tables, 9.0)).picks == (0, 1, 1)


def test_a_problem_that_forbids_everything_is_an_error() -> None:
    problem = Problem([np.array([1.0, 2.0])], [Table((0,), np.array([math.inf, math.inf]))], 1.0)

    with pytest.raises(ValueError, match="forbid every combination"):
        joint(problem)


def test_with_too_little_memory_the_bound_still_holds() -> None:
    problem = resnet50().problem(0.5)
    exact = joint(problem)

    with pytest.warns(BoundIsLooser):
        looser = joint(problem, memory_mib=0.5)

    assert looser.cost_ms <= problem.budget_ms
    assert looser.value <= exact.bound
    assert exact.value <= looser.bound
    assert 0 < looser.gap < 0.02


@pytest.mark.filterwarnings("ignore::latprune.errors.BoundIsLooser")
def test_a_budget_that_split_tables_do_not_rule_out_is_not_said_to_be_one_of_several() -> None:
    rng = np.random.default_rng(0)
    pairs = [(one, other) for one in range(4) for other in range(one)]
    tables = [Table(pair, rng.integers(1, 9, size=(3, 3)).astype(float)) for pair in pairs]
    problem = Problem([np.arange(3.0)] * 4, tables, budget_ms=12.0)  # nothing costs less than 13

    with pytest.raises(BudgetTooSmall) as error:
        joint(problem, memory_mib=1e-4)

    assert not isinstance(error.value, BudgetsTooSmall)
    assert error.value.floor_ms >= 13.0


@settings(max_examples=100, deadline=None)
@given(problem=problems(targets=2), branches=st.sampled_from([0, 1, 30]))
def test_a_bound_holds_with_hardly_any_memory_and_search(problem: Problem, branches: int) -> None:
    try:
        optimum = exhaustive(problem).value
    except BudgetTooSmall:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BoundIsLooser)
        try:
            found = joint(problem, search_widths=(), branches=branches, memory_mib=1e-6)
        except BudgetTooSmall:  # it may miss what fits, but says nothing false of it
            return

    assert problem.fits(found.costs_ms)
    assert found.value <= optimum + 1e-9
    assert optimum <= found.bound + 1e-9


def test_a_budget_without_end_beside_another_one_does_not_bind() -> None:
    problem = resnet50().problem(0.5)
    twice = [*problem.tables, *(table._replace(target=1) for table in problem.tables)]

    found = joint(Problem(problem.values, twice, problem.budget_ms, further_ms=[math.inf]))

    assert found.value == pytest.approx(joint(problem).value, rel=1e-6)
    assert found.gap <= 1e-4
