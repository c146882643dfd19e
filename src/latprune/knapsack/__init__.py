"""CHOOSE the widths: most value within the budget (numpy only).

A `Problem` holds what each option is worth and what combinations cost. A solver makes a `Choice`
of it: `joint` the best one, with a bound that proves how good it is, `uniform` the same share of
every group. `frontier` gives the best value at every cost, `floor` the least cost there is. Add a
solver by writing a function from `Problem` to `Choice`; `Choice.of` adds up its totals, and
`latprune.testing.SolverContract` holds the tests that it must pass.
"""

from latprune.knapsack.frontier import frontier
from latprune.knapsack.joint import floor, joint
from latprune.knapsack.problem import Choice, Problem, Solver, Table, relative_gap
from latprune.knapsack.uniform import uniform

__all__ = [
    "Choice",
    "Problem",
    "Solver",
    "Table",
    "floor",
    "frontier",
    "joint",
    "relative_gap",
    "uniform",
]
