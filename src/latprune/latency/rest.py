"""What networks take beside their layers, learned from those that were timed whole.

Layers timed one by one do not quite add up to a network: operators between them, caches that one
layer leaves warm for the next or does not. What is missing changes slowly with a network's size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

ALIKE = 0.03
"""How much the layers of two networks may differ, relatively, to have the same rest."""

_HALVINGS = 50  # of an interval: then its ends are the same to the last digits

NEAR = 0.5
"""The share of a network's layers, by their time, that a near relative may not have."""


@dataclass(frozen=True)
class Whole:
    """A network that was timed whole.

    Attributes:
        layers_ms: Its layers, timed one by one.
        whole_ms: The network.
        error_ms: The standard error of `whole_ms`, > 0.
    """

    layers_ms: float
    whole_ms: float
    error_ms: float

    @property
    def rest_ms(self) -> float:
        """What it takes beside its layers; below 0 where they take longer one by one."""
        return self.whole_ms - self.layers_ms


def rest_at(known: Sequence[Whole], layers_ms: float) -> tuple[float, float]:
    """Give what a network takes beside its layers.

    Args:
        known: At least one network.
        layers_ms: What its layers take one by one.

    Returns:
        Milliseconds and their standard error. Networks about as large have the same rest: one is
        known to a percent or so, what several have in common is known better. Where none is as
        large it lies between those of the next larger and smaller ones, and its error is infinite.
        Below all of them it shrinks with the layers: it is what they take more, or less, among the
        others than alone.
    """
    alike = [one for one in known if abs(one.layers_ms - layers_ms) <= ALIKE * layers_ms]
    if alike:
        weights = [one.error_ms**-2 for one in alike]
        rest_ms = float(np.average([one.rest_ms for one in alike], weights=weights))
        return rest_ms, float(sum(weights) ** -0.5)
    ordered = sorted(known, key=lambda one: one.layers_ms)
    sizes = [0.0, *(one.layers_ms for one in ordered)]
    rests = [0.0, *(one.rest_ms for one in ordered)]
    return float(np.interp(layers_ms, sizes, rests)), math.inf


def rest_within(known: Sequence[Whole], whole_ms: float) -> float:
    """Give what a network that takes `whole_ms` takes beside its layers, in ms."""
    # The rest may shrink faster than the layers do, so a network is sought between two others.
    small_ms, large_ms = 0.0, whole_ms + max(abs(one.rest_ms) for one in known)
    for _ in range(_HALVINGS):
        layers_ms = (small_ms + large_ms) / 2
        if layers_ms + rest_at(known, layers_ms)[0] <= whole_ms:
            small_ms = layers_ms
        else:
            large_ms = layers_ms
    return whole_ms - small_ms


@dataclass(frozen=True)
class Relative:
    """A network that was timed whole, beside one that is asked about.

    Attributes:
        whole: Its times.
        differs: The share of the other one's layers, by their time, that it does not have.
    """

    whole: Whole
    differs: float


def whole_at(
    known: Sequence[Relative], layers_ms: float, *, differs_ms: float
) -> tuple[float, float]:
    """Give what a whole network takes by its own timings, its near relatives' and all others'.

    Where its own timings contradict the others', those count for less.

    Args:
        known: At least one network.
        layers_ms: What its layers take one by one.
        differs_ms: How far the rest of a network may lie from that of others about as large that
            have no layer in common with it.

    Returns:
        Milliseconds and their standard error, infinite if none of the others is about as large.
    """
    own = [one for one in known if one.differs == 0]
    near = [one for one in known if 0 < one.differs <= NEAR]
    far = [one for one in known if one.differs > NEAR]
    guesses = [_guess(some, layers_ms, differs_ms) for some in (own, near, far) if some]
    if all(math.isinf(guess.error_ms) for guess in guesses):
        return guesses[-1].whole_ms, math.inf
    if own:
        guesses[1:] = [_doubted(guess, guesses[0]) for guess in guesses[1:]]
    weights = [guess.error_ms**-2 for guess in guesses]
    whole_ms = float(np.average([guess.whole_ms for guess in guesses], weights=weights))
    return whole_ms, float(sum(weights) ** -0.5)


def _guess(relatives: Sequence[Relative], layers_ms: float, differs_ms: float) -> Whole:
    rest_ms, error_ms = rest_at([one.whole for one in relatives], layers_ms)
    # All of them may be off by the same: that does not average out.
    differs = float(np.mean([one.differs for one in relatives]))
    return Whole(layers_ms, layers_ms + rest_ms, math.hypot(error_ms, differs * differs_ms))


def _doubted(guess: Whole, own: Whole) -> Whole:
    """Give a guess the error that it must have if the network's own timings are right."""
    off_ms = abs(guess.whole_ms - own.whole_ms)
    usual_ms = math.hypot(guess.error_ms, own.error_ms)
    return guess if off_ms <= usual_ms else replace(guess, error_ms=max(guess.error_ms, off_ms))
