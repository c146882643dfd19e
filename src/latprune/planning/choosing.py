"""Choose the channels that are worth most together, within one budget or at every latency.

`plan` frames the network as a knapsack problem, has it solved, and reads the choice back.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from latprune.errors import BudgetsTooSmall, BudgetTooSmall
from latprune.knapsack import Choice, joint
from latprune.knapsack import frontier as corners
from latprune.planning.budget import Budget
from latprune.planning.question import Demand, Question

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from latprune.graph.groups import PruningGraph
    from latprune.knapsack import Solver
    from latprune.latency.table import LatencyTable
    from latprune.planning.plans import Plan
    from latprune.saliency.scores import Saliency


def plan(
    graph: PruningGraph,
    table: LatencyTable,
    saliency: Saliency,
    budget: Budget,
    *,
    solver: Solver = joint,
    rest_ms: float | None = None,
    dense_ms: float | None = None,
    aim: float = 1.0,
    also: Sequence[Demand] = (),
    within: Mapping[str, Sequence[int]] | None = None,
) -> Plan:
    """Choose the channels that are worth most together, within a budget.

    Args:
        graph: What can be cut.
        table: What widths cost; holds the dense network, too.
        saliency: What channels are worth.
        budget: What the network may take.
        solver: Chooses one width per group.
        rest_ms: What the network takes beside its layers; by default it follows from what the
            dense network takes beside its own, and shrinks with them.
        dense_ms: What the dense network takes, where the machine has another pace than when the
            table was made; by default what that says.
        aim: The share of the budgets to spend, > 0.
        also: Further targets, each with its own budget: the network is within all of them.
        within: Per group the channels to choose among, where others are gone already, ascending;
            None: all. Branches are removed as a whole only where it is None.

    Returns:
        A plan whose predicted latency is at most `aim` times the budget. It keeps everything if
        the dense network was measured to be that fast.

    Raises:
        BudgetTooSmall: If nothing fits; its numbers are the whole network's.
        NotMeasured: If a table lacks the network or what its layers' widths cost.
        ModelMismatch: If `saliency` is another network's.
        ValueError: If the solver takes only one budget and there are several.
    """
    if not aim > 0:
        raise ValueError(f"the share of the budget to spend is above 0, not {aim}")
    demands = [Demand(table, budget, rest_ms, dense_ms), *also]
    question = Question.of(graph, saliency, demands, within=within)
    if all(aim * p.budget_ms >= p.baseline_ms for p in question.dense_promises):
        choice = question.dense
    else:
        choice = _solve(graph, question, solver, aim=aim)
    return question.plan(choice, solver=solver_name(solver))


def solver_name(solver: Solver) -> str:
    """Give a solver's name, also where some of its arguments are filled in."""
    function = getattr(solver, "func", solver)
    return str(getattr(function, "__name__", type(function).__name__))


def frontier(
    graph: PruningGraph,
    table: LatencyTable,
    saliency: Saliency,
    *,
    rest_ms: float | None = None,
    tolerance: float = 1e-4,
) -> list[Plan]:
    """Draw the frontier: the most saliency at every latency, each point a plan to cut.

    Args:
        graph: What can be cut.
        table: What widths cost; holds the dense network, too.
        saliency: What channels are worth.
        rest_ms: What networks take beside their layers; by default it follows from what the
            dense network takes beside its own, and shrinks with them.
        tolerance: Points that would raise the curve by less than this share of all saliency are
            left out; 0 gives every corner of the concave frontier.

    Returns:
        Plans of rising latency and saliency, from the fastest network to the dense one; the
        budget of each is what it is predicted to take.

    Raises:
        NotMeasured: If the table lacks the network or what its layers' widths cost.
        ProblemTooDense: If exact tables would take too much memory.
        ModelMismatch: If `saliency` is another network's.
    """
    anything = Budget(ms=table.network(graph).median_ms)
    question = Question.of(graph, saliency, [Demand(table, anything, rest_ms)])
    plans = (
        question.plan(corner, solver="frontier")
        for corner in corners(question.problem([math.inf]), tolerance=tolerance)
    )
    return [
        replace(found, budget=Budget(ms=found.predicted_ms), budget_ms=found.predicted_ms)
        for found in plans
    ]


def _solve(graph: PruningGraph, question: Question, solver: Solver, *, aim: float) -> Choice:
    """Choose, with totals from the tables and errors about the whole network."""
    budgets_ms = [aim * promise.budget_ms for promise in question.dense_promises]
    problem = question.problem(budgets_ms)
    try:
        choice = solver(problem)
    except BudgetsTooSmall as error:
        nearest = zip(question.wholes, error.nearest_ms, strict=True)
        raise BudgetsTooSmall(budgets_ms, [whole(ms) for whole, ms in nearest]) from None
    except BudgetTooSmall as error:
        raise BudgetTooSmall(
            budgets_ms[error.target],
            question.wholes[error.target](error.floor_ms),
            target=error.target,
            remedy=_remedy(graph),
            dense_ms=question.dense_promises[error.target].baseline_ms,
        ) from None
    # A solver need not know any bound.
    bound = min(choice.bound, math.fsum(values.max() for values in problem.values))
    return Choice.of(problem, choice.picks, bound=bound, prices=choice.prices)


def _remedy(graph: PruningGraph) -> str:
    """Say what to do about a budget that nothing fits into, beside raising it."""
    if not graph.groups:
        return "or see by `latprune trace` why nothing of this network can be cut"
    ways = []
    if any(frozen.reason.startswith("protected by keep=") for frozen in graph.frozen):
        ways.append("protect fewer layers with keep= (--keep)")
    if not graph.branches:
        ways.append(
            "let residual branches, if there are any, go as a whole with branches=True (--branches)"
        )
    *others, last = ways or ["take a network that is faster to begin with"]
    return ", ".join([*others, f"or {last}"])
