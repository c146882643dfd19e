"""`greedy` takes, again and again, the narrowing that really loses least per ms saved."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latprune.errors import BudgetTooSmall
from latprune.knapsack import Problem, Table, greedy, joint, uniform
from latprune.knapsack.ordering import in_turn
from tests.knapsack.networks import densenet, googlenet, resnet50
from tests.strategies import problems

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.knapsack.networks import Sketch


def greedy_by_hand(problem: Problem) -> list[int] | None:
    """Try every narrowing with whole networks; None if none saves and the budgets are not met."""
    groups = in_turn(problem, [v for v, w in enumerate(problem.widths) if w is not None])
    picks = completed(problem, {g: problem.sizes[g] - 1 for g in groups})
    while not problem.fits(before := problem.costs_of(picks)):
        narrowings = []
        for group in groups:
            for option in reversed(range(picks[group])):
                narrower = completed(problem, {g: picks[g] for g in groups} | {group: option})
                after = problem.costs_of(narrower)
                saved = sum(
                    (was - now) / (was - budget)
                    for was, now, budget in zip(before, after, problem.budgets_ms, strict=True)
                    if was > budget
                )
                if saved > 0 and all(map(math.isfinite, after)):
                    lost = problem.values[group][picks[group]] - problem.values[group][option]
                    narrowings.append((lost / saved, narrower))
        if not narrowings:
            return None
        _, picks = min(narrowings, key=lambda narrowing: narrowing[0])
    return picks


def completed(problem: Problem, groups: dict[int, int]) -> list[int]:
    """Try every option of the auxiliary variables, and give what is allowed, or else anything."""
    options = [[groups[v]] if v in groups else list(range(n)) for v, n in enumerate(problem.sizes)]
    every = [list(picks) for picks in itertools.product(*options)]
    return next((p for p in every if all(map(math.isfinite, problem.costs_of(p)))), every[0])


@settings(max_examples=100)
@given(problem=problems(), share=st.integers(0, 14).map(lambda n: n / 16))
def test_every_narrowing_is_the_best_one_at_its_time(problem: Problem, share: float) -> None:
    dense_ms = problem.cost_of([n - 1 for n in problem.sizes])
    problem = replace(problem, budget_ms=dense_ms - share * abs(dense_ms))
    expected = greedy_by_hand(problem)

    if expected is None:
        with pytest.raises(BudgetTooSmall):
            greedy(problem)
    else:
        assert list(greedy(problem).picks) == expected


@settings(max_examples=100)
@given(
    problem=problems(targets=2),
    shares=st.tuples(st.integers(0, 14), st.integers(0, 14)),
)
def test_so_it_is_with_several_budgets(problem: Problem, shares: tuple[int, int]) -> None:
    dense_ms = problem.costs_of([n - 1 for n in problem.sizes])
    first_ms, second_ms = (
        ms - share / 16 * abs(ms) for ms, share in zip(dense_ms, shares, strict=True)
    )
    problem = replace(problem, budget_ms=first_ms, further_ms=[second_ms])
    expected = greedy_by_hand(problem)

    if expected is None:
        with pytest.raises(BudgetTooSmall):
            greedy(problem)
    else:
        assert list(greedy(problem).picks) == expected


@pytest.mark.parametrize("network", [resnet50, densenet, googlenet])
@pytest.mark.parametrize("share", [0.7, 0.3])
def test_a_network_of_real_size_takes_little_time_and_keeps_nearly_the_most(
    network: Callable[[], Sketch], share: float
) -> None:
    problem = network().problem(share)
    started = time.process_time()
    choice = greedy(problem)

    assert time.process_time() - started < 2
    assert problem.cost_of(choice.picks) <= problem.budget_ms
    assert uniform(problem).value < choice.value
    assert 0.99 * joint(problem).value < choice.value <= choice.bound


def test_what_fits_stays_as_it_is() -> None:
    problem = Problem([np.array([3.0, 1.0])], [Table((0,), np.array([1.0, 2.0]))], 2.0)

    assert greedy(problem).picks == (1,)


def test_what_a_narrowing_saves_in_other_layers_counts() -> None:
    # Written alone the first group looks as dear as the second, but a layer reads it.
    values = [np.array([0.0, 3.0]), np.array([0.0, 2.0])]
    tables = [
        Table((0,), np.array([1.0, 2.0])),
        Table((1,), np.array([1.0, 2.0])),
        Table((0,), np.array([0.0, 5.0]), writes=None),
    ]

    assert greedy(Problem(values, tables, 8.0)).picks == (0, 1)


def test_savings_count_only_in_budgets_that_are_not_met() -> None:
    values = [np.array([0.0, 1.0]), np.array([0.0, 2.0])]
    tables = [
        Table((0,), np.array([0.0, 9.0])),
        Table((1,), np.array([0.0, 1.0])),
        Table((1,), np.array([1.0, 2.0]), target=1),
    ]

    assert greedy(Problem(values, tables, 10.0, further_ms=[1.5])).picks == (1, 0)


def test_where_nothing_saves_any_more_the_error_has_the_cost_reached() -> None:
    # Two groups that only save together: alone each makes the other slower.
    both = np.array([[1.0, 9.0], [9.0, 5.0]])
    problem = Problem(
        [np.array([0.0, 1.0]), np.array([0.0, 1.0]), np.array([0.0, 1.0])],
        [Table((0, 1), both), Table((2,), np.array([1.0, 2.0]))],
        3.0,
    )

    with pytest.raises(BudgetTooSmall) as error:
        greedy(problem)
    assert error.value.floor_ms == 6.0


def test_widest_options_that_are_forbidden_are_an_error() -> None:
    problem = Problem([np.array([1.0, 2.0])], [Table((0,), np.array([1.0, math.inf]))], 2.0)

    with pytest.raises(ValueError, match="forbid the widest options"):
        greedy(problem)


def test_a_problem_without_variables_is_solved() -> None:
    assert greedy(Problem([], [Table((), np.array(1.0))], 1.0)).picks == ()
