"""`uniform` shrinks all groups by one factor, the largest that fits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings

from latprune.errors import BudgetTooSmall
from latprune.knapsack import Problem, Table, uniform
from tests.strategies import problems

if TYPE_CHECKING:
    from collections.abc import Sequence


def test_every_group_keeps_the_same_share() -> None:
    widths = [np.arange(1, 9), np.arange(2, 17, 2), np.array([5, 10, 20])]
    values = [np.cumsum(w).astype(float) for w in widths]
    tables = [Table((v,), w.astype(float)) for v, w in enumerate(widths)]

    # Half of 8, 16 and 20 channels cost 22 ms; the next factor, 5/8, costs 25.
    choice = uniform(Problem(values, tables, 24.0, widths))
    assert choice.picks == (3, 3, 1)
    assert choice.cost_ms == 22.0


def test_a_group_too_coarse_for_the_factor_keeps_its_narrowest_option() -> None:
    widths = [np.arange(1, 9), np.array([12, 16])]
    tables = [Table((v,), w.astype(float)) for v, w in enumerate(widths)]

    choice = uniform(Problem([w * 1.0 for w in widths], tables, 14.0, widths))
    assert choice.picks == (1, 0)


def test_auxiliary_variables_follow() -> None:
    widths = np.array([4, 8])
    sums = np.array([8, 12, 16])
    must_add_up = np.where(np.add.outer(widths, widths)[..., None] == sums, 0.0, np.inf)
    problem = Problem(
        values=[np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.zeros(3)],
        tables=[Table((0, 1, 2), must_add_up), Table((2,), sums / 4.0)],
        budget_ms=3.0,
    )

    assert uniform(problem).picks == (0, 0, 0)


@settings(max_examples=50)
@given(problem=problems())
def test_no_larger_factor_fits(problem: Problem) -> None:
    try:
        chosen = uniform(problem)
    except (BudgetTooSmall, ValueError):
        return
    real = [(v, w) for v, w in enumerate(problem.widths) if w is not None]
    factors = sorted({float(share) for _, w in real for share in w / w.max()})

    def picks_at(factor: float) -> Sequence[int]:
        return [max([0, *np.flatnonzero(w / w.max() <= factor).tolist()]) for _, w in real]

    fitting = [
        factor for factor in factors if picks_at(factor) == [chosen.picks[v] for v, _ in real]
    ]
    larger = [factor for factor in factors if factor > max(fitting)]
    if all(widths is not None for widths in problem.widths):
        assert not any(problem.fits(problem.costs_of(picks_at(factor))) for factor in larger)


def test_a_budget_below_every_factor_is_an_error_with_the_least_cost() -> None:
    problem = Problem([np.array([1.0, 2.0])], [Table((0,), np.array([3.0, 4.0]))], 2.0)

    with pytest.raises(BudgetTooSmall) as error:
        uniform(problem)
    assert error.value.floor_ms == 3.0


def test_factors_that_are_all_forbidden_are_an_error() -> None:
    problem = Problem([np.array([1.0])], [Table((0,), np.array([math.inf]))], 2.0)

    with pytest.raises(ValueError, match="forbid every width factor"):
        uniform(problem)
