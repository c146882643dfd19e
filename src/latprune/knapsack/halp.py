"""Narrow all groups in steps, each an augmented knapsack over ticks of latency.

A step prices what every group writes at the widths that its inputs have now, and packs channels,
the most important first, until the step's budget is full. The budgets of the steps fall
geometrically, so that prices are taken anew while widths change little.

Narrower inputs make layers cheaper than they were priced at: a choice lies below its budget, the
further below the fewer steps there are. That is the method's nature.

Source:
    Shen et al., "Structural Pruning via Latency-Saliency Knapsack", NeurIPS 2022.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from latprune.errors import BudgetTooSmall
from latprune.knapsack.following import Following, only_forbids
from latprune.knapsack.ordering import in_turn
from latprune.knapsack.problem import Choice

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from latprune.knapsack.problem import Problem, Table

# A tick as a share of the dense cost, where it is not given. Finer ones change no plan to speak of.
TICK_SHARE = 5e-5

# Ticks in all items together, at the most; where there would be more, ticks are longer.
MOST_TICKS = 200_000


def halp(problem: Problem, *, steps: int = 30, tick_ms: float | None = None) -> Choice:
    """Choose widths as HALP does: steps of an augmented knapsack, from the widest options down.

    An item is one option of a group on top of the option below. Its importance is the value that
    it adds; its cost is what it adds to the tables that the group writes, directly or by an
    auxiliary variable that follows it, while all else in those tables stays as it is. Costs may
    be negative. The narrowest option is always in, and one that a step left out never comes back.

    If the last step still leaves too much, because costs were rounded or neighbours changed too,
    steps with less and less of the budget follow.

    Args:
        problem: Values, costs and one budget; options are widths, ascending.
        steps: How many steps lead to the budget.
        tick_ms: What costs are rounded to; 1/20 000 of the dense cost where left out. It is longer
            where all items together would be more than 200 000 ticks.

    Returns:
        A choice within the budget. Its bound is the trivial one: the value of all channels.

    Raises:
        BudgetTooSmall: If the narrowest options cost too much; it carries the least cost met.
        ValueError: If there are several budgets, or the tables forbid the widest options.
    """
    if problem.further_ms:
        raise ValueError(
            f"halp takes one budget, not {len(problem.budgets_ms)}: choose with joint, or keep "
            f"the tables of one target"
        )
    if steps < 1 or (tick_ms is not None and not 0 < tick_ms < math.inf):
        raise ValueError(f"halp needs steps and tick_ms above 0, not {steps} and {tick_ms}")
    met = list(_descent(problem, steps=steps, tick_ms=tick_ms))
    picks = met[-1]
    if not problem.fits(problem.costs_of(picks)):
        picks = min(met, key=problem.cost_of)
    if not problem.fits(problem.costs_of(picks)):
        raise BudgetTooSmall(problem.budget_ms, problem.cost_of(picks))
    return Choice.of(problem, picks, bound=math.fsum(v.max() for v in problem.values))


def schedule(dense_ms: float, budget_ms: float, *, steps: int) -> list[float]:
    """Give the budget of each step in ms; that of the last is the budget itself.

    C_t = exp((t/k) ln C + (1 − t/k) ln C_dense) for t = 1 … k, or a straight line where one of
    the costs has no logarithm.
    """
    shares = [step / steps for step in range(1, steps)]
    if min(dense_ms, budget_ms) > 0:
        # The same power, in a form from which the unit of time cancels without rounding.
        falling = [dense_ms * (budget_ms / dense_ms) ** share for share in shares]
    else:
        falling = [share * budget_ms + (1 - share) * dense_ms for share in shares]
    return [*falling, budget_ms]


def _descent(problem: Problem, *, steps: int, tick_ms: float | None) -> Iterator[list[int]]:
    """Give the widest picks, then those after each step, until they fit or are the narrowest."""
    layers = _Layers(problem)
    picks = layers.following.widest()
    dense_ms = problem.cost_of(picks)
    tick_ms = TICK_SHARE * max(dense_ms, 0.0) if tick_ms is None else tick_ms
    yield picks
    if dense_ms <= problem.budget_ms:
        return
    for step_ms in schedule(dense_ms, problem.budget_ms, steps=steps):
        picks = layers.narrowed(picks, step_ms, tick_ms=tick_ms)
        yield picks
    less_ticks = 1
    while not problem.fits(problem.costs_of(picks)) and layers.can_narrow(picks):
        picks = layers.narrowed(picks, problem.budget_ms, tick_ms=tick_ms, less_ticks=less_ticks)
        yield picks
        less_ticks *= 2


class _Ladder(NamedTuple):
    """The options that a variable is offered in one step, those up to the present one.

    Attributes:
        variable: A chosen one.
        options: int [items + 1], ascending; the first is in.
        gains: The value that each item adds, [items].
        costs_ms: The cost that it adds, [items].
    """

    variable: int
    options: np.ndarray
    gains: np.ndarray
    costs_ms: np.ndarray


class _Layers:
    """A problem, and which of its tables each variable writes."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.following = Following(problem)
        self._turns = in_turn(problem, self.following.chosen)
        self._written: dict[int, list[tuple[Table, int]]] = {v: [] for v in self._turns}
        for table in problem.tables:
            if table.writes is None or only_forbids(table):
                continue
            written = table.scope[table.writes]
            for variable in self._turns:
                if written in {variable, *self.following.followers[variable]}:
                    self._written[variable].append((table, written))

    def can_narrow(self, picks: Sequence[int]) -> bool:
        """Say whether any variable is offered an option below its present one."""
        return any(ladder.options[0] < picks[ladder.variable] for ladder in self._ladders(picks))

    def narrowed(
        self, picks: Sequence[int], step_ms: float, *, tick_ms: float, less_ticks: int = 0
    ) -> list[int]:
        """Give the picks after a step.

        Args:
            picks: Those before it.
            step_ms: The step's budget.
            tick_ms: What costs are rounded to.
            less_ticks: How much of the budget to leave.
        """
        ladders = self._ladders(picks)
        # What is not an item's stays: outputs that are fixed, and all narrowest options.
        items_ms = math.fsum(cost_ms for ladder in ladders for cost_ms in ladder.costs_ms)
        spare_ms = step_ms - (self.problem.cost_of(picks) - items_ms)
        counts = _packed(ladders, spare_ms, tick_ms=tick_ms, less_ticks=less_ticks)
        return self.following.follow(
            {
                ladder.variable: int(ladder.options[count])
                for ladder, count in zip(ladders, counts, strict=True)
            }
        )

    def _ladders(self, picks: Sequence[int]) -> list[_Ladder]:
        return [self._ladder(variable, picks) for variable in self._turns]

    def _ladder(self, variable: int, picks: Sequence[int]) -> _Ladder:
        written_ms = self._written_ms(variable, picks)
        (all_ms,) = self.following.costs_ms(variable, picks)
        allowed = np.isfinite(written_ms) & np.isfinite(all_ms)
        options = np.flatnonzero(allowed[: picks[variable] + 1])
        if not options.size:
            options = np.array([picks[variable]])
        return _Ladder(
            variable,
            options,
            gains=np.diff(self.problem.values[variable][options]),
            costs_ms=np.diff(written_ms[options]),
        )

    def _written_ms(self, variable: int, picks: Sequence[int]) -> np.ndarray:
        """Price what a variable writes at each of its options; inputs are as wide as now."""
        moved = self.following.moves(variable, picks)
        written_ms = np.zeros(self.problem.sizes[variable])
        for table, written in self._written[variable]:
            at = (moved[v] if v == written else picks[v] for v in table.scope)
            written_ms += table.cost_ms[tuple(at)]
        return written_ms


