"""Prices that turn budgets into a part of the objective, and the least bound that they give.

At prices λ ≥ 0 per ms no choice within the budgets B is worth more than

    bound(λ) = max over all choices x of V(x) + Σ λ_k (B_k − T_k(x)).

Every λ gives a bound. With one budget the best λ is the slope between a choice above the budget
and one within it; with several it is found by cutting planes.

Source:
    One budget: Handler and Zang, "A dual algorithm for the constrained shortest path problem",
    Networks 10, 1980. Several: Kelley, "The cutting-plane method for solving convex programs",
    Journal of the SIAM 8, 1960.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latprune.knapsack.problem import Choice
from latprune.knapsack.search import ROUNDING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from latprune.knapsack.elimination import Elimination, Relaxed
    from latprune.knapsack.problem import Problem

# More prices than any problem has needed; every one of them gives a valid bound.
MOST_PRICES = 100
# In units of the whole value per whole range of a cost: dearer than anything is worth.
DEAREST = 1e5


@dataclass(frozen=True, eq=False)
class Dual:
    """What the prices with the least bound have given.

    Attributes:
        prices: Value per ms, one per target.
        relaxed: The relaxed problem's solution at these prices.
        bound: No choice within the budgets is worth more.
        under: The most valuable choice met that is within the budgets; None if none was.
        over: A choice that is best at these prices too, or nearly, and is not `under`.
    """

    prices: tuple[float, ...]
    relaxed: Relaxed
    bound: float
    under: Choice | None
    over: Choice


def least_bound(
    problem: Problem, elimination: Elimination, *, richest: Choice, cheapest: Sequence[Choice]
) -> Dual:
    """Find the prices with the least bound.

    Args:
        problem: Holds the budgets.
        elimination: Of the problem.
        richest: The choice of most value, not within the budgets.
        cheapest: Per target, the choice of least cost.
    """
    if len(cheapest) == 1 and elimination.exact:
        return _one(problem, elimination, over=richest, under=cheapest[0])
    return _several(problem, elimination, [richest, *cheapest])


def _one(problem: Problem, elimination: Elimination, *, over: Choice, under: Choice) -> Dual:
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
        if problem.fits(picked.costs_ms):
            under = picked
        else:
            over = picked
    return Dual((price,), relaxed, bound, under, over)


def _several(problem: Problem, elimination: Elimination, met: Sequence[Choice]) -> Dual:
    """Lower the largest of the planes V_j + Σ λ_k (B_k − T_jk), one per choice met so far.

    Where it is lowest the relaxed problem gives the next choice, until no choice adds anything.
    """
    # Where buckets were split, a choice read back from them may be forbidden.
    choices = [choice for choice in met if np.isfinite(choice.costs_ms).all()]
    if not choices:
        relaxed = elimination.minimise(value=1.0, cost=0.0)
        no_prices = (0.0,) * len(problem.budgets_ms)
        return Dual(no_prices, relaxed, -relaxed.minimum, None, met[0])
    planes = _Planes(problem, choices)
    best: tuple[float, np.ndarray, Relaxed] | None = None
    for _ in range(MOST_PRICES):
        lowest, prices = planes.lowest()
        relaxed = elimination.minimise(value=1.0, cost=prices.tolist())
        bound = float(prices @ problem.budgets_ms) - relaxed.minimum
        if best is None or bound < best[0]:
            best = bound, prices, relaxed
        picked = Choice.of(problem, relaxed.picks())
        scale = abs(best[0]) + float(np.abs(prices * problem.budgets_ms).sum())
        is_new = picked.picks not in {choice.picks for choice in choices}
        if best[0] - lowest <= ROUNDING * scale or not is_new:
            break
        if not np.isfinite(picked.costs_ms).all():
            break
        choices.append(picked)
        planes.add(picked)
    assert best is not None
    fitting = [choice for choice in choices if problem.fits(choice.costs_ms)]
    under = max(fitting, key=lambda choice: choice.value, default=None)
    prices = best[1]
    others = [choice for choice in choices if choice is not under] or choices
    over = max(others, key=lambda choice: choice.value - float(prices @ choice.costs_ms))
    return Dual(tuple(prices.tolist()), best[2], best[0], under, over)


class _Planes:
    """Planes over the prices, and the point at which the highest of them is lowest.

    The point is a vertex: as many planes and edges of the allowed region meet there as there are
    unknowns. A new plane cuts the old point off, so it is one of those that meet in the new one.
    """

    def __init__(self, problem: Problem, choices: Sequence[Choice]) -> None:
        costs = np.array([choice.costs_ms for choice in choices])
        values = np.array([choice.value for choice in choices])
        self._budgets_ms = np.array(problem.budgets_ms)
        spread_ms = np.where(np.isfinite(costs), costs, 0.0)
        range_ms = spread_ms.max(axis=0) - spread_ms.min(axis=0)
        self._range_ms = np.where(range_ms > 0, range_ms, 1.0)
        self._low = values.min()
        self._range = max(values.max() - values.min(), np.finfo(float).tiny)
        targets = len(self._budgets_ms)
        eye = np.eye(targets)
        # Rows (a, c, r): a·λ + c·z = r where the row is active, ≤ r everywhere.
        self._edges = np.block(
            [
                [-eye, np.zeros((targets, 2))],
                [eye, np.zeros((targets, 1)), np.full((targets, 1), DEAREST)],
            ]
        )
        self._rows = np.array([self._row(choice) for choice in choices])
        self._point = self._best(itertools.combinations(range(len(self._all)), targets + 1))

    @property
    def _all(self) -> np.ndarray:
        return np.concatenate([self._edges, self._rows])

    def _row(self, choice: Choice) -> list[float]:
        """A plane V + Σ λ s ≤ z, in units of the ranges."""
        slack = (self._budgets_ms - choice.costs_ms) / self._range_ms
        return [*slack, -1.0, -(choice.value - self._low) / self._range]

    def add(self, choice: Choice) -> None:
        """Add the plane of a choice; the point moves if the plane passes above it."""
        *slope, side = self._row(choice)
        if float(np.dot(slope, self._point)) <= side:
            return
        newest = len(self._all)
        others = itertools.combinations(range(newest), len(self._budgets_ms))
        self._rows = np.concatenate([self._rows, [self._row(choice)]])
        self._point = self._best((*some, newest) for some in others)

    def lowest(self) -> tuple[float, np.ndarray]:
        """Give the height of the lowest point, and the prices per ms there."""
        prices, height = self._point[:-1], self._point[-1]
        return self._low + self._range * height, prices * self._range / self._range_ms

    def _best(self, meeting: Iterable[tuple[int, ...]]) -> np.ndarray:
        rows = self._all
        systems = rows[np.array(list(meeting))]
        matrices, sides = systems[..., :-1], systems[..., -1:]
        regular = np.abs(np.linalg.det(matrices)) > ROUNDING
        points = np.linalg.solve(matrices[regular], sides[regular])[..., 0]
        over = (points @ rows[:, :-1].T - rows[:, -1]).max(axis=1)
        slack = 1e-9 * (1 + np.abs(points).max(axis=1))
        allowed = points[over <= slack]
        if not len(allowed):  # the planes differ by rounding alone
            return self._point
        best: np.ndarray = allowed[allowed[:, -1].argmin()]
        return np.append(np.maximum(best[:-1], 0.0), best[-1])
