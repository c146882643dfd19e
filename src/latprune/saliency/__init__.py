"""WHAT a channel is worth.

A criterion gives a `Saliency`: one score per channel of every group, and where widths are judged as
a whole a curve per group. Add one as a file of its own with a function that returns a `Saliency`;
`latprune.testing.CriterionContract` holds the tests that it must pass.
"""

from latprune.saliency.branches import price_branches
from latprune.saliency.fisher import fisher
from latprune.saliency.gauss_newton import gauss_newton
from latprune.saliency.magnitude import magnitude
from latprune.saliency.named import CriterionName, check_name, names, scored
from latprune.saliency.probe import probe
from latprune.saliency.relative import relative
from latprune.saliency.scores import Saliency
from latprune.saliency.taylor import taylor
from latprune.saliency.taylor_squared import taylor_squared

__all__ = [
    "CriterionName",
    "Saliency",
    "check_name",
    "fisher",
    "gauss_newton",
    "magnitude",
    "names",
    "price_branches",
    "probe",
    "relative",
    "scored",
    "taylor",
    "taylor_squared",
]
