"""A width is worth what it leaves of its group, not what it adds to a sum.

A sum of scores prices the last channel of a group like its first, so it empties whatever groups it
holds cheap, and the network cannot do without them. What follows a narrowed layer sees it at its
old scale (a norm brings it back), with what was lost as noise beside what is left: where a share q
of a group is left, noise is to signal as 1 - q is to q. That is as much as the sum says of small
cuts, and grows without bound.

Inside a residual branch what is left is added to a trunk that was not narrowed with it, and what
follows sees their sum: noise is to signal as 1 - q is to q + c, where the trunk is c times as
strong as the branch was: a branch can be lost only once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latprune.saliency.scores import Saliency

if TYPE_CHECKING:
    from collections.abc import Mapping

    from latprune.graph.groups import PruningGraph

LEAST_LEFT = 0.05  # a share of what is seen, below which a curve goes on straight


def relative(
    saliency: Saliency,
    graph: PruningGraph,
    *,
    prior: float = 1.0,
    trunk: float = 1.0,
) -> Saliency:
    """Value the widths of every group by how much of its scores they leave.

    Narrowing a group to a share q of its scores costs S·(1 - q)/q, where S says how much the loss
    minds noise there; in a residual branch (`graph.in_branches`) S·(1 - q)/(q + trunk). To second
    order S is the sum of the group's scores, if these are `fisher`'s. A network that is sure of the
    pictures that score it gives sums near nothing to groups that it cannot do without, so S is the
    sum and, besides, what is typical of the network: the geometric mean of the sums; that alone,
    shared out by the number of channels, where all scores of a group are 0. What it costs
    that a branch is gone as a whole is for `price_branches` to say.

    Args:
        saliency: Scores that add up to energies, such as those of `fisher` or `taylor_squared`;
            others too.
        graph: Says which groups lie in branches.
        prior: How many times what is typical is added to every group's sum; 0 for the sums alone.
        trunk: How strong the trunk beside a whole branch is, in what that branch is; 0 values
            groups in branches that stay like all others.

    Returns:
        The same scores, with a curve for every group.

    Raises:
        ValueError: If widths already have curves, which are no sums, or `prior` or `trunk` is
            below 0.
    """
    if saliency.curves:
        raise ValueError(f"{saliency.criterion} judges widths as a whole: its curves stay")
    for name, number in (("prior", prior), ("trunk", trunk)):
        if number < 0:
            raise ValueError(f"{name} is at least 0, not {number}")
    values = {group: saliency.values(group) for group in saliency.scores}
    typical = _typical(values)
    curves = {}
    for group, of_widths in values.items():
        total = of_widths[-1]
        sensitivity = total + prior * typical
        beside = trunk if group in graph.in_branches else 0.0
        # Where scores are 0 nothing tells channels apart.
        shares = of_widths / total if total else np.linspace(0, 1, len(of_widths))
        curves[group] = sensitivity * _kept(shares, beside)
    return Saliency(saliency.scores, criterion=f"relative_{saliency.criterion}", curves=curves)


def _typical(values: Mapping[str, np.ndarray]) -> float:
    """Give the geometric mean of all groups' sums that are not 0."""
    sums = np.array([of_widths[-1] for of_widths in values.values()])
    return float(np.exp(np.log(sums[sums > 0]).mean())) if (sums > 0).any() else 0.0


def _kept(shares: np.ndarray, beside: float) -> np.ndarray:
    """Give what shares of a group, from 0 to 1, are worth above having none of it.

    Args:
        shares: Ascending, of the scores.
        beside: What the next layer sees besides, in what the whole group is.
    """
    seen = shares + beside
    bounded = np.maximum(seen, LEAST_LEFT)
    slope = (1 + beside) / LEAST_LEFT**2
    lost = (1 + beside - bounded) / bounded + slope * np.maximum(LEAST_LEFT - seen, 0.0)
    return np.maximum.accumulate(lost[0] - lost)
