"""CHOOSE the widths: most value within the budget (numpy only).

A `Problem` holds what each option is worth and what combinations cost. A solver makes a `Choice`
of it: `joint` the best one, with a bound that proves how good it is, `halp` one by steps of an
augmented knapsack, `greedy` one by the cheapest narrowing again and again, `uniform` the same
share of every group; `milp` has HiGHS look for the best one, which judges the others and can take
minutes. `frontier` gives the best value at every cost, `floor` the least cost there is. Add a
solver by writing a function from `Problem` to `Choice`; `Choice.of` adds up its totals, and
`latprune.testing.SolverContract` holds the tests that it must pass.
"""

from latprune.knapsack.frontier import frontier
from latprune.knapsack.greedy import greedy
from latprune.knapsack.halp import halp
from latprune.knapsack.joint import floor, joint
from latprune.knapsack.milp import milp
from latprune.knapsack.problem import Choice, Problem, Solver, Table, relative_gap
from latprune.knapsack.uniform import uniform

__all__ = [
    "Choice",
    "Problem",
    "Solver",
    "Table",
    "floor",
    "frontier",
    "greedy",
    "halp",
    "joint",
    "milp",
    "relative_gap",
    "uniform",
]
