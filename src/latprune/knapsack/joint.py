"""All groups are chosen together, and a bound says how far from the optimum the choice can be.

Prices per ms turn the budgets into a part of the objective, and the relaxed problem is solved
exactly. Its optimum bounds the constrained one from above; the prices with the least such bound
are found first. A search near that optimum then finds a choice within the budgets and lowers the
bound, most often until both meet.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

from latprune.errors import BoundIsLooser, BudgetsTooSmall, BudgetTooSmall
from latprune.knapsack.dominance import undominated
from latprune.knapsack.dual import least_bound
from latprune.knapsack.elimination import MEMORY_MIB, Elimination
from latprune.knapsack.problem import Choice, relative_gap
from latprune.knapsack.search import search

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latprune.knapsack.elimination import Relaxed
    from latprune.knapsack.problem import Problem

# Partial choices kept by one search after another, until the gap is small enough.
WIDTHS = (64, 512, 4096)


def joint(
    problem: Problem,
    *,
    gap: float = 1e-7,
    search_widths: Sequence[int] = WIDTHS,
    memory_mib: float = MEMORY_MIB,
) -> Choice:
    """Choose the options of most value within the budgets, with a proven bound.

    The same problem gives the same choice: effort is limited by `search_widths`, not by a clock.

    Args:
        problem: Values, costs and the budgets.
        gap: Relative distance between value and bound at which the search may stop.
        search_widths: How many partial choices each search keeps; wider ones prove smaller gaps.
        memory_mib: What the tables of one relaxed solution may take. Where more would be needed,
            `BoundIsLooser` is warned of, and a bound from smaller tables takes its place.

    Returns:
        A choice whose costs are within the budgets. It is the optimum where its `gap` is 0. Its
        `prices` say what one more ms would buy.

    Raises:
        BudgetTooSmall: If nothing fits; it carries the least cost of any allowed choice.
        BudgetsTooSmall: If each budget can be met, and no choice was found that meets them all.
        ValueError: If the tables forbid every choice.
    """
    full, (problem, restored) = problem, undominated(problem)
    elimination = Elimination(problem, memory_mib=memory_mib, split=True)
    if not elimination.exact:
        warnings.warn(BoundIsLooser(elimination.needed_mib, memory_mib), stacklevel=2)
    floors = _floors(problem, elimination)
    cheapest = [Choice.of(problem, floor.picks()) for floor in floors]
    _check_floors(problem, floors, cheapest, exact=elimination.exact)
    relaxed = elimination.minimise(value=1.0, cost=0.0)
    richest = Choice.of(problem, relaxed.picks())
    if problem.fits(richest.costs_ms):
        no_price = [0.0] * len(problem.budgets_ms)
        bound = max(richest.value, -relaxed.minimum)
        return Choice.of(full, restored(richest.picks), bound=bound, prices=no_price)

    dual = least_bound(problem, elimination, richest=richest, cheapest=cheapest)
    best, bound = dual.under, dual.bound
    for width in search_widths:
        if best is not None and relative_gap(best.value, bound) <= gap:
            break
        found = search(
            dual.relaxed,
            floors,
            prices=dual.prices,
            budgets_ms=problem.budgets_ms,
            known=-math.inf if best is None else best.value,
            width=width,
        )
        best = _first_that_fits(problem, found.picks.tolist(), known=best)
        if found.complete:
            bound = -math.inf if best is None else best.value
            break
        bound = min(bound, max(found.bound, -math.inf if best is None else best.value))
    if best is None:
        raise BudgetsTooSmall(problem.budgets_ms, _nearest(problem, cheapest).costs_ms)
    return Choice.of(full, restored(best.picks), bound=bound, prices=dual.prices)


def floor(problem: Problem, *, memory_mib: float = MEMORY_MIB) -> Choice:
    """Choose what costs least, whatever the budget and the value: no network is faster.

    Args:
        problem: Its first target is looked at.
        memory_mib: As for `joint`.

    Raises:
        ProblemTooDense: If exact tables would take more than `memory_mib`.
        ValueError: If the tables forbid every choice.
    """
    elimination = Elimination(problem, memory_mib=memory_mib)
    (cheapest, *_) = (Choice.of(problem, r.picks()) for r in _floors(problem, elimination))
    if math.isinf(cheapest.cost_ms):
        raise ValueError("the tables forbid every combination of options")
    return cheapest


def _floors(problem: Problem, elimination: Elimination) -> list[Relaxed]:
    """Minimise the cost of every target by itself."""
    targets = range(len(problem.budgets_ms))
    return [
        elimination.minimise(value=0.0, cost=[float(target == other) for other in targets])
        for target in targets
    ]


def _check_floors(
    problem: Problem, floors: Sequence[Relaxed], cheapest: Sequence[Choice], *, exact: bool
) -> None:
    """Say so if nothing fits.

    Raises:
        BudgetTooSmall: If a budget is below its floor.
        ValueError: If even the floor is forbidden.
    """
    for target, (relaxed, choice) in enumerate(zip(floors, cheapest, strict=True)):
        floor_ms = choice.costs_ms[target] if exact else relaxed.minimum
        if math.isinf(floor_ms):
            raise ValueError("the tables forbid every combination of options")
        if floor_ms > problem.budgets_ms[target]:
            raise BudgetTooSmall(problem.budgets_ms[target], floor_ms, target=target)


def _nearest(problem: Problem, choices: Sequence[Choice]) -> Choice:
    """Give the choice whose worst excess over a budget is least."""
    return min(
        choices,
        key=lambda choice: max(
            cost_ms - budget_ms
            for cost_ms, budget_ms in zip(choice.costs_ms, problem.budgets_ms, strict=True)
        ),
    )


def _first_that_fits(
    problem: Problem, candidates: Sequence[Sequence[int]], *, known: Choice | None
) -> Choice | None:
    """Give the first whose tables really add up to the budgets or less, if it beats the known."""
    for picks in candidates:
        if problem.fits(problem.costs_of(picks)):
            found = Choice.of(problem, picks)
            return found if known is None or found.value > known.value else known
    return known
