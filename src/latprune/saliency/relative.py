"""A width is worth what it leaves of its group, not what it adds to a sum.

A sum of scores prices the last channel of a group like its first, so it empties whatever groups it
holds cheap, and the network cannot do without them. What follows a narrowed layer sees it at its
old scale (a norm brings it back), with what was lost as noise beside what is left: where a share q
of a group is left, noise is to signal as 1 - q is to q. That is as much as the sum says of small
cuts, and grows without bound. Beside a trunk it does not: what a residual branch adds can be lost
only once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latprune.saliency.scores import Saliency

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from latprune.graph.groups import Branch

LEAST_LEFT = 0.05  # a share of a group, below which its curve goes on straight
GONE = 0.5  # noise to signal as bad as no branch at all, in the mean of ResNet-56's


def relative(
    saliency: Saliency, *, prior: float = 1.0, branches: Iterable[Branch] = ()
) -> Saliency:
    """Value the widths of every group by how much of its scores they leave.

    Narrowing a group to a share q of its scores costs S·(1 - q)/q, where S says how much the loss
    minds noise there. To second order that is the sum of the group's scores, if these are
    `fisher`'s. A network that is sure of the pictures that score it gives sums near nothing to
    groups that it cannot do without, so S is the sum and, besides, what is typical of the network:
    the geometric mean of the sums.

    Args:
        saliency: Scores that add up to energies, such as those of `fisher` or `taylor_squared`;
            others too.
        prior: How many times what is typical is added to every group's sum; 0 for the sums alone.
        branches: What can go as a whole (`graph.branches`): no width of a group inside costs more
            than half of S. Beside the trunk noise is bounded, and no branch at all is less of it.

    Returns:
        The same scores, with a curve for every group.

    Raises:
        ValueError: If widths already have curves, which are no sums, or `prior` is below 0.
    """
    if saliency.curves:
        raise ValueError(f"{saliency.criterion} judges widths as a whole: its curves stay")
    if prior < 0:
        raise ValueError(f"prior is at least 0, not {prior}")
    values = {group: saliency.values(group) for group in saliency.scores}
    typical = _typical(values)
    beside_a_trunk = {group for branch in branches for group in branch.groups}
    curves = {}
    for group, of_widths in values.items():
        total = of_widths[-1]
        sensitivity = total + prior * typical
        most = GONE if group in beside_a_trunk else np.inf
        curves[group] = sensitivity * _kept(of_widths / total, most) if total else of_widths
    return Saliency(saliency.scores, criterion=f"relative_{saliency.criterion}", curves=curves)


def _typical(values: Mapping[str, np.ndarray]) -> float:
    """Give the geometric mean of all groups' sums that are not 0."""
    sums = np.array([of_widths[-1] for of_widths in values.values()])
    return float(np.exp(np.log(sums[sums > 0]).mean())) if (sums > 0).any() else 0.0


def _kept(shares: np.ndarray, most: float) -> np.ndarray:
    """Give what shares of a group, from 0 to 1, are worth above having none of it.

    Args:
        shares: Ascending, of the scores.
        most: What can be lost.
    """
    bounded = np.maximum(shares, LEAST_LEFT)
    lost = (1 - bounded) / bounded + np.maximum(LEAST_LEFT - shares, 0.0) / LEAST_LEFT**2
    lost = np.minimum(lost, most)
    return np.maximum.accumulate(lost[0] - lost)
