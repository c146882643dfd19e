"""The order of turns depends on what variables are, not on where they are listed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from latprune.knapsack import Problem, Table
from latprune.knapsack.ordering import in_turn
from tests.strategies import problems

if TYPE_CHECKING:
    from collections.abc import Sequence


def renumbered(problem: Problem, order: Sequence[int]) -> Problem:
    """List a problem's variables in another order, and its tables backwards."""
    position = {variable: index for index, variable in enumerate(order)}
    return Problem(
        values=[problem.values[variable] for variable in order],
        tables=[
            table._replace(scope=tuple(position[v] for v in table.scope))
            for table in reversed(problem.tables)
        ],
        budget_ms=problem.budget_ms,
        widths=[problem.widths[variable] for variable in order],
    )


def written_out(problem: Problem, order: Sequence[int]) -> list[Any]:
    """Write a problem down with its variables in this order; the order of tables is lost."""
    position = {variable: index for index, variable in enumerate(order)}
    tables = [
        (tuple(position[v] for v in table.scope), table.cost_ms.ravel().tolist())
        for table in problem.tables
    ]
    return [[problem.values[v].tolist() for v in order], sorted(tables)]


@st.composite
def repetitive(draw: st.DrawFn) -> Problem:
    """Draw a graph whose variables all have the same values and whose tables are all alike."""
    count = draw(st.integers(2, 6))
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))
    edges = draw(st.lists(pairs.filter(lambda pair: pair[0] != pair[1]), max_size=8))
    cost_ms = np.arange(4.0).reshape(2, 2)
    return Problem([np.array([1.0, 2.0])] * count, [Table(edge, cost_ms) for edge in edges], 1.0)


@given(problem=problems() | repetitive(), data=st.data())
def test_the_same_variables_take_the_same_turns_however_they_are_numbered(
    problem: Problem, data: st.DataObject
) -> None:
    everyone = range(len(problem.values))
    other = renumbered(problem, data.draw(st.permutations(everyone)))

    assert written_out(other, in_turn(other, everyone)) == written_out(
        problem, in_turn(problem, everyone)
    )


def test_the_most_valuable_comes_first() -> None:
    values = [np.array([0.0, 2.0]), np.array([0.0, 9.0]), np.array([5.0])]

    assert in_turn(Problem(values, [], 1.0), [0, 1, 2]) == [1, 2, 0]
    assert in_turn(Problem(values, [], 1.0), [0, 2]) == [2, 0]