def _packed(
    ladders: Sequence[_Ladder], spare_ms: float, *, tick_ms: float, less_ticks: int
) -> list[int]:
    """Give how many items of each ladder a knapsack takes."""
    total_ms = math.fsum(abs(cost_ms) for ladder in ladders for cost_ms in ladder.costs_ms)
    tick_ms = max(tick_ms, total_ms / MOST_TICKS) or 1.0
    ticks = [np.rint(ladder.costs_ms / tick_ms).astype(np.int64) for ladder in ladders]
    most = sum(int(costs[costs > 0].sum()) for costs in ticks)
    capacity = round(max(-1.0, min(spare_ms / tick_ms, most))) - less_ticks
    if capacity < 0:
        return [0] * len(ladders)

    # A packing may pass through as much more as later items of negative cost can give back.
    given_back = -sum(int(costs[costs < 0].sum()) for costs in ticks)
    value = np.zeros(capacity + given_back + 1)
    packings = [
        _joined(value, ladder.gains, costs) for ladder, costs in zip(ladders, ticks, strict=True)
    ]
    counts, column = [], capacity
    for count, came_from in reversed(packings):
        counts.append(int(count[column]))
        column = int(came_from[column])
    return counts[::-1]


def _joined(
    value: np.ndarray, gains: np.ndarray, ticks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Let one group's items join the packings, each where it may and raises the value.

    Args:
        value: Of the best packing found at each tick, [ticks]; changed in place.
        gains: What the items add, [items].
        ticks: What they cost, int [items].

    Returns:
        How many of them are in at each tick, and at which tick the packing that they joined was
        before: int [ticks], twice.
    """
    count = np.zeros(len(value), dtype=np.int32)
    came_from = np.arange(len(value), dtype=np.int32)
    for item, (gain, cost) in enumerate(zip(gains, ticks, strict=True)):
        # An item that costs more than the whole table leaves both slices empty.
        before = slice(max(-cost, 0), max(len(value) - max(cost, 0), 0))
        after = slice(max(cost, 0), max(len(value) - max(-cost, 0), 0))
        joined = value[before] + gain
        better = (count[before] == item) & (joined > value[after])
        if not better.any():
            break
        np.copyto(value[after], joined, where=better)
        np.copyto(came_from[after], came_from[before].copy(), where=better)
        count[after][better] = item + 1
    return count, came_from
