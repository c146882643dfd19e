"""Whole networks against the clock: one by itself, or two in turns. Needs numpy alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from latprune.latency.foreign import ForeignLoad
from latprune.latency.timing import (
    Comparison,
    steady_median,
    summarise,
    time_interleaved,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from latprune.latency.timing import Clock, Measurement, Run

LEAST_S = 1.5
"""For how long two networks are timed in turns, at the least: what disturbs comes in bursts."""

WHOLE_S = 2.0
"""For how long a network by itself is timed, at the most."""

_PARTS = 8  # of the timing of a network by itself; asking for the pace takes about as long as one
_LEAST_RUNS = 10

TOLERANCE = 0.003
"""How well the ratio of two networks is to be known, where nobody asks for more or less."""


def time_whole(run: Run, *, clock: Clock, pace: Callable[[], float]) -> Measurement:
    """Time a network by itself until its median is known, or `WHOLE_S` have passed.

    Args:
        run: Runs it.
        clock: Leaves out what is no cost of the network.
        pace: Measures how quick the machine is just now, by what it was at some time before. It is
            asked between parts of the timing, since that changes from one to the next.

    Returns:
        What it would have taken at that pace.
    """
    samples: list[float] = []
    before = pace()
    for _ in range(_PARTS):
        (times_ms,) = time_interleaved(
            [run],
            clock=clock,
            warmup_s=0.0 if samples else 0.2,
            min_rounds=2,
            limit_s=WHOLE_S / _PARTS,
        )
        after = pace()
        samples += [ms * (before + after) / 2 for ms in times_ms]
        before = after
        if len(samples) >= _LEAST_RUNS and steady_median([samples]):
            break
    return summarise(samples)


def time_in_turns(
    dense: Run,
    small: Run,
    *,
    clock: Clock,
    limit_s: float,
    enough: Callable[[Comparison], bool],
) -> Comparison:
    """Time two networks in turns.

    Args:
        dense: Runs the network that came.
        small: Runs the pruned one.
        clock: Leaves out what is no cost of the networks.
        limit_s: No round begins after so long.
        enough: Looks at what is known after every round, once the rounds took `LEAST_S`; true
            ends the timing.
    """
    load = ForeignLoad()
    samples = time_interleaved(
        [dense, small],
        clock=clock,
        least_s=LEAST_S,
        limit_s=limit_s,
        enough=lambda found: enough(Comparison.of(*found)),
    )
    return replace(Comparison.of(*samples), foreign_cores=load.cores())


def steady(compared: Comparison, *, tolerance: float = TOLERANCE) -> bool:
    """Tell whether a ratio is known to `tolerance` (standard error, relative)."""
    return compared.ratio_error <= tolerance * compared.ratio
