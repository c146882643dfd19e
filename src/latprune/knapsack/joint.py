"""All groups are chosen together, and a bound says how far from the optimum the choice can be.

A price per ms turns the budget into a part of the objective, and the relaxed problem is solved
exactly. Its optimum bounds the constrained one from above; the price with the least such bound is
found first. A search near that optimum then finds a choice within the budget and lowers the bound,
most often until both meet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latprune.errors import BudgetTooSmall
from latprune.knapsack.elimination import MEMORY_MIB, Elimination
from latprune.knapsack.problem import Choice, relative_gap
from latprune.knapsack.search import ROUNDING, search

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latprune.knapsack.elimination import Relaxed
    from latprune.knapsack.problem import Problem

# Partial choices kept by one search after another, until the gap is small enough.
WIDTHS = (64, 512, 4096)
# More prices than any problem has needed; every one of them gives a valid bound.
MOST_PRICES = 100


def joint(
    problem: Problem,
    *,
    gap: float = 1e-7,
    search_widths: Sequence[int] = WIDTHS,
    memory_mib: float = MEMORY_MIB,
) -> Choice:
    """Choose the options of most value within the budget, with a proven bound.

    The same problem gives the same choice: effort is limited by `search_widths`, not by a clock.

    Args:
        problem: Values, costs and the budget.
        gap: Relative distance between value and bound at which the search may stop.
        search_widths: How many partial choices each search keeps; wider ones prove smaller gaps.
        memory_mib: What the tables of one relaxed solution may take.

    Returns:
        A choice whose cost is within the budget. It is the optimum where its `gap` is 0.

    Raises:
        BudgetTooSmall: If nothing fits; it carries the least cost of any allowed choice.
        ProblemTooDense: If a relaxed solution would take more than `memory_mib`.
        ValueError: If the tables forbid every choice.

    Source:
        Price: Handler and Zang, "A dual algorithm for the constrained shortest path problem",
        Networks 10, 1980.
    """
    elimination = Elimination(problem, memory_mib=memory_mib)
    floor = elimination.minimise(value=0.0, cost=1.0)
    cheapest = Choice.of(problem, floor.picks())
    _check_floor(problem, cheapest.cost_ms)
    richest = Choice.of(problem, elimination.minimise(value=1.0, cost=0.0).picks())
    if problem.fits(richest.cost_ms):
        return Choice.of(problem, richest.picks, bound=richest.value)

    dual = _least_bound(problem, elimination, over=richest, under=cheapest)
    best, bound = dual.under, dual.bound
    for width in search_widths:
        if relative_gap(best.value, bound) <= gap:
            break
        found = search(
            dual.relaxed,
            floor,
            price=dual.price,
            budget_ms=problem.budget_ms,
            known=best.value,
            width=width,
        )
        best = _first_that_fits(problem, found.picks.tolist(), known=best)
        if found.complete:
            bound = best.value
            break
        bound = min(bound, max(found.bound, best.value))
    return Choice.of(problem, best.picks, bound=bound)


def _check_floor(problem: Problem, floor_ms: float) -> None:
    """Say so if nothing fits.

    Args:
        problem: Holds the budget.
        floor_ms: The least cost of what can be chosen.

    Raises:
        BudgetTooSmall: If the budget is below the floor.
        ValueError: If even the floor is forbidden.
    """
    if math.isinf(floor_ms):
        raise ValueError("the tables forbid every combination of options")
    if floor_ms > problem.budget_ms:
        raise BudgetTooSmall(problem.budget_ms, floor_ms)


@dataclass(frozen=True, eq=False)
class _Dual:
    """The price with the least bound, its relaxed solution, and the best choice met that fits."""

    price: float
    relaxed: Relaxed
    bound: float
    under: Choice


def _least_bound(
    problem: Problem, elimination: Elimination, *, over: Choice, under: Choice
) -> _Dual:
    """Find the price at which a choice above the budget and one within it are worth the same.

    The price is the slope between the two. If the relaxed solution there is better than both it
    replaces the one on its own side of the budget; if not, no price has a lower bound.
    """
    for _ in range(MOST_PRICES):
        price = (over.value - under.value) / (over.cost_ms - under.cost_ms)
        relaxed = elimination.minimise(value=1.0, cost=price)
        bound = price * problem.budget_ms - relaxed.minimum
        reached = under.value + price * (problem.budget_ms - under.cost_ms)
        picked = Choice.of(problem, relaxed.picks())
        better = bound - reached > ROUNDING * (abs(bound) + abs(price * problem.budget_ms))
        if not better or picked.picks in (over.picks, under.picks):
            break
        if problem.fits(picked.cost_ms):
            under = picked
        else:
            over = picked
    return _Dual(price, relaxed, bound, under)


def _first_that_fits(
    problem: Problem, candidates: Sequence[Sequence[int]], *, known: Choice
) -> Choice:
    """Give the first whose tables really add up to the budget or less, if it beats the known."""
    for picks in candidates:
        if problem.fits(problem.cost_of(picks)):
            return max(known, Choice.of(problem, picks), key=lambda choice: choice.value)
    return known
