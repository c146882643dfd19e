"""Every solver of latprune holds the contract that it ships."""

from __future__ import annotations

from latprune.knapsack import joint, uniform
from latprune.testing import SolverContract


class TestJoint(SolverContract):
    solver = staticmethod(joint)


class TestUniform(SolverContract):
    solver = staticmethod(uniform)
    exact = False
