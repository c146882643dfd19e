"""A network that may be the one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from latprune.fitting.care import AIM, CLOSE, FLOOR, Care, relative_error, used
from latprune.latency.timing import pooled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from latprune.fitting.place import Place
    from latprune.latency.devices import Ready
    from latprune.latency.timing import Comparison
    from latprune.planning import Plan


class Candidate:
    """A network that may be the one, ready to be timed as often as it takes."""

    def __init__(self, model: nn.Module, plan: Plan, runs: list[Ready]) -> None:
        self.model, self.plan, self.runs = model, plan, runs
        self._times: list[list[Comparison]] = []

    def add(self, times: list[Comparison]) -> None:
        """Join timings, one per target, to those before."""
        self._times.append(times)

    @property
    def timings(self) -> int:
        """How often it was timed."""
        return len(self._times)

    @property
    def compared(self) -> list[Comparison]:
        """Per target all timings together."""
        return [pooled(times) for times in zip(*self._times, strict=True)]

    @property
    def used(self) -> list[float]:
        """The share of each budget that it takes, by its own timings."""
        budgets = [self.plan.budget, *(promise.budget for promise in self.plan.also)]
        return list(map(used, budgets, self.compared))


def is_near(planned: Plan, places: Sequence[Place]) -> bool:
    """Tell whether a network is near the aim by all that is known."""
    return abs(_believed(planned, places)[0] - AIM) <= CLOSE


def promise(planned: Plan, places: Sequence[Place]) -> tuple[bool, float]:
    """Sort networks believed to be within the budgets first; of these the one nearest the aim."""
    share, _ = _believed(planned, places)
    return share > 1, abs(share - AIM)


def _believed(planned: Plan, places: Sequence[Place]) -> tuple[float, float]:
    return max(place.believed(planned.widths) for place in places)


def is_sure(candidate: Candidate, places: Sequence[Place], care: Care) -> bool:
    """Tell whether all timings, and a network's own, are sure of how much it takes.

    Its own may say less than is believed, if only a little: far below the aim it is worth more
    timings, after which it is believed to take less, and another one is planned.
    """
    for place, own, compared in zip(places, candidate.used, candidate.compared, strict=True):
        share, error = place.believed(candidate.plan.widths)
        own_error = own * relative_error(compared)
        agrees = abs(own - share) <= 2 * max(own_error, FLOOR / 4)
        has_little_slack = AIM - 2 * CLOSE <= own <= AIM - 3 * own_error
        known = (error <= care.sure and agrees) or has_little_slack
        # Equal timings are stored once.
        timings = max(place.timings(candidate.plan.widths), candidate.timings)
        if own > 1 or not known or timings < care.own:
            return False
    return True


def is_short(candidate: Candidate, places: Sequence[Place], care: Care) -> bool:
    """Tell whether a network is beyond doubt far below the aim, on every target."""
    for place in places:
        share, error = place.believed(candidate.plan.widths)
        timings = max(place.timings(candidate.plan.widths), candidate.timings)
        if share + 2 * error > AIM - CLOSE or timings < care.own:
            return False
    return max(candidate.used) <= 1


def preference(candidate: Candidate, places: Sequence[Place]) -> tuple[bool, float]:
    """Sort networks within the budgets first; of these the one that surely spends the aim."""
    share, error = _believed(candidate.plan, places)
    return max(candidate.used) > 1, math.hypot(share - AIM, error)
