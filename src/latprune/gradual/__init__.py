"""PRUNE while training: score, plan and cut in turns with the user's own steps."""

from latprune.gradual.pruning import GradualPruning, prune_in_steps

__all__ = ["GradualPruning", "prune_in_steps"]
