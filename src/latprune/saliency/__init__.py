"""WHAT a channel is worth.

A criterion gives a `Saliency`: one score per channel of every group. Add one as a file of its own
with a function that returns a `Saliency`; `latprune.testing.CriterionContract` holds the tests
that it must pass.
"""

from latprune.saliency.magnitude import magnitude
from latprune.saliency.scores import Saliency
from latprune.saliency.taylor import taylor

__all__ = ["Saliency", "magnitude", "taylor"]
