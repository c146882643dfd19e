"""Elimination gives the exact minimum, and every choice's distance from it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latprune.errors import ProblemTooDense
from latprune.knapsack import Problem, Table, buckets
from latprune.knapsack.elimination import Elimination
from tests.strategies import problems

weights = st.sampled_from([0.0, 0.25, 1.0, 3.0])


def weighted(problem: Problem, picks: tuple[int, ...], *, value: float, cost: float) -> float:
    """Add up one combination; what is forbidden stays so at weight 0."""
    cost_ms = problem.cost_of(picks)
    return math.inf if math.isinf(cost_ms) else cost * cost_ms - value * problem.value_of(picks)


@settings(max_examples=50)
@given(problem=problems(), value=weights, cost=weights)
def test_the_minimum_is_the_least_of_all_combinations(
    problem: Problem, value: float, cost: float
) -> None:
    relaxed = Elimination(problem).minimise(value=value, cost=cost)

    every = itertools.product(*(range(n) for n in problem.sizes))
    least = min(weighted(problem, picks, value=value, cost=cost) for picks in every)
    assert relaxed.minimum == pytest.approx(least)
    assert weighted(problem, tuple(relaxed.picks()), value=value, cost=cost) == pytest.approx(least)


@settings(max_examples=50)
@given(problem=problems(), value=weights, cost=weights, data=st.data())
def test_the_regrets_of_a_choice_add_up_to_its_distance_from_the_minimum(
    problem: Problem, value: float, cost: float, data: st.DataObject
) -> None:
    relaxed = Elimination(problem).minimise(value=value, cost=cost)
    picks = tuple(data.draw(st.integers(0, n - 1)) for n in problem.sizes)

    regret = sum(
        float(relaxed.regrets(position, np.array([picks]))[0, picks[bucket.variable]])
        for position, bucket in enumerate(relaxed.buckets)
    )
    distance = weighted(problem, picks, value=value, cost=cost) - relaxed.minimum
    assert regret == pytest.approx(distance, abs=1e-9)


def test_ties_go_to_the_widest_option() -> None:
    problem = Problem([np.array([2.0, 2.0, 1.0])], [], 1.0)

    assert Elimination(problem).minimise(value=1.0, cost=1.0).picks() == [1]


def test_too_much_memory_is_refused_with_what_it_would_take() -> None:
    options = 64
    everyone_meets = [
        Table((a, b), np.zeros((options, options))) for a, b in itertools.combinations(range(8), 2)
    ]
    problem = Problem([np.ones(options)] * 8, everyone_meets, 1.0)

    with pytest.raises(ProblemTooDense) as error:
        Elimination(problem, memory_mib=100)
    assert error.value.needed_mib > options**8 * 8 / 2**20
    assert error.value.allowed_mib == 100


def half_forbidden(seed: int) -> Problem:
    """Make a problem of five groups that all meet, where the last options always may."""
    rng = np.random.default_rng(seed)
    tables = []
    for pair in itertools.combinations(range(5), 2):
        forbidden = rng.random((4, 4)) < 0.5
        forbidden[-1, -1] = False
        tables.append(Table(pair, np.where(forbidden, np.inf, rng.random((4, 4)))))
    return Problem([rng.random(4) for _ in range(5)], tables, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_going_through_allowed_combinations_alone_changes_nothing(seed: int) -> None:
    def leasts(share: float) -> list[np.ndarray]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(buckets, "SPARSE_SHARE", share)
            relaxed = Elimination(half_forbidden(seed)).minimise(value=1.0, cost=1.0)
        return list(relaxed.leasts)

    for always, never in zip(leasts(1.0), leasts(-1.0), strict=True):
        np.testing.assert_allclose(always, never, rtol=1e-12)


def test_a_sum_of_many_widths_needs_no_more_memory_than_its_combinations() -> None:
    widths = np.arange(1, 101)
    totals = np.add.outer(widths, widths)
    sums = np.unique(totals)
    must_add_up = np.where(totals[..., None] == sums, 0.0, np.inf)
    problem = Problem(
        [widths.astype(float), widths.astype(float), np.zeros(len(sums))],
        [Table((0, 1, 2), must_add_up), Table((2,), sums / 100)],
        3.0,
    )

    assert math.prod(problem.sizes) * 8 / 2**20 > 15
    assert Elimination(problem, memory_mib=1).minimise(value=1.0, cost=1.0).minimum == -198.0
