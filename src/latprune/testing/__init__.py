"""Tests for those who extend latprune: inherit a contract, name what is to be tested, run pytest.

::

    class TestMySolver(SolverContract):
        solver = staticmethod(my_solver)
        exact = False

    class TestMyCriterion(CriterionContract):
        def score(self, model, graph, batches, loss):
            return my_criterion(model, graph, batches)

Needs pytest and Hypothesis, which latprune itself does not.
"""

from latprune.testing.criteria import Batches, CriterionContract, Loss
from latprune.testing.problems import exhaustive, problems
from latprune.testing.small_network import SmallNetwork, random_batches, small_network
from latprune.testing.solvers import SolverContract

__all__ = [
    "Batches",
    "CriterionContract",
    "Loss",
    "SmallNetwork",
    "SolverContract",
    "exhaustive",
    "problems",
    "random_batches",
    "small_network",
]
