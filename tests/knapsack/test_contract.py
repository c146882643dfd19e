"""Every solver of latprune holds the contract that it ships."""

from __future__ import annotations

import importlib.util

import pytest

from latprune.knapsack import greedy, halp, joint, milp, uniform
from latprune.testing import SolverContract


class TestJoint(SolverContract):
    solver = staticmethod(joint)


class TestUniform(SolverContract):
    solver = staticmethod(uniform)
    exact = False


class TestHalp(SolverContract):
    solver = staticmethod(halp)
    exact = False
    several = False


class TestGreedy(SolverContract):
    solver = staticmethod(greedy)
    exact = False


@pytest.mark.skipif(
    importlib.util.find_spec("highspy") is None, reason="HiGHS, of the extra milp, is missing"
)
class TestMilp(SolverContract):
    solver = staticmethod(milp)
