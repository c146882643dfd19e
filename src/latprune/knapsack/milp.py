"""The problem as a mixed-integer program, for HiGHS: an independent judge of the other solvers.

A binary x says whether a variable takes an option, and a variable takes one. A table over several
variables has a y ≥ 0 for every combination that it allows; the y of all combinations with an option
add up to that option's x. Networks of real size can take minutes.
"""

from __future__ import annotations

import itertools
import math
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from latprune.errors import BudgetsTooSmall, BudgetTooSmall, import_extra
from latprune.knapsack.problem import Choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latprune.knapsack.problem import Problem, Table

# HiGHS lets sums and limits be missed by 1e-6: the ranges of values and costs are scaled to 2^12.
RANGE_EXPONENT = 12


def milp(problem: Problem, *, limit_s: float = 60.0) -> Choice:
    """Choose the options of most value within the budgets by branch and cut.

    Args:
        problem: Values, costs and the budgets.
        limit_s: How long HiGHS may look, all in all.

    Returns:
        A choice whose costs are within the budgets. Its gap is 0 if HiGHS has proven it optimal,
        to about 1e-9 of the values' range; else its bound is what was proven in time.

    Raises:
        BudgetTooSmall: If nothing fits; a second program minimises the cost, and the error
            carries that.
        BudgetsTooSmall: If each budget can be met, but not all at once.
        ValueError: If the tables forbid every choice.
        TimeoutError: If the time passes without an answer.
        MissingExtra: If HiGHS is not installed.

    Source:
        HiGHS: Huangfu and Hall, "Parallelizing the dual revised simplex method", Mathematical
        Programming Computation 10, 2018.
    """
    until = time.monotonic() + limit_s
    program = _Program(problem)
    limits = program.within(problem.budgets_ms)
    budgets = len(limits)
    while True:
        solved = program.minimise(program.loss, limits, until=until)
        if solved is None:
            raise _too_small(problem, program, until=until)
        if problem.fits(problem.costs_of(solved.picks)):
            bound = -math.inf if solved.optimal else -solved.bound
            return Choice.of(problem, solved.picks, bound=bound)
        # So little above a budget that HiGHS lets it pass. If the cheapest is, too, so may be more
        # choices than can be ruled out one by one.
        if len(limits) == budgets:
            _cheapest(problem, program, until=until)
        limits.append(program.other_than(solved.picks))


def _too_small(problem: Problem, program: _Program, *, until: float) -> BudgetTooSmall:
    """Say what would fit.

    Raises:
        ValueError: If nothing is allowed.
        TimeoutError: If that could not be found out.
    """
    try:
        cheapest = _cheapest(problem, program, until=until)
    except BudgetTooSmall as error:
        return error
    over_ms = np.subtract(cheapest, problem.budgets_ms).max(axis=1)
    return BudgetsTooSmall(problem.budgets_ms, cheapest[int(over_ms.argmin())])


def _cheapest(problem: Problem, program: _Program, *, until: float) -> list[tuple[float, ...]]:
    """Give what the cheapest choice for each target costs on all of them.

    Raises:
        BudgetTooSmall: If it is above that target's budget.
        ValueError: If nothing is allowed.
        TimeoutError: If it could not be found in time.
    """
    cheapest = []
    for target, budget_ms in enumerate(problem.budgets_ms):
        solved = program.minimise(program.costs[target], until=until)
        if solved is None:
            raise ValueError("the tables forbid every combination of options")
        if not solved.optimal:
            raise TimeoutError(
                "nothing fits the budget, and HiGHS has not found yet what would: give it more "
                "time with limit_s=, or choose with joint"
            )
        costs_ms = problem.costs_of(solved.picks)
        if costs_ms[target] > budget_ms:
            raise BudgetTooSmall(budget_ms, costs_ms[target], target=target)
        cheapest.append(costs_ms)
    return cheapest


class _Solved(NamedTuple):
    """Options, a bound that no sum is below, and whether they are proven to reach the minimum."""

    picks: tuple[int, ...]
    bound: float
    optimal: bool


class _Row(NamedTuple):
    """Columns whose weighted sum lies between two limits."""

    columns: np.ndarray
    weights: np.ndarray
    lower: float
    upper: float


