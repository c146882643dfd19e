"""How near to its aim, and how well known, a network's time must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latprune.latency.timing import Comparison
    from latprune.planning import Budget

AIM = 0.983
"""The share of the budget that plans spend: about the middle of what counts as well used."""

CLOSE = 0.006
"""How far from `AIM` a network may be, by all that is known of it, for the loop to end."""

FLOOR = 0.01
"""The error of a timing, relative, that its own spread does not show: where the networks lie in
memory, and moods of the machine that last longer than a few seconds."""

TIMING_S = 2.0
"""For how long a candidate is timed beside the dense network, each time, at the most."""


@dataclass(frozen=True)
class Care:
    """What has to be known of a network for the loop to end.

    Attributes:
        timings: Of whole networks, at the most; one near the aim is timed until that is sure.
        sure: The standard error of its time by all that is known, relative, at the most.
        own: How often it was timed itself, at least: what is known of others does not outvote it.
    """

    timings: int
    sure: float
    own: int


SLOW = Care(timings=16, sure=0.007, own=1)

QUICK_MS = 50.0
QUICK = Care(timings=30, sure=0.004, own=4)
"""For dense networks that take less: timing them is cheap, and what disturbs a machine disturbs
them more."""


def used(budget: Budget, compared: Comparison) -> float:
    """Give the share of a budget that a network was measured to take."""
    return budget.used(ratio=compared.ratio, ms=compared.small.median_ms)


def relative_error(compared: Comparison) -> float:
    """Give the standard error of a ratio, relative to it."""
    return compared.ratio_error / compared.ratio


def decided(budget: Budget, compared: Comparison) -> bool:
    """Tell whether a network's time is well known, or is beyond doubt far from the aim."""
    share = used(budget, compared)
    error = share * relative_error(compared)
    return error <= FLOOR / 4 or abs(share - AIM) >= CLOSE + 2 * error
