"""PLAN: from a budget, latencies and scores to the channels that stay."""

from latprune.planning.budget import Budget, as_budget
from latprune.planning.choosing import frontier, plan, solver_name
from latprune.planning.plans import Plan, Promise
from latprune.planning.question import Demand

__all__ = ["Budget", "Demand", "Plan", "Promise", "as_budget", "frontier", "plan", "solver_name"]
