"""One option per variable, the most value, and a sum of cost tables that must stay in a budget.

A variable is a channel group and an option one of its widths; an auxiliary variable, such as the
width of a concatenation, has no value of its own and is tied to others by tables of 0 and inf.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


class Table(NamedTuple):
    """What every combination of a few variables' options costs.

    Attributes:
        scope: The variables, one per axis; empty for a constant cost.
        cost_ms: float [options of the first variable, of the second, …]; `inf` forbids.
    """

    scope: tuple[int, ...]
    cost_ms: np.ndarray


@dataclass(frozen=True, eq=False)
class Problem:
    """Maximise the value of one option per variable, subject to the sum of tables ≤ budget.

    Attributes:
        values: Per variable a float array [options], no unit.
        tables: Costs, in any number and order; costs may be negative and need not be monotone.
        budget_ms: The most that the tables may sum to; `inf` allows everything.
        widths: Per variable an array [options] of how many channels each option keeps, or None
            where the variable is auxiliary. Only solvers that shrink all groups alike look at it.
            Where left out, the options of a variable with any value are 1, 2, 3, … wide and a
            variable without is auxiliary.
    """

    values: Sequence[np.ndarray]
    tables: Sequence[Table | tuple[tuple[int, ...], np.ndarray]]
    budget_ms: float
    widths: Sequence[np.ndarray | None] = ()

    def __post_init__(self) -> None:
        values = tuple(np.asarray(v, dtype=np.float64) for v in self.values)
        tables = tuple(
            Table(tuple(int(v) for v in scope), np.asarray(cost, dtype=np.float64))
            for scope, cost in self.tables
        )
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "tables", tables)
        object.__setattr__(self, "budget_ms", float(self.budget_ms))
        _check_values(values)
        for table in tables:
            _check_table(table, sizes=self.sizes)
        if math.isnan(self.budget_ms):
            raise ValueError("the budget is not a number of milliseconds: nan")
        object.__setattr__(self, "widths", _widths(self.widths, values))

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many options each variable has."""
        return tuple(len(v) for v in self.values)

    def cost_of(self, picks: Sequence[int]) -> float:
        """Add up the tables at one option per variable, in ms; `inf` where that is forbidden."""
        return math.fsum(float(cost[tuple(picks[v] for v in scope)]) for scope, cost in self.tables)

    def fits(self, cost_ms: float) -> bool:
        """Say whether a choice of this cost is allowed and within the budget."""
        return math.isfinite(cost_ms) and cost_ms <= self.budget_ms

    def value_of(self, picks: Sequence[int]) -> float:
        """Add up the values at one option per variable."""
        return math.fsum(float(v[pick]) for v, pick in zip(self.values, picks, strict=True))


@dataclass(frozen=True)
class Choice:
    """One option per variable.

    Attributes:
        picks: The options' indices.
        value: Their sum of values.
        cost_ms: Their sum of tables.
        bound: No choice within the budget has a value above this.
    """

    picks: tuple[int, ...]
    value: float
    cost_ms: float
    bound: float

    @classmethod
    def of(cls, problem: Problem, picks: Sequence[int], *, bound: float = math.inf) -> Choice:
        """Make a choice whose totals come from the problem's tables, not from a solver.

        Args:
            problem: Holds the values and tables.
            picks: One option's index per variable.
            bound: An upper bound on the value of every choice within the budget. Solvers that
                know a lower one than the value found, which rounding can cause, get the value.
        """
        value = problem.value_of(picks)
        return cls(
            picks=tuple(int(pick) for pick in picks),
            value=value,
            cost_ms=problem.cost_of(picks),
            bound=max(float(bound), value),
        )

    @property
    def gap(self) -> float:
        """The share of the bound that is not proven to be reached: (bound − value) / bound."""
        return relative_gap(self.value, self.bound)


def relative_gap(value: float, bound: float) -> float:
    """Give (bound − value) / |bound|; 0 where they meet, inf where only the bound is 0."""
    if value >= bound:
        return 0.0
    return (bound - value) / abs(bound) if bound else math.inf


class Solver(Protocol):
    """Chooses one option per variable."""

    def __call__(self, problem: Problem, /) -> Choice:
        """Solve.

        Raises:
            BudgetTooSmall: If nothing the solver considers fits.
        """
        ...


def _check_values(values: Sequence[np.ndarray]) -> None:
    for variable, options in enumerate(values):
        if options.ndim != 1 or not len(options):
            raise ValueError(
                f"variable {variable} needs a list of at least one value, not an array of shape "
                f"{options.shape}"
            )
        if not np.isfinite(options).all():
            raise ValueError(f"variable {variable} has a value that is not finite: {options}")


def _check_table(table: Table, *, sizes: Sequence[int]) -> None:
    scope, cost = table
    if len(set(scope)) != len(scope) or not all(0 <= v < len(sizes) for v in scope):
        raise ValueError(
            f"a table's scope {scope} does not name different ones of {len(sizes)} variables"
        )
    expected = tuple(sizes[v] for v in scope)
    if cost.shape != expected:
        raise ValueError(
            f"the table over {scope} has shape {cost.shape}, but its variables have {expected} "
            f"options"
        )
    if np.isnan(cost).any() or np.isneginf(cost).any():
        raise ValueError(f"the table over {scope} holds nan or −inf")


def _widths(
    given: Sequence[np.ndarray | None], values: Sequence[np.ndarray]
) -> tuple[np.ndarray | None, ...]:
    if not given:
        return tuple(np.arange(1, len(v) + 1) if v.any() else None for v in values)
    widths = tuple(None if w is None else np.asarray(w) for w in given)
    if len(widths) != len(values) or any(
        w is not None and w.shape != v.shape for w, v in zip(widths, values, strict=False)
    ):
        raise ValueError("widths must give one number per option, or None, for every variable")
    return widths
