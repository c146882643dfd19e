"""The best value at every cost, as far as it can be reached by a price: the concave frontier.

A price per ms makes some choice the best of all, with no budget. From the most valuable choice
(price 0) to the cheapest one (any price) those choices are the corners of the concave hull of all
choices, and each is the optimum for the budget that it just meets.

Source:
    Eisner and Severance, "Mathematical techniques for efficient record segmentation in large
    shared databases", Journal of the ACM 23, 1976.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from latprune.knapsack.dominance import undominated
from latprune.knapsack.elimination import MEMORY_MIB, Elimination
from latprune.knapsack.problem import Choice
from latprune.knapsack.search import ROUNDING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from latprune.knapsack.problem import Problem


def frontier(
    problem: Problem, *, tolerance: float = 0.0, memory_mib: float = MEMORY_MIB
) -> list[Choice]:
    """Give the corners of the concave frontier, from the cheapest to the most valuable.

    Args:
        problem: Values and costs; its budget is not looked at.
        tolerance: Corners that rise less than this share of the highest value above the line
            between their neighbours may be left out; 0 gives every corner.
        memory_mib: As for `joint`.

    Returns:
        Choices of strictly rising cost and value, each the optimum at its own cost; `prices` has
        the value per ms on the way to the next one, 0 for the last.

    Raises:
        ProblemTooDense: If exact tables would take more than `memory_mib`.
        ValueError: If the tables forbid every choice, or there are several budgets.
    """
    if len(problem.budgets_ms) > 1:
        raise ValueError("a frontier is drawn over the cost of one budget")
    smaller, restored = undominated(problem)
    elimination = Elimination(smaller, memory_mib=memory_mib)

    def at(value: float, cost: float) -> Choice:
        picks = elimination.minimise(value=value, cost=cost).picks()
        return Choice.of(problem, restored(picks))

    cheapest, richest = at(0.0, 1.0), at(1.0, 0.0)
    if math.isinf(richest.cost_ms):
        raise ValueError("the tables forbid every combination of options")
    least_rise = tolerance * abs(richest.value)
    between = _between(at, cheapest, richest, least_rise=least_rise)
    corners = _rising([cheapest, richest, *between])
    prices = [*(_slope(left, right) for left, right in pairwise(corners)), 0.0]
    return [
        replace(corner, bound=corner.value, prices=(price,))
        for corner, price in zip(corners, prices, strict=True)
    ]


def _between(
    at: Callable[[float, float], Choice], left: Choice, right: Choice, *, least_rise: float
) -> Iterator[Choice]:
    """Give every choice that lies above the line from one to the other, as far as prices reach.

    Among them may be better ones at the cost of the one, or at the value of the other.
    """
    ahead = [(left, right)]
    while ahead:
        left, right = ahead.pop()
        if not (left.cost_ms < right.cost_ms and left.value < right.value):
            continue
        price = _slope(left, right)
        corner = at(1.0, price)
        rise = corner.value - left.value - price * (corner.cost_ms - left.cost_ms)
        rounding = ROUNDING * (abs(corner.value) + abs(price * corner.cost_ms))
        if rise > max(least_rise, rounding):
            yield corner
            ahead += [(left, corner), (corner, right)]


def _rising(choices: Sequence[Choice]) -> list[Choice]:
    """Give the choices that no other one beats, the cheapest first."""
    rising: list[Choice] = []
    for choice in sorted(choices, key=lambda choice: (choice.cost_ms, -choice.value)):
        if not rising or choice.value > rising[-1].value:
            rising.append(choice)
    return rising


def _slope(left: Choice, right: Choice) -> float:
    """The value per ms on the way from one to the other."""
    return (right.value - left.value) / (right.cost_ms - left.cost_ms)
