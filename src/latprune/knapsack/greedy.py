"""Narrow one group at a time, always the one that loses least value per ms saved."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from latprune.errors import BudgetTooSmall
from latprune.knapsack.following import Following
from latprune.knapsack.ordering import in_turn
from latprune.knapsack.problem import Choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latprune.knapsack.problem import Problem


def greedy(problem: Problem) -> Choice:
    """Choose widths one narrowing after the other, from the widest options down.

    A narrowing takes one group to any lower option, auxiliary variables following. It saves what
    all tables together really save while the other groups stay as they are; one that saves
    nothing is not taken. With several budgets, savings count in those that are not met yet, each
    as a share of what is still too much.

    Args:
        problem: Values, costs and the budgets; options are widths, ascending.

    Returns:
        A choice within the budgets. Its bound is the trivial one: the value of all channels.

    Raises:
        BudgetTooSmall: If no narrowing saves any more; it carries the cost reached, for the
            budget that is missed by most.
        ValueError: If the tables forbid the widest options.
    """
    following = Following(problem)
    picks = following.widest()
    narrowings = _Narrowings(following, picks)
    while not problem.fits(costs_ms := problem.costs_of(picks)):
        excess_ms = np.array(costs_ms) - problem.budgets_ms
        best = narrowings.best(excess_ms)
        if best is None:
            target = int(excess_ms.argmax())
            raise BudgetTooSmall(problem.budgets_ms[target], costs_ms[target], target=target)
        variable, option = best
        picks = following.follow({v: picks[v] for v in following.chosen} | {variable: option})
        narrowings.update(variable, picks)
    return Choice.of(problem, picks, bound=math.fsum(v.max() for v in problem.values))


class _Narrowings:
    """What every option of every chosen variable loses and saves, kept up to date.

    The variables' options lie one after the other, the widest first: of narrowings that are
    equally good the first is taken.
    """

    def __init__(self, following: Following, picks: Sequence[int]) -> None:
        problem = following.problem
        self._following = following
        self._turns = in_turn(problem, following.chosen)
        self._options = [(v, o) for v in self._turns for o in reversed(range(problem.sizes[v]))]
        ends = accumulate(problem.sizes[v] for v in self._turns)
        self._part = {
            v: slice(end - problem.sizes[v], end) for v, end in zip(self._turns, ends, strict=True)
        }
        self._lost = np.zeros(len(self._options))
        self._saved_ms = np.zeros((len(problem.budgets_ms), len(self._options)))
        for variable in self._turns:
            self._price(variable, picks)

    def best(self, excess_ms: np.ndarray) -> tuple[int, int] | None:
        """Give the variable and its option, or None if nothing saves.

        Args:
            excess_ms: Costs above the budgets, [targets].
        """
        over = excess_ms > 0
        saved = (self._saved_ms[over] / excess_ms[over, None]).sum(axis=0)
        saving = np.flatnonzero(saved > 0)
        if not saving.size:
            return None
        best = int((self._lost[saving] / saved[saving]).argmin())
        return self._options[int(saving[best])]

    def update(self, variable: int, picks: Sequence[int]) -> None:
        """Price again what has changed because a variable has moved."""
        touched = self._following.touched
        for other in self._turns:
            if not touched[variable].isdisjoint(touched[other]):
                self._price(other, picks)

    def _price(self, variable: int, picks: Sequence[int]) -> None:
        costs_ms = self._following.costs_ms(variable, picks)
        values = self._following.problem.values[variable]
        lower = np.arange(len(values)) < picks[variable]
        allowed = lower & np.isfinite(costs_ms).all(axis=0)
        saved_ms = np.where(allowed, costs_ms[:, [picks[variable]]] - costs_ms, 0.0)
        self._saved_ms[:, self._part[variable]] = saved_ms[:, ::-1]
        self._lost[self._part[variable]] = (values[picks[variable]] - values)[::-1]
