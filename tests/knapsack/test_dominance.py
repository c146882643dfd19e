"""What is left out is beaten by what stays, and nothing better is lost."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings

from latprune.errors import BudgetTooSmall
from latprune.knapsack import Problem, Table
from latprune.knapsack.dominance import undominated
from latprune.testing import exhaustive
from tests.knapsack.networks import resnet50
from tests.strategies import problems


@settings(max_examples=100)
@given(problem=problems(targets=2))
def test_the_optimum_stays(problem: Problem) -> None:
    smaller, restored = undominated(problem)
    try:
        best = exhaustive(problem)
    except BudgetTooSmall:
        return

    found = exhaustive(smaller)

    picks = restored(found.picks)
    assert found.value == best.value == problem.value_of(picks)
    assert problem.costs_of(picks) == found.costs_ms


def test_an_option_that_is_worth_less_and_costs_more_goes() -> None:
    # Options 1 and 3 are beaten by 2; 0 is cheapest, 4 is worth most.
    values = np.array([1.0, 2.0, 3.0, 3.0, 4.0])
    cost = np.array([[1.0, 3.0, 2.0, 2.5, 5.0], [1.0, 2.0, 2.0, 2.0, 4.0]])
    problem = Problem([np.array([1.0, 0.0]), values], [Table((0, 1), cost)], 9.0)

    smaller, restored = undominated(problem)

    assert smaller.values[1].tolist() == [1.0, 3.0, 4.0]
    assert restored([1, 2]) == [1, 4]


def test_of_two_alike_the_wider_one_stays() -> None:
    problem = Problem([np.array([2.0, 2.0])], [Table((0,), np.array([1.0, 1.0]))], 9.0)

    smaller, restored = undominated(problem)

    assert smaller.sizes == (1,)
    assert restored([0]) == [1]


def test_a_problem_without_such_options_is_left_as_it_is() -> None:
    problem = resnet50().problem(0.5)

    assert undominated(undominated(problem)[0])[0].sizes == undominated(problem)[0].sizes
