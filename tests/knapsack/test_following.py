"""Auxiliary variables are where the chosen ones put them, and are priced with them."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, settings

from latprune.knapsack import Problem, Table
from latprune.knapsack.following import Following
from tests.knapsack.networks import Sketch
from tests.strategies import problems

if TYPE_CHECKING:
    from collections.abc import Sequence


def concatenation() -> Problem:
    """Draw three groups side by side: two partial sums."""
    net = Sketch()
    parts = tuple(net.conv((), channels, size=8) for channels in (32, 48, 16))
    net.conv(parts, 32, size=8)
    return net.problem(1.0)


def of_chosen(following: Following, picks: Sequence[int]) -> dict[int, int]:
    return {v: picks[v] for v in following.chosen}


@given(problem=problems())
def test_no_other_options_of_the_followers_are_allowed(problem: Problem) -> None:
    following = Following(problem)
    ranges = [range(n) for n in problem.sizes]

    for picks in itertools.islice(itertools.product(*ranges), 200):
        followed = following.follow(of_chosen(following, picks))
        assert list(picks) == followed or math.isinf(problem.cost_of(picks))


@settings(max_examples=50)
@given(problem=problems())
def test_options_differ_by_what_they_really_cost(problem: Problem) -> None:
    following = Following(problem)
    picks = following.widest()

    for variable in following.chosen:
        (costs_ms,) = following.costs_ms(variable, picks)
        really_ms = [
            problem.cost_of(following.follow(of_chosen(following, picks) | {variable: option}))
            for option in range(problem.sizes[variable])
        ]
        assert (costs_ms - costs_ms[-1]).tolist() == (np.array(really_ms) - really_ms[-1]).tolist()


def test_partial_sums_follow_one_after_the_other() -> None:
    problem = concatenation()
    following = Following(problem)
    picks = following.widest()

    assert following.chosen == (0, 1, 2, 3)
    assert following.followers == {0: (4, 5), 1: (4, 5), 2: (5,), 3: ()}
    assert picks == [n - 1 for n in problem.sizes]
    # 32 and 48 channels in steps of 16 add up to 32, 48, … 80; with 16 more to 48, … 96.
    assert {v: at.tolist() for v, at in following.moves(1, picks).items()} == {
        1: [0, 1, 2],
        4: [1, 2, 3],
        5: [1, 2, 3],
    }


def test_an_auxiliary_variable_that_nothing_ties_is_chosen() -> None:
    at_least = np.array([[0.0, 0.0], [np.inf, 0.0]])
    problem = Problem([np.array([1.0, 2.0]), np.zeros(2)], [Table((0, 1), at_least)], 1.0)

    assert Following(problem).chosen == (0, 1)


def test_what_an_untied_auxiliary_variable_ties_follows_it() -> None:
    equal = np.where(np.eye(2) > 0, 0.0, np.inf)
    problem = Problem([np.array([1.0]), np.zeros(2), np.zeros(2)], [Table((1, 2), equal)], 1.0)

    following = Following(problem)
    assert following.chosen == (0, 1)
    assert following.followers[1] == (2,)
