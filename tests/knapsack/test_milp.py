"""HiGHS and `joint` judge each other: they have the problem in common and nothing else."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from latprune.errors import BudgetsTooSmall, BudgetTooSmall, MissingExtra
from latprune.knapsack import Choice, Problem, Table, joint, milp
from tests.knapsack.networks import resnet50
from tests.strategies import problems

pytest.importorskip("highspy", reason="HiGHS comes with the extra milp")


@settings(max_examples=100)
@given(problem=problems())
def test_highs_and_joint_find_the_same_value(problem: Problem) -> None:
    found = milp(problem)

    assert found.value == pytest.approx(joint(problem, gap=0.0).value, rel=1e-9)
    assert found.gap == 0


@settings(max_examples=100)
@given(problem=problems(targets=2))
def test_with_two_budgets_highs_lies_between_joint_and_its_bound(problem: Problem) -> None:
    try:
        choice = joint(problem)
    except BudgetTooSmall:
        with pytest.raises(BudgetTooSmall):
            milp(problem)
        return

    assert choice.value - 1e-9 <= milp(problem).value <= choice.bound + 1e-9


def test_a_cost_above_the_budget_by_rounding_alone_does_not_fit() -> None:
    assert 0.1 + 0.2 > 0.3
    tables = [Table((0,), np.array([0.0, 0.1])), Table((1,), np.array([0.0, 0.2]))]
    problem = Problem([np.array([0.0, 1.0]), np.array([0.0, 1.5])], tables, 0.3)

    found = milp(problem)

    assert found.picks == (0, 1)
    assert found.gap == 0


@settings(max_examples=50)
@given(problem=problems())
def test_a_budget_of_exactly_the_floor_is_met(problem: Problem) -> None:
    with pytest.raises(BudgetTooSmall) as error:
        milp(Problem(problem.values, problem.tables, -1e6))
    floor_ms = error.value.floor_ms

    assert milp(Problem(problem.values, problem.tables, floor_ms)).cost_ms == floor_ms


@settings(max_examples=50)
@given(problem=problems())
def test_a_budget_below_the_floor_by_rounding_alone_is_too_small(problem: Problem) -> None:
    with pytest.raises(BudgetTooSmall) as error:
        milp(Problem(problem.values, problem.tables, -1e6))
    floor_ms = error.value.floor_ms

    with pytest.raises(BudgetTooSmall) as error:
        milp(Problem(problem.values, problem.tables, math.nextafter(floor_ms, -math.inf)))

    assert error.value.floor_ms == floor_ms


@settings(max_examples=50)
@given(problem=problems())
def test_values_and_costs_may_be_far_smaller_than_what_highs_takes_for_zero(
    problem: Problem,
) -> None:
    tiny = replace(
        problem,
        values=[v * 2.0**-40 for v in problem.values],
        tables=[t._replace(cost_ms=t.cost_ms * 2.0**-40) for t in problem.tables],
        budget_ms=problem.budget_ms * 2.0**-40,
    )

    assert milp(tiny).value == pytest.approx(2.0**-40 * milp(problem).value, rel=1e-9, abs=0)


def test_a_budget_of_less_than_anything_is_too_small() -> None:
    problem = Problem([np.array([1.0, 2.0])], [Table((0,), np.array([1.0, 2.0]))], -math.inf)

    with pytest.raises(BudgetTooSmall) as error:
        milp(problem)

    assert error.value.floor_ms == 1.0


def test_two_budgets_that_cannot_be_met_at_once_name_the_nearest_choice() -> None:
    tables = [
        Table((0,), np.array([1.0, 3.0])),
        Table((0,), np.array([4.0, 1.0]), target=1),
    ]
    problem = Problem([np.array([0.0, 1.0])], tables, 2.0, further_ms=[2.0])

    with pytest.raises(BudgetsTooSmall) as error:
        milp(problem)

    assert error.value.nearest_ms == (3.0, 1.0)


@pytest.mark.parametrize("scope", [(0,), (), (0, 1)])
def test_a_problem_that_forbids_everything_is_an_error(scope: tuple[int, ...]) -> None:
    forbidding = Table(scope, np.full([2] * len(scope), math.inf))
    problem = Problem([np.array([1.0, 2.0])] * 2, [forbidding], 1.0)

    with pytest.raises(ValueError, match="forbid every combination"):
        milp(problem)


def test_tables_that_forbid_everything_only_together_are_an_error() -> None:
    tables = [Table((0,), np.array([0.0, math.inf])), Table((0,), np.array([math.inf, 0.0]))]

    with pytest.raises(ValueError, match="forbid every combination"):
        milp(Problem([np.array([1.0, 2.0])], tables, 1.0))


def test_a_problem_without_variables_has_one_choice() -> None:
    constant = Table((), np.array(2.0))

    assert milp(Problem([], [constant], 2.0)) == Choice((), 0.0, (2.0,), bound=0.0)
    with pytest.raises(BudgetTooSmall):
        milp(Problem([], [constant], 1.0))


def test_too_little_time_is_an_error_that_says_so() -> None:
    with pytest.raises(TimeoutError, match="limit_s="):
        milp(resnet50().problem(0.5), limit_s=0.0)


def test_without_highs_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highspy", None)

    with pytest.raises(MissingExtra, match=r"pip install 'latprune\[milp\]'"):
        milp(Problem([np.array([1.0])], [], 1.0))


def test_as_many_choices_as_all_are_not_ruled_out_one_by_one() -> None:
    values = [np.arange(6.0) for _ in range(8)]  # 6^8 choices, all of them above by rounding alone

    with pytest.raises(BudgetTooSmall) as error:
        milp(Problem(values, [], math.nextafter(0.0, -1.0)), limit_s=20.0)

    assert error.value.floor_ms == 0
