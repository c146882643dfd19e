"""`halp` packs as the method does when it is carried out by hand, tick by tick."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latprune.errors import BudgetTooSmall
from latprune.knapsack import Problem, Table, halp, uniform
from latprune.knapsack.halp import schedule
from tests.knapsack.halp_by_hand import halp_by_hand
from tests.knapsack.networks import Sketch, resnet50
from tests.strategies import problems

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def outcome(choose: Callable[[], Sequence[int]]) -> tuple[int, ...] | float:
    """Give the picks, or the least cost of a solver that refuses."""
    try:
        return tuple(choose())
    except BudgetTooSmall as error:
        return error.floor_ms


def below_dense(problem: Problem, share: float) -> Problem:
    """Take a share of the dense cost off the budget, so that something must go."""
    dense_ms = problem.cost_of([n - 1 for n in problem.sizes])
    return replace(problem, budget_ms=dense_ms - share * abs(dense_ms))


def small_network(seed: int) -> Problem:
    """Draw a residual block, a concatenation with a depthwise layer, and a fixed output."""
    net = Sketch(seed)
    trunk = net.conv((), 64, size=32, kernel=3)
    inner = net.conv((trunk,), 48, size=32, kernel=3)
    net.conv_into((inner,), trunk, size=32)
    left = net.conv((trunk,), 80, size=16, kernel=3)
    right = net.conv((trunk,), 40, size=16)
    both = left, right, inner
    head = net.conv(both, 96, size=16)
    problem = net.problem(1.0)
    *_, concatenation = (v for v, widths in enumerate(problem.widths) if widths is None)
    rng = np.random.default_rng(seed)
    depthwise = Table((concatenation,), np.sort(rng.random(problem.sizes[concatenation])))
    classes = Table((head,), np.sort(rng.random(problem.sizes[head])), writes=None)
    # Wider is not always slower.
    uneven = 0.3 * rng.random((problem.sizes[concatenation], problem.sizes[left]))
    # So narrow the one is never while the other is that wide, except in prices at present inputs.
    uneven[-1, 0] = np.inf
    into_a_part = Table((concatenation, left), uneven)
    return replace(problem, tables=[*problem.tables, depthwise, classes, into_a_part])


@settings(max_examples=150)
@given(
    problem=problems(),
    share=st.integers(1, 12).map(lambda n: n / 16),
    steps=st.integers(1, 4),
    tick_ms=st.sampled_from([0.125, 0.25, 0.7]),
)
def test_the_picks_are_those_of_the_method_carried_out_by_hand(
    problem: Problem, share: float, steps: int, tick_ms: float
) -> None:
    problem = below_dense(problem, share)

    found = outcome(lambda: halp(problem, steps=steps, tick_ms=tick_ms).picks)
    assert found == outcome(lambda: halp_by_hand(problem, steps=steps, tick_ms=tick_ms))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.2, 0.5, 0.7])
@pytest.mark.parametrize("steps", [1, 4])
def test_so_they_are_on_a_small_network(seed: int, share: float, steps: int) -> None:
    problem = below_dense(small_network(seed), share)
    tick_ms = problem.budget_ms / 200

    picks = halp(problem, steps=steps, tick_ms=tick_ms).picks
    assert list(picks) == halp_by_hand(problem, steps=steps, tick_ms=tick_ms)


def test_channels_that_give_time_back_are_packed() -> None:
    # The third option is faster than the second, which alone would not fit.
    tables = [Table((0,), np.array([1.0, 6.0, 3.0])), Table((1,), np.array([1.0, 5.0]))]
    values = [np.array([0.0, 2.0, 3.0]), np.array([0.0, 1.0])]

    choice = halp(Problem(values, tables, 5.0), steps=1, tick_ms=1.0)
    assert choice.picks == (2, 0)
    assert choice.cost_ms == 4.0


def test_a_channel_is_in_only_with_its_more_important_siblings() -> None:
    # Alone the third option's 9.0 would be worth the time, but the second stands before it.
    values = [np.array([0.0, 1.0, 10.0]), np.array([0.0, 4.0])]
    tables = [Table((0,), np.array([0.0, 4.0, 5.0])), Table((1,), np.array([0.0, 4.0]))]

    assert halp(Problem(values, tables, 4.0), steps=1, tick_ms=1.0).picks == (0, 1)
    assert halp(Problem(values, tables, 5.0), steps=1, tick_ms=1.0).picks == (2, 0)


def test_one_step_lands_below_its_budget_and_many_steps_nearer() -> None:
    problem = resnet50().problem(0.5)
    tick_ms = problem.budget_ms / 2000

    shares = [
        halp(problem, steps=steps, tick_ms=tick_ms).cost_ms / problem.budget_ms
        for steps in (1, 4, 30)
    ]
    assert shares[0] < 0.7
    assert shares == sorted(shares)
    assert 0.95 < shares[-1] <= 1


def test_many_steps_keep_more_than_equal_shares() -> None:
    problem = resnet50().problem(0.5)
    choice = halp(problem, tick_ms=problem.budget_ms / 2000)

    assert uniform(problem).value < choice.value <= choice.bound


@given(
    dense_ms=st.floats(1e-3, 1e3),
    share=st.floats(1e-3, 1.0),
    steps=st.integers(1, 40),
)
def test_the_logarithm_of_the_budget_falls_evenly(
    dense_ms: float, share: float, steps: int
) -> None:
    budget_ms = share * dense_ms
    logarithms = np.linspace(math.log(dense_ms), math.log(budget_ms), steps + 1)

    found = schedule(dense_ms, budget_ms, steps=steps)
    assert found == pytest.approx(np.exp(logarithms[1:]))
    assert found[-1] == budget_ms


def test_without_a_logarithm_the_budget_falls_evenly_itself() -> None:
    assert schedule(3.0, -1.0, steps=4) == [2.0, 1.0, 0.0, -1.0]
    assert schedule(-1.0, -2.0, steps=2) == [-1.5, -2.0]


def test_what_fits_stays_as_it_is() -> None:
    problem = Problem([np.array([3.0, 1.0])], [Table((0,), np.array([1.0, 2.0]))], 2.0)

    assert halp(problem).picks == (1,)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("parts", [2, 5, 10, 30])
def test_the_budget_is_met_however_coarse_the_ticks(seed: int, parts: int) -> None:
    problem = below_dense(small_network(seed), 0.4)
    tick_ms = problem.budget_ms / parts
    choice = halp(problem, steps=2, tick_ms=tick_ms)

    assert choice.cost_ms <= problem.budget_ms
    assert list(choice.picks) == halp_by_hand(problem, steps=2, tick_ms=tick_ms)


def test_less_and_less_is_packed_where_rounding_hides_that_it_is_too_much() -> None:
    # 19.8 ms look like 10 - 5 + 10 ticks, which fit into 19, 18, 17 and 15, but not into 11.
    values = [np.array([0.0, 9.0, 18.0]), *[np.array([0.0, 1.0])] * 10]
    costs = [np.array([0.0, 10.4, 5.8]), *[np.array([0.0, 1.4])] * 10]
    tables = [Table((group,), cost_ms) for group, cost_ms in enumerate(costs)]

    choice = halp(Problem(values, tables, 19.0), steps=1, tick_ms=1.0)
    assert choice.picks[0] == 2
    assert sum(choice.picks[1:]) == 6


@pytest.mark.parametrize("tick_ms", [1e-15, 1e-300])
def test_ticks_that_are_far_too_fine_are_widened(tick_ms: float) -> None:
    problem = below_dense(small_network(0), 0.4)
    fine, usual = (halp(problem, steps=1, tick_ms=tick) for tick in (tick_ms, None))

    assert fine.picks == usual.picks


def test_a_budget_of_far_more_ticks_than_there_are_items_for_takes_no_memory() -> None:
    values = [np.array([0.0, 1.0]), np.array([0.0, 1.0])]
    tables = [Table((0,), np.array([0.0, 1e6])), Table((1,), np.array([0.0, 1e-6]))]

    assert halp(Problem(values, tables, 1.0), steps=2, tick_ms=1e-9).picks == (0, 1)


def test_an_auxiliary_variable_that_nothing_ties_is_a_group_without_value() -> None:
    tables = [Table((0, 1), np.array([[1.0, 2.0], [3.0, 4.0]])), Table((0,), np.array([0.0, 9.0]))]
    problem = Problem([np.array([1.0, 2.0]), np.zeros(2)], tables, 12.0)

    assert halp(problem, steps=1, tick_ms=1.0).picks == (1, 0)


def test_a_budget_below_the_narrowest_options_is_an_error_with_the_least_cost() -> None:
    problem = Problem([np.array([1.0, 2.0])], [Table((0,), np.array([3.0, 4.0]))], 2.0)

    with pytest.raises(BudgetTooSmall) as error:
        halp(problem)
    assert error.value.floor_ms == 3.0


def test_widest_options_that_are_forbidden_are_an_error() -> None:
    problem = Problem([np.array([1.0, 2.0])], [Table((0,), np.array([1.0, math.inf]))], 2.0)

    with pytest.raises(ValueError, match="forbid the widest options"):
        halp(problem)


@pytest.mark.parametrize(("steps", "tick_ms"), [(0, 1.0), (1, 0.0), (1, -1.0), (1, math.inf)])
def test_steps_and_ticks_that_are_none_are_an_error(steps: int, tick_ms: float) -> None:
    problem = Problem([np.array([1.0])], [], 1.0)

    with pytest.raises(ValueError, match="above 0"):
        halp(problem, steps=steps, tick_ms=tick_ms)
