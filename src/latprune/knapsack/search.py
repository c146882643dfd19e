"""Choices close to the relaxed optimum are listed in order; one that fits is among the first.

At prices λ per ms, one per target, a choice x within the budgets B has the value

    V(x) = U − R(x) − Σ λ_k (B_k − T_k(x)),

where U is the relaxed optimum, an upper bound, and R(x) ≥ 0 the regret that x adds up, variable by
variable, over the tables of an elimination. A cost T_k(x) adds up in the same way over the tables
of an elimination of that cost alone. So every partial choice knows the regret and the cost of its
best completions, and a search that assigns variables in the reverse order and keeps the partial
choices of least regret ends with the complete choices of least regret. Among many of those some
cost hardly less than the budget. What the search had to drop bounds what it can have missed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latprune.knapsack.elimination import Relaxed

# A sum of costs in another order may differ by this much of the largest sum it passes through.
ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Attributes:
        picks: int [choices, variables], the best value first. Costs are within the budget up to
            rounding, values above the one that was known.
        bound: No choice within the budget has a value above this.
        complete: Whether nothing was dropped: the first of `picks`, or else what was known, is
            the optimum.
    """

    picks: np.ndarray
    bound: float
    complete: bool


@dataclass(frozen=True, eq=False)
class _Partial:
    """Partial choices over the same variables.

    Attributes:
        picks: int [choices, variables].
        regret: [choices].
        extra_ms: Cost above the floor, [targets, choices].
    """

    picks: np.ndarray
    regret: np.ndarray
    extra_ms: np.ndarray

    @classmethod
    def empty(cls, variables: int, targets: int) -> _Partial:
        return cls(np.zeros((1, variables), dtype=np.intp), np.zeros(1), np.zeros((targets, 1)))

    def extended(
        self, variable: int, regrets: np.ndarray, extras_ms: np.ndarray, *, most: _Limits
    ) -> _Partial:
        """Assign one more variable in every way that stays within the limits."""
        regret = self.regret[:, None] + regrets
        extra_ms = self.extra_ms[..., None] + extras_ms
        cheap = (extra_ms <= most.extra_ms[:, None, None]).all(axis=0)
        rows, options = np.nonzero((regret < most.regret) & cheap)
        picks = self.picks[rows]
        picks[:, variable] = options
        return _Partial(picks, regret[rows, options], extra_ms[:, rows, options])

    def best(self, width: int) -> tuple[_Partial, float]:
        """Keep the `width` of least regret; give the least regret among the others, or inf."""
        if len(self.regret) <= width:
            return self, math.inf
        ranked = np.argpartition(self.regret, width)
        kept = np.sort(ranked[:width])
        partial = _Partial(self.picks[kept], self.regret[kept], self.extra_ms[:, kept])
        return partial, float(self.regret[ranked[width]])


@dataclass(frozen=True)
class _Limits:
    """The regret that a choice must stay below, and the costs above the floors it may reach."""

    regret: float
    extra_ms: np.ndarray


def search(
    relaxed: Relaxed,
    floors: Sequence[Relaxed],
    *,
    prices: Sequence[float],
    budgets_ms: Sequence[float],
    known: float,
    width: int,
) -> Found:
    """Look for choices within the budgets that are worth more than a known one.

    Args:
        relaxed: The minimum of `prices` times costs minus value.
        floors: Per target the minimum of its cost, from the same elimination.
        prices: Value per ms, ≥ 0, one per target.
        budgets_ms: What a choice may cost.
        known: The value of a choice within the budgets; −inf if none is known.
        width: How many partial choices to keep.
    """
    budget, price = np.array(budgets_ms), np.array(prices)
    floor = np.array([one.minimum for one in floors])
    upper = float(price @ budget) - relaxed.minimum
    slack_ms = budget - floor
    most = _Limits(
        regret=upper - known,
        extra_ms=slack_ms + ROUNDING * (np.abs(budget) + np.abs(floor)),
    )
    partial, dropped = _Partial.empty(len(relaxed.order), len(budget)), math.inf
    for position in reversed(range(len(relaxed.order))):
        partial, least = partial.extended(
            relaxed.order[position],
            relaxed.regrets(position, partial.picks),
            np.stack([one.regrets(position, partial.picks) for one in floors]),
            most=most,
        ).best(width)
        dropped = min(dropped, least)

    value = upper - partial.regret - price @ (slack_ms[:, None] - partial.extra_ms)
    ranked = np.argsort(-value, kind="stable")
    ranked = ranked[value[ranked] > known]
    best = float(value[ranked[0]]) if len(ranked) else known
    return Found(
        picks=partial.picks[ranked],
        bound=min(upper, max(best, upper - dropped)),
        complete=math.isinf(dropped),
    )
