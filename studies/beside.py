"""A candidate for valuing widths, on trial here: what noise does beside a trunk is bounded.

`lp.relative` charges S (1 - q)/q for narrowing a group to a share q of its scores, wherever it
lies: noise over what is left. Inside a residual branch what is left is added to a trunk that was
not narrowed, and the next layer sees the sum: noise over what is left *and* the trunk,
S (1 - q)/(q + c), where the trunk is c times as strong as the branch was. So a branch can be
emptied at a bounded cost, S/c, and what is saved there keeps trunks wide.
"""

from __future__ import annotations

from statistics import geometric_mean
from typing import TYPE_CHECKING

import latprune as lp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from latprune.graph.groups import Branch

TRUNK = 1.0  # its energy, in a whole branch's: c


def beside(scores: lp.Saliency, branches: Iterable[Branch], *, trunk: float = TRUNK) -> lp.Saliency:
    """Value widths as `lp.relative` does, and inside branches by the bounded curve.

    Args:
        scores: Per channel, that add up to energies.
        branches: Inside which noise is bounded.
        trunk: How strong the trunk is, in what the whole branch is: above 0.
    """
    curves = dict(lp.relative(scores).curves)
    sums = {group: scores.values(group)[-1] for group in scores.scores}
    typical = geometric_mean([total for total in sums.values() if total > 0])
    inside = {group for branch in branches for group in branch.groups}
    for group in inside & {name for name, total in sums.items() if total > 0}:
        shares = scores.values(group) / sums[group]
        lost = (1 - shares) / (shares + trunk)
        curves[group] = (sums[group] + typical) * (lost[0] - lost)
    return lp.Saliency(scores.scores, criterion=f"beside_{scores.criterion}", curves=curves)
