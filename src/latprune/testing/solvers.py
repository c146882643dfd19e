# ruff: noqa: D102  # a test's name is its sentence
"""What every solver must hold."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latprune.errors import BudgetTooSmall
from latprune.knapsack import Choice, Problem
from latprune.testing.problems import all_costs, exhaustive, problems

# The same property is inherited by one class per solver, which Hypothesis would warn of.
inherited = settings(max_examples=50, suppress_health_check=[HealthCheck.differing_executors])


class SolverContract:
    """What every solver must hold; inherit it, and name the solver.

    Attributes:
        solver: The solver, wrapped in `staticmethod`.
        exact: Whether it finds the optimum of small problems. One that does not may also refuse
            a problem that something would fit.
        several: Whether it takes several budgets at once; if not, it refuses them.
    """

    solver: ClassVar[Any]
    exact: ClassVar[bool] = True
    several: ClassVar[bool] = True

    def choose(self, problem: Problem) -> Choice | None:
        """Solve; None where a solver that is not exact refuses."""
        try:
            choice = self.solver(problem)
        except (BudgetTooSmall, ValueError):
            if self.exact:
                raise
            return None
        assert isinstance(choice, Choice)
        return choice

    @inherited
    @given(problem=problems())
    def test_the_choice_fits_the_budget_by_the_tables_own_sums(self, problem: Problem) -> None:
        choice = self.choose(problem)

        if choice is not None:
            assert problem.cost_of(choice.picks) <= problem.budget_ms
            assert choice.cost_ms == problem.cost_of(choice.picks)
            assert choice.value == problem.value_of(choice.picks)

    @inherited
    @given(problem=problems())
    def test_the_optimum_lies_between_value_and_bound(self, problem: Problem) -> None:
        choice = self.choose(problem)
        optimum = exhaustive(problem).value

        if choice is not None:
            assert choice.value <= optimum <= _above(choice.bound)
            if self.exact or choice.gap == 0:
                assert choice.value == pytest.approx(optimum, rel=1e-9)

    @inherited
    @given(problem=problems(feasible=False))
    def test_an_impossible_budget_is_an_error_with_the_floor(self, problem: Problem) -> None:
        with pytest.raises((BudgetTooSmall, ValueError)) as error:
            self.solver(problem)

        if self.exact:
            assert isinstance(error.value, BudgetTooSmall)
        if isinstance(error.value, BudgetTooSmall):
            least_ms = all_costs(problem).min()
            assert error.value.budget_ms == problem.budget_ms
            assert error.value.floor_ms >= least_ms
            if self.exact:
                assert error.value.floor_ms == least_ms

    @inherited
    @given(problem=problems(targets=2), target=st.integers(0, 1))
    def test_of_two_budgets_the_impossible_one_is_named(
        self, problem: Problem, target: int
    ) -> None:
        least_ms = float(all_costs(problem, target=target).min())
        budgets_ms = [math.inf, math.inf]
        budgets_ms[target] = least_ms - 0.25
        asked = replace(problem, budget_ms=budgets_ms[0], further_ms=budgets_ms[1:])

        with pytest.raises((BudgetTooSmall, ValueError)) as error:
            self.solver(asked)

        if isinstance(error.value, BudgetTooSmall):
            assert error.value.target == target
            assert error.value.budget_ms == budgets_ms[target]
            assert error.value.floor_ms >= least_ms

    @inherited
    @given(problem=problems(targets=2))
    def test_two_budgets_hold_at_once_or_are_refused(self, problem: Problem) -> None:
        if not self.several:
            with pytest.raises(ValueError, match="one budget"):
                self.solver(problem)
            return
        try:
            optimum = exhaustive(problem).value
        except BudgetTooSmall:
            with pytest.raises((BudgetTooSmall, ValueError)):
                self.solver(problem)
            return
        choice = self.choose(problem)

        if choice is not None:
            assert problem.fits(choice.costs_ms)
            assert choice.costs_ms == problem.costs_of(choice.picks)
            assert choice.value <= optimum <= _above(choice.bound)
            if self.exact:
                assert choice.value == pytest.approx(optimum, rel=1e-9)

    @inherited
    @given(problem=problems())
    def test_where_everything_fits_the_most_valuable_is_chosen(self, problem: Problem) -> None:
        problem = replace(problem, budget_ms=math.inf)
        choice = self.choose(problem)

        if choice is not None:
            assert math.isfinite(choice.cost_ms)
            if self.exact:
                assert choice.value == exhaustive(problem).value == choice.bound

    @inherited
    @given(problem=problems())
    def test_the_same_problem_gives_the_same_choice(self, problem: Problem) -> None:
        assert self.choose(problem) == self.choose(problem)

    @inherited
    @given(problem=problems(), data=st.data())
    def test_the_order_of_variables_does_not_matter(
        self, problem: Problem, data: st.DataObject
    ) -> None:
        order = data.draw(st.permutations(range(len(problem.values))))
        position = {variable: index for index, variable in enumerate(order)}
        reordered = Problem(
            values=[problem.values[variable] for variable in order],
            tables=[
                table._replace(scope=tuple(position[v] for v in table.scope))
                for table in reversed(problem.tables)
            ],
            budget_ms=problem.budget_ms,
            widths=[problem.widths[variable] for variable in order],
        )

        _assert_same_value(self.choose(reordered), self.choose(problem))

    @inherited
    @given(problem=problems(), power=st.integers(-12, 12))
    def test_the_unit_of_time_does_not_matter(self, problem: Problem, power: int) -> None:
        rescaled = replace(
            problem,
            tables=[t._replace(cost_ms=t.cost_ms * 2.0**power) for t in problem.tables],
            budget_ms=problem.budget_ms * 2.0**power,
        )

        _assert_same_value(self.choose(rescaled), self.choose(problem))

    @inherited
    @given(problem=problems(), power=st.integers(-12, 12))
    def test_the_unit_of_value_does_not_matter(self, problem: Problem, power: int) -> None:
        rescaled = replace(problem, values=[v * 2.0**power for v in problem.values])

        _assert_same_value(self.choose(rescaled), self.choose(problem), factor=2.0**power)


def _above(bound: float) -> float:
    """Allow a bound the rounding of its own sum."""
    return bound + 1e-9 * (1 + abs(bound))


def _assert_same_value(found: Choice | None, expected: Choice | None, factor: float = 1.0) -> None:
    if found is None or expected is None:
        assert found == expected
    else:
        assert found.value == pytest.approx(factor * expected.value, rel=1e-9)