class _Sum:
    """A sum of parts, each the weight of the one column among several that is 1.

    Attributes:
        least: What it would be if every part were its least.
        scale: What brings the rest to the common range.
    """

    def __init__(self, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        self.least = math.fsum(float(weights.min()) for _, weights in parts)
        self.range = math.fsum(float(np.ptp(weights)) for _, weights in parts)
        # A power of two: the same problem in another unit is the same program.
        self.scale = math.ldexp(1.0, RANGE_EXPONENT - math.frexp(self.range)[1])
        self._parts = parts

    def weights(self, columns: int) -> np.ndarray:
        """Give the scaled weight of every column, above the least of its part."""
        total = np.zeros(columns)
        for at, weights in self._parts:
            np.add.at(total, at, self.scale * (weights - weights.min()))
        return total


class _Program:
    """A problem's columns and rows; what is minimised, and within which budgets, comes later.

    Attributes:
        loss: The negative of the value.
        costs: Per target.
    """

    def __init__(self, problem: Problem) -> None:
        # Column 0 is always 1, so that there is one where there are no variables.
        first = np.cumsum([1, *problem.sizes])
        self._options = [np.arange(*ends) for ends in itertools.pairwise(first)]
        self._forbidden = np.zeros(first[-1], dtype=bool)
        self._columns = int(first[-1])
        self._rows = [_Row(x, np.ones(len(x)), 1.0, 1.0) for x in (np.array([0]), *self._options)]
        self.loss = _Sum([(x, -v) for x, v in zip(self._options, problem.values, strict=True)])
        self.costs = [
            _Sum([self._part(table) for table in problem.tables_of(target)])
            for target in range(len(problem.budgets_ms))
        ]

    def _part(self, table: Table) -> tuple[np.ndarray, np.ndarray]:
        """Give a table's columns and what they cost; add those that it needs.

        Raises:
            ValueError: If the table allows nothing.
        """
        allowed = np.isfinite(table.cost_ms)
        if not allowed.any():
            raise ValueError("the tables forbid every combination of options")
        if len(table.scope) == 1:
            x = self._options[table.scope[0]]
            self._forbidden[x[~allowed]] = True
            return x[allowed], table.cost_ms[allowed]
        y = self._columns + np.arange(allowed.sum())
        self._columns += len(y)
        for variable, picks in zip(table.scope, np.argwhere(allowed).T, strict=True):
            for pick, x in enumerate(self._options[variable]):
                with_it = y[picks == pick]
                weights = np.append(np.ones(len(with_it)), -1.0)
                self._rows.append(_Row(np.append(with_it, x), weights, 0.0, 0.0))
        return y, table.cost_ms[allowed]

    def within(self, budgets_ms: Sequence[float]) -> list[_Row]:
        """Give a row for every budget that not everything is within."""
        rows = []
        for cost, budget_ms in zip(self.costs, budgets_ms, strict=True):
            if budget_ms - cost.least < cost.range:
                weights = cost.weights(self._columns)
                # What is below the least by much is as impossible as what is below it by 1.
                upper = max(cost.scale * (budget_ms - cost.least), -1.0)
                rows.append(_Row(np.arange(self._columns), weights, -math.inf, upper))
        return rows

    def other_than(self, picks: Sequence[int]) -> _Row:
        """Give a row that rules out one choice."""
        x = np.array([options[pick] for options, pick in zip(self._options, picks, strict=True)])
        return _Row(x, np.ones(len(x)), -math.inf, len(x) - 1.0)

    def minimise(self, what: _Sum, limits: Sequence[_Row] = (), *, until: float) -> _Solved | None:
        """Solve; None if nothing is allowed.

        Raises:
            TimeoutError: If the time passes without a choice.
        """
        highspy = import_extra("highspy", "milp")
        model = self._model(highspy, what, [*self._rows, *limits])
        highs = _run(highspy, model, until=until)
        status, known = highs.getModelStatus(), highs.getInfo()
        if status in (
            highspy.HighsModelStatus.kInfeasible,
            highspy.HighsModelStatus.kUnboundedOrInfeasible,
        ):
            return None
        if known.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            raise TimeoutError(
                f"HiGHS has found no choice yet ({highs.modelStatusToString(status)}): give it "
                f"more time with limit_s=, or choose with joint"
            )
        x = np.array(highs.getSolution().col_value)
        return _Solved(
            picks=tuple(int(x[options].argmax()) for options in self._options),
            bound=what.least + known.mip_dual_bound / what.scale,
            optimal=status == highspy.HighsModelStatus.kOptimal,
        )

    def _model(self, highspy: Any, what: _Sum, rows: Sequence[_Row]) -> Any:
        integer = len(self._forbidden)
        kind = highspy.HighsVarType
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = self._columns, len(rows)
        model.col_cost_ = what.weights(self._columns)
        model.col_lower_ = np.zeros(self._columns)
        model.col_upper_ = np.append(~self._forbidden, np.ones(self._columns - integer, dtype=bool))
        model.integrality_ = [kind.kInteger] * integer + [kind.kContinuous] * (
            self._columns - integer
        )
        model.row_lower_ = np.array([row.lower for row in rows])
        model.row_upper_ = np.array([row.upper for row in rows])
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_ = np.cumsum([0, *(len(row.columns) for row in rows)])
        model.a_matrix_.index_ = np.concatenate([row.columns for row in rows])
        model.a_matrix_.value_ = np.concatenate([row.weights for row in rows])
        return model


def _run(highspy: Any, model: Any, *, until: float) -> Any:
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("parallel", "off")
    highs.setOptionValue("mip_rel_gap", 0.0)
    highs.setOptionValue("mip_abs_gap", 0.0)
    highs.setOptionValue("time_limit", max(until - time.monotonic(), 0.0))
    highs.passModel(model)
    highs.run()
    return highs
