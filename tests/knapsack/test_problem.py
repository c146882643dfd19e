"""A problem is checked where it is made, and a choice's totals are the tables' own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latprune.knapsack import Choice, Problem, Table
from tests.strategies import problems


@settings(max_examples=50)
@given(problem=problems(), data=st.data())
def test_a_choice_adds_up_the_tables_entry_by_entry(problem: Problem, data: st.DataObject) -> None:
    picks = [data.draw(st.integers(0, n - 1)) for n in problem.sizes]
    choice = Choice.of(problem, picks, bound=1e9)

    value = sum(float(problem.values[v][pick]) for v, pick in enumerate(picks))
    cost = sum(float(cost[tuple(picks[v] for v in scope)]) for scope, cost, _, _ in problem.tables)
    assert (choice.value, choice.cost_ms, choice.bound) == (value, cost, 1e9)


def test_a_bound_is_never_below_the_value() -> None:
    problem = Problem([np.array([3.0])], [], 1.0)

    assert Choice.of(problem, [0], bound=3.0 - 1e-15).bound == 3.0


@pytest.mark.parametrize(
    ("value", "bound", "gap"),
    [(9.0, 10.0, 0.1), (10.0, 10.0, 0.0), (-11.0, -10.0, 0.1), (-1.0, 0.0, math.inf)],
)
def test_the_gap_is_the_share_of_the_bound_not_reached(
    value: float, bound: float, gap: float
) -> None:
    assert Choice((0,), value, (1.0,), bound).gap == pytest.approx(gap)


def test_without_widths_variables_of_no_value_are_auxiliary() -> None:
    problem = Problem([np.array([1.0, 2.0, 4.0]), np.zeros(2)], [], 1.0)

    assert problem.widths[0] is not None
    assert problem.widths[0].tolist() == [1, 2, 3]
    assert problem.widths[1] is None


@pytest.mark.parametrize(
    ("values", "tables", "budget_ms", "message"),
    [
        ([[]], [], 1.0, "at least one value"),
        ([[math.nan]], [], 1.0, "not finite"),
        ([[1.0]], [((0, 0), [[1.0]])], 1.0, "different ones"),
        ([[1.0]], [((1,), [1.0])], 1.0, "different ones"),
        ([[1.0]], [((0,), [1.0, 2.0])], 1.0, "has shape"),
        ([[1.0]], [((0,), [math.nan])], 1.0, "nan or −inf"),
        ([[1.0]], [((0,), [-math.inf])], 1.0, "nan or −inf"),
        ([[1.0]], [], math.nan, "not a number of milliseconds"),
    ],
)
def test_a_malformed_problem_is_refused(
    values: list[list[float]],
    tables: list[tuple[tuple[int, ...], list[float]]],
    budget_ms: float,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        Problem(
            [np.array(v) for v in values],
            [Table(scope, np.array(cost)) for scope, cost in tables],
            budget_ms,
        )


@pytest.mark.parametrize("widths", [[np.array([1])], [np.array([1]), None]])
def test_widths_of_another_shape_are_refused(widths: list[np.ndarray | None]) -> None:
    with pytest.raises(ValueError, match="widths"):
        Problem([np.array([1.0, 2.0])], [], 1.0, widths)
