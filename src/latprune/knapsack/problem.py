"""One option per variable, the most value, and sums of cost tables that must stay in budgets.

A variable is a channel group and an option one of its widths; an auxiliary variable, such as the
width of a concatenation, has no value of its own and is tied to others by tables of 0 and inf. An
option of width 0, whose costs are 0, stands for a branch that is removed. There is one budget per
target, and one set of tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


class Table(NamedTuple):
    """What every combination of a few variables' options costs.

    Attributes:
        scope: The variables, one per axis; empty for a constant cost.
        cost_ms: float [options of the first variable, of the second, …]; `inf` forbids.
        writes: The position in `scope` of the variable whose channels the layer writes; None if
            they are fixed. Only solvers that price one layer at a time look at it.
        target: Whose budget the costs count against.
    """

    scope: tuple[int, ...]
    cost_ms: np.ndarray
    writes: int | None = -1
    target: int = 0


@dataclass(frozen=True, eq=False)
class Problem:
    """Maximise the value of one option per variable, subject to sums of tables ≤ budgets.

    Attributes:
        values: Per variable a float array [options], no unit.
        tables: Costs, in any number and order; costs may be negative and need not be monotone.
        budget_ms: The most that the tables of target 0 may sum to; `inf` allows everything.
        widths: Per variable an array [options] of how many channels each option keeps, or None
            where the variable is auxiliary. Only solvers that shrink all groups alike look at it.
            Where left out, the options of a variable with any value are 1, 2, 3, … wide and a
            variable without is auxiliary.
        further_ms: The budgets of targets 1, 2, …, where there are several.
    """

    values: Sequence[np.ndarray]
    tables: Sequence[Table]
    budget_ms: float
    widths: Sequence[np.ndarray | None] = ()
    further_ms: Sequence[float] = ()

    def __post_init__(self) -> None:
        values = tuple(np.asarray(v, dtype=np.float64) for v in self.values)
        tables = tuple(_normal(table) for table in self.tables)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "tables", tables)
        object.__setattr__(self, "budget_ms", float(self.budget_ms))
        object.__setattr__(self, "further_ms", tuple(float(ms) for ms in self.further_ms))
        _check_values(values)
        for table in tables:
            _check_table(table, sizes=self.sizes, targets=len(self.budgets_ms))
        if any(math.isnan(ms) for ms in self.budgets_ms):
            raise ValueError("the budget is not a number of milliseconds: nan")
        object.__setattr__(self, "widths", _widths(self.widths, values))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many options each variable has."""
        return tuple(len(v) for v in self.values)

    @property
    def budgets_ms(self) -> tuple[float, ...]:
        """The budget of every target."""
        return self.budget_ms, *self.further_ms

    def cost_of(self, picks: Sequence[int], *, target: int = 0) -> float:
        """Add up a target's tables at one option per variable, in ms; `inf` if forbidden."""
        return math.fsum(
            float(table.cost_ms[tuple(picks[v] for v in table.scope)])
            for table in self.tables_of(target)
        )

    def costs_of(self, picks: Sequence[int]) -> tuple[float, ...]:
        """Give what `cost_of` gives, for every target."""
        return tuple(self.cost_of(picks, target=t) for t in range(len(self.budgets_ms)))

    def tables_of(self, target: int) -> list[Table]:
        """Give a target's tables."""
        return [table for table in self.tables if table.target == target]

    def fits(self, costs_ms: Sequence[float]) -> bool:
        """Say whether a choice of these costs, one per target, is allowed and within budget."""
        return all(
            math.isfinite(cost_ms) and cost_ms <= budget_ms
            for cost_ms, budget_ms in zip(costs_ms, self.budgets_ms, strict=True)
        )

    def value_of(self, picks: Sequence[int]) -> float:
        """Add up the values at one option per variable."""
        return math.fsum(float(v[pick]) for v, pick in zip(self.values, picks, strict=True))


@dataclass(frozen=True)
class Choice:
    """One option per variable.

    Attributes:
        picks: The options' indices.
        value: Their sum of values.
        costs_ms: Their sum of tables, for every target.
        bound: No choice within the budget has a value above this.
        prices: Per target, the value that one more ms would buy, at the margin: ten times what
            the next 0.1 ms buys. Empty where the solver does not know it.
    """

    picks: tuple[int, ...]
    value: float
    costs_ms: tuple[float, ...]
    bound: float
    prices: tuple[float, ...] = ()

    @classmethod
    def of(
        cls,
        problem: Problem,
        picks: Sequence[int],
        *,
        bound: float = math.inf,
        prices: Sequence[float] = (),
    ) -> Choice:
        """Make a choice whose totals come from the problem's tables, not from a solver.

        Args:
            problem: Holds the values and tables.
            picks: One option's index per variable.
            bound: An upper bound on the value of every choice within the budget. Solvers that
                know a lower one than the value found, which rounding can cause, get the value.
            prices: What one more ms is worth, where the solver knows it.
        """
        value = problem.value_of(picks)
        return cls(
            picks=tuple(int(pick) for pick in picks),
            value=value,
            costs_ms=problem.costs_of(picks),
            bound=max(float(bound), value),
            prices=tuple(float(price) for price in prices),
        )

    @property
    def cost_ms(self) -> float:
        """The sum of tables of target 0."""
        return self.costs_ms[0]

    @property
    def gap(self) -> float:
        """The share of the bound that is not proven to be reached: (bound − value) / bound."""
        return relative_gap(self.value, self.bound)


def relative_gap(value: float, bound: float) -> float:
    """Give (bound − value) / |bound|; 0 where they meet, inf where only the bound is 0.

    Of a bound that is infinite nothing is proven to be reached: 1.
    """
    if value >= bound:
        return 0.0
    if math.isinf(bound):
        return 1.0
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


def _normal(table: Table) -> Table:
    return table._replace(
        scope=tuple(int(v) for v in table.scope),
        cost_ms=np.asarray(table.cost_ms, dtype=np.float64),
        writes=table.writes if table.scope else None,
    )


def _check_table(table: Table, *, sizes: Sequence[int], targets: int) -> None:
    scope, cost = table.scope, table.cost_ms
    if len(set(scope)) != len(scope) or not all(0 <= v < len(sizes) for v in scope):
        raise ValueError(
            f"a table's scope {scope} does not name different ones of {len(sizes)} variables"
        )
    if not 0 <= table.target < targets:
        raise ValueError(f"the table over {scope} is for target {table.target} of {targets}")
    if table.writes is not None and not -len(scope) <= table.writes < len(scope):
        raise ValueError(f"the table over {scope} has no position {table.writes}")
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
