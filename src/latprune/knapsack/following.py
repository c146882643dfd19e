"""Some variables are chosen; the auxiliary ones that are tied to them follow.

A table of 0 and inf ties an auxiliary variable if it leaves it one option at every combination of
the others. So the width of a concatenation follows the groups that it is the sum of, one partial
sum after the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from latprune.knapsack.problem import Problem, Table


class Following:
    """Which variables are chosen, and what their options cost if the others follow.

    Attributes:
        chosen: The groups, and the auxiliary variables that nothing determines.
        followers: Per chosen variable the auxiliary ones that move with it.
        touched: Per chosen variable the positions, among the problem's tables, of those that it
            or a follower is in.
    """

    def __init__(self, problem: Problem) -> None:
        """Find out who follows whom.

        Args:
            problem: Its `widths` say which variables are auxiliary.
        """
        self.problem = problem
        self.chosen, self._ties = _chosen_and_ties(problem)
        self._ties_of = {variable: list(self._moved_with(variable)) for variable in self.chosen}
        self.followers = {v: tuple(t.variable for t in ties) for v, ties in self._ties_of.items()}
        self.touched = {
            variable: frozenset(
                position
                for position, table in enumerate(problem.tables)
                if not {variable, *self.followers[variable]}.isdisjoint(table.scope)
            )
            for variable in self.chosen
        }

    def widest(self) -> list[int]:
        """Pick the last option of every chosen variable.

        Raises:
            ValueError: If the tables forbid it.
        """
        picks = self.follow(
            {variable: self.problem.sizes[variable] - 1 for variable in self.chosen}
        )
        if not np.isfinite(self.problem.costs_of(picks)).all():
            raise ValueError(
                "the tables forbid the widest options, with which this solver starts: leave out "
                "options that are never allowed, or choose with joint"
            )
        return picks

    def follow(self, picks: Mapping[int, int]) -> list[int]:
        """Give every variable's pick, from those of the chosen."""
        every = dict(picks)
        for tie in self._ties:
            every[tie.variable] = int(tie.option[tuple(every[v] for v in tie.others)])
        return [every[variable] for variable in range(len(self.problem.values))]

    def moves(self, variable: int, picks: Sequence[int]) -> dict[int, np.ndarray]:
        """Let one chosen variable take each of its options, the other chosen staying.

        Returns:
            For it and each of its followers their picks, int [options of the chosen variable].
        """
        moved = {variable: np.arange(self.problem.sizes[variable])}
        for tie in self._ties_of[variable]:
            moved[tie.variable] = tie.option[tuple(moved.get(v, picks[v]) for v in tie.others)]
        return moved

    def costs_ms(self, variable: int, picks: Sequence[int]) -> np.ndarray:
        """Price each option of a chosen variable, its followers following, the others staying.

        Returns:
            The sums of the tables that change, in ms, [targets, options]; inf where forbidden.
        """
        moved = self.moves(variable, picks)
        costs = np.zeros((len(self.problem.budgets_ms), self.problem.sizes[variable]))
        for position in sorted(self.touched[variable]):
            scope, cost_ms, _, target = self.problem.tables[position]
            costs[target] += cost_ms[tuple(moved.get(v, picks[v]) for v in scope)]
        return costs

    def _moved_with(self, variable: int) -> Iterator[_Tie]:
        moved = {variable}
        for tie in self._ties:
            if not moved.isdisjoint(tie.others):
                moved.add(tie.variable)
                yield tie


class _Tie(NamedTuple):
    """An auxiliary variable's option, int [options of the first of the others, of the second, …].

    Where the others forbid each other it is any.
    """

    variable: int
    others: tuple[int, ...]
    option: np.ndarray


def _chosen_and_ties(problem: Problem) -> tuple[tuple[int, ...], tuple[_Tie, ...]]:
    """Give the chosen variables, and one tie of each other, after those of what it depends on."""
    possible = [tie for table in problem.tables for tie in _possible_ties(problem, table)]
    chosen = [variable for variable, widths in enumerate(problem.widths) if widths is not None]
    known, ties = set(chosen), list[_Tie]()
    while unknown := set(range(len(problem.values))) - known:
        found = (t for t in possible if t.variable in unknown and known.issuperset(t.others))
        tie = next(found, None)
        if tie is None:
            chosen.append(min(unknown))
            known.add(chosen[-1])
        else:
            ties.append(tie)
            known.add(tie.variable)
    return tuple(chosen), tuple(ties)


def _possible_ties(problem: Problem, table: Table) -> Iterator[_Tie]:
    auxiliary = [axis for axis, v in enumerate(table.scope) if problem.widths[v] is None]
    if not auxiliary or not only_forbids(table):
        return
    allowed = np.isfinite(table.cost_ms)
    for axis in auxiliary:
        if (allowed.sum(axis=axis) <= 1).all():
            others = tuple(v for v in table.scope if v != table.scope[axis])
            yield _Tie(table.scope[axis], others, allowed.argmax(axis=axis))


def only_forbids(table: Table) -> bool:
    """Say whether a table holds nothing but 0 and inf: then it is no layer."""
    return not table.cost_ms[np.isfinite(table.cost_ms)].any()
