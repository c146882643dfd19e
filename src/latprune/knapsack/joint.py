"""All groups are chosen together, and a bound says how far from the optimum the choice can be.

Prices per ms turn the budgets into a part of the objective, and the relaxed problem is solved
exactly. Its optimum bounds the constrained one from above; the prices with the least such bound
are found first. A search near that optimum then finds a choice within the budgets and lowers the
bound, most often until both meet. Where they do not, the options of one group are divided, and each
half is solved in the same way (branch and bound).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from latprune.errors import BoundIsLooser, BudgetsTooSmall, BudgetTooSmall
from latprune.knapsack.dominance import undominated
from latprune.knapsack.dual import least_bound
from latprune.knapsack.elimination import MEMORY_MIB, Elimination
from latprune.knapsack.problem import Choice, relative_gap
from latprune.knapsack.search import search

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from latprune.knapsack.elimination import Relaxed
    from latprune.knapsack.problem import Problem

# Partial choices kept by one search after another, until the gap is small enough.
WIDTHS = (64, 512, 4096)
# Where the frontier has a long straight piece, choices in between are found by dividing.
BRANCHES = 32
BRANCHING_GAP = 1e-4


def joint(
    problem: Problem,
    *,
    gap: float = 1e-7,
    search_widths: Sequence[int] = WIDTHS,
    branches: int = BRANCHES,
    memory_mib: float = MEMORY_MIB,
) -> Choice:
    """Choose the options of most value within the budgets, with a proven bound.

    The same problem gives the same choice: effort is limited by `search_widths` and `branches`,
    not by a clock.

    Args:
        problem: Values, costs and the budgets.
        gap: Relative distance between value and bound at which the search may stop.
        search_widths: How many partial choices each search keeps; wider ones prove smaller gaps.
        branches: How often a part of the problem may be divided where the gap is above 0.01 %.
        memory_mib: What the tables of one relaxed solution may take. Where more would be needed,
            `BoundIsLooser` is warned of, and a bound from smaller tables takes its place.

    Returns:
        A choice whose costs are within the budgets. It is the optimum where its `gap` is 0. Its
        `prices` say what one more ms would buy.

    Raises:
        BudgetTooSmall: If nothing fits; it carries the least cost of any allowed choice. Where
            tables were split: if nothing was found that does; it carries the least cost found.
        BudgetsTooSmall: If each budget can be met, and no choice was found that meets them all.
        ValueError: If the tables forbid every choice.
    """
    nothing = -math.inf
    root = _solve(_Part.whole(problem), nothing, search_widths, gap=gap, memory_mib=memory_mib)
    if not root.exact:
        warnings.warn(BoundIsLooser(root.needed_mib, memory_mib), stacklevel=2)
    best, bound, parts = root.best, root.bound, [root]
    settled = nothing  # the bound of parts that cannot be divided any further
    for _ in range(branches):
        known = nothing if best is None else best.value
        if relative_gap(known, bound) <= max(gap, BRANCHING_GAP) or not parts:
            break
        parts.sort(key=lambda part: part.bound)
        part = parts.pop()
        halves = part.halves()
        if not halves:
            settled = max(settled, part.bound)
        for half in halves:
            try:
                found = _solve(half, known, search_widths, gap=gap, memory_mib=memory_mib)
            except (BudgetTooSmall, ValueError):  # nothing fits in this half
                continue
            if found.best is not None and found.best.value > known:
                best, known = found.best, found.best.value
            parts.append(found)
        parts = [part for part in parts if part.bound > known]
        bound = max([known, settled, *(part.bound for part in parts)])
    if best is None and not problem.further_ms:
        raise BudgetTooSmall(problem.budget_ms, root.nearest.cost_ms)
    if best is None:
        raise BudgetsTooSmall(problem.budgets_ms, root.nearest.costs_ms)
    return Choice.of(problem, best.picks, bound=bound, prices=root.prices)


@dataclass(frozen=True, eq=False)
class _Part:
    """A problem with some of the options, and the way back to all of them."""

    full: Problem
    problem: Problem
    restored: Callable[[Sequence[int]], list[int]]

    @classmethod
    def whole(cls, problem: Problem) -> _Part:
        """Leave out only what is dominated; a budget without end becomes one that never binds."""
        most_ms = [
            1.0 + sum(float(np.abs(_finite(t.cost_ms)).max()) for t in problem.tables_of(target))
            for target in range(len(problem.budgets_ms))
        ]
        first, *further = map(min, problem.budgets_ms, most_ms)
        bounded = replace(problem, budget_ms=first, further_ms=further)
        return cls(problem, *undominated(bounded))

    def choice(self, picks: Sequence[int]) -> Choice:
        """Give a choice of the part as one of the whole."""
        return Choice.of(self.full, self.restored(picks))

    def with_options(self, variable: int, options: slice) -> _Part:
        """Take some options of one variable only."""
        start = options.start or 0
        cut = [options if v == variable else slice(None) for v in range(len(self.problem.sizes))]
        smaller = replace(
            self.problem,
            values=[values[at] for values, at in zip(self.problem.values, cut, strict=True)],
            tables=[
                table._replace(cost_ms=table.cost_ms[tuple(cut[v] for v in table.scope)])
                for table in self.problem.tables
            ],
            widths=[
                None if widths is None else widths[at]
                for widths, at in zip(self.problem.widths, cut, strict=True)
            ],
        )
        smaller, undominated_restored = undominated(smaller)

        def restored(picks: Sequence[int]) -> list[int]:
            found = undominated_restored(picks)
            found[variable] += start
            return self.restored(found)

        return _Part(self.full, smaller, restored)


@dataclass(frozen=True, eq=False)
class _Solved:
    """What is known of a part.

    Attributes:
        part: It.
        best: The most valuable choice found in it, of the whole problem; None if none fits or
            none is worth more than what was known.
        bound: No choice in it within the budgets is worth more.
        prices: Value per ms with the least bound.
        nearest: A choice of least cost that comes nearest to the budgets.
        between: Two picks of the part that are worth the same at these prices; None where there
            is nothing more to look for.
        exact: Whether relaxed solutions were.
        needed_mib: What they would have taken if they were not.
    """

    part: _Part
    best: Choice | None
    bound: float
    prices: tuple[float, ...]
    nearest: Choice
    between: tuple[tuple[int, ...], tuple[int, ...]] | None
    exact: bool
    needed_mib: float

    def halves(self) -> list[_Part]:
        """Divide the options of the variable in which two picks of equal worth differ most.

        Between them lies what no price reaches: in each half the prices are others.
        """
        if self.between is None:
            return []
        problem, (one, other) = self.part.problem, self.between
        moved = [
            abs(problem.values[v][a] - problem.values[v][b])
            for v, (a, b) in enumerate(zip(one, other, strict=True))
        ]
        steps = [abs(a - b) for a, b in zip(one, other, strict=True)]
        if not any(steps):
            return []
        variable = max(range(len(moved)), key=lambda v: (moved[v], steps[v]))
        middle = (one[variable] + other[variable] + 1) // 2
        halves = slice(0, middle), slice(middle, None)
        return [self.part.with_options(variable, half) for half in halves]


def _finite(cost_ms: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(cost_ms), cost_ms, 0.0)


def _solve(
    part: _Part,
    known: float,
    search_widths: Sequence[int],
    *,
    gap: float,
    memory_mib: float,
) -> _Solved:
    """Find the prices with the least bound, and search near them.

    Args:
        part: What to choose from.
        known: The value of a choice known; only better ones are looked for.
        search_widths: As for `joint`.
        gap: As for `joint`.
        memory_mib: As for `joint`.

    Raises:
        BudgetTooSmall: If a budget is below its floor.
        ValueError: If the tables forbid every choice.
    """
    problem = part.problem
    elimination = Elimination(problem, memory_mib=memory_mib, split=True)
    floors = _floors(problem, elimination)
    cheapest = [Choice.of(problem, floor.picks()) for floor in floors]
    _check_floors(problem, floors, cheapest, exact=elimination.exact)
    nearest = part.choice(_nearest(problem, cheapest).picks)
    relaxed = elimination.minimise(value=1.0, cost=0.0)
    richest = Choice.of(problem, relaxed.picks())
    solved = partial(
        _Solved,
        part,
        nearest=nearest,
        exact=elimination.exact,
        needed_mib=elimination.needed_mib,
    )
    if problem.fits(richest.costs_ms):
        no_prices = (0.0,) * len(problem.budgets_ms)
        bound = max(richest.value, -relaxed.minimum)
        return solved(part.choice(richest.picks), bound, no_prices, between=None)

    dual = least_bound(problem, elimination, richest=richest, cheapest=cheapest)
    best = dual.under if dual.under is not None and dual.under.value > known else None
    bound, complete = dual.bound, False
    for width in search_widths:
        least = known if best is None else best.value
        if relative_gap(least, bound) <= gap:
            break
        found = search(
            dual.relaxed,
            floors,
            prices=dual.prices,
            budgets_ms=problem.budgets_ms,
            known=least,
            width=width,
        )
        best = _first_that_fits(problem, found.picks.tolist(), known=best)
        least = known if best is None else best.value
        complete = found.complete
        bound = least if complete else min(bound, max(found.bound, least))
        if complete:
            break
    between = (dual.over.picks, (dual.under or cheapest[0]).picks)
    return solved(
        None if best is None else part.choice(best.picks),
        bound,
        dual.prices,
        between=None if complete else between,
    )


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
