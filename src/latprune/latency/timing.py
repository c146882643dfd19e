"""Repeated runs against a clock, and what is kept of them: the median, its spread, the count."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

Clock = Callable[[], float]
"""Gives seconds that only grow, as `time.perf_counter` does."""

Run = Callable[[], None]
"""Does once what is to be timed."""


class Opened:
    """A network that a runtime holds ready, and can put elsewhere in memory at any time.

    Where it happens to lie makes it a percent faster or slower for as long as it stays there.
    """

    def __init__(self, open_: Callable[[], Run], *, clock: Clock = time.perf_counter) -> None:
        self._open, self._clock = open_, clock
        self.open_anew()

    def __call__(self) -> None:
        """Run once."""
        self._run()

    def open_anew(self) -> None:
        """Put it elsewhere: the old place is given up when there is a new one."""
        begin = self._clock()
        self._run = self._open()
        self.opening_s = self._clock() - begin


CACHED_S = 0.03
"""A run this short finds its weights in the caches if those before it were the same network's."""

SETTLING_S = 0.02
"""For how long such a network runs until they are all there: one run does not always suffice. A
ResNet-18 for pictures of 32 x 32, its 15 MB of weights behind a dense network's 45, took 1.6 times
what it takes alone in its second run, 1.2 times in its fifth, and the same in its seventeenth."""

_MOST_IN_A_ROW = 1000

_BLOCKS = 10


@dataclass(frozen=True)
class Measurement:
    """What is kept of many timed runs.

    Attributes:
        median_ms: Half of the runs took at most this.
        iqr_ms: Between the quarter that was fastest and the quarter that was slowest.
        runs: How many were timed.
        apart: How many bytes were read between two of them, so that a layer's weights were as far
            away as they are in its network; 0 where nobody saw to that.
    """

    median_ms: float
    iqr_ms: float
    runs: int
    apart: int = 0

    def __post_init__(self) -> None:
        finite = math.isfinite(self.median_ms) and math.isfinite(self.iqr_ms)
        if not finite or self.median_ms <= 0 or self.iqr_ms < 0 or self.runs < 1 or self.apart < 0:
            raise ValueError(f"no run takes such a time: {self}")

    def pooled(self, other: Measurement) -> Measurement:
        """Join two timings of the same thing; each counts by its runs."""
        weights = [self.runs, other.runs]
        return Measurement(
            float(np.average([self.median_ms, other.median_ms], weights=weights)),
            float(np.average([self.iqr_ms, other.iqr_ms], weights=weights)),
            sum(weights),
            self.apart,
        )

    def scaled(self, factor: float) -> Measurement:
        """Give the same runs, had each taken `factor` times as long."""
        return replace(self, median_ms=factor * self.median_ms, iqr_ms=factor * self.iqr_ms)

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values; `apart` only where it is not 0."""
        stored = asdict(self)
        return stored if self.apart else {k: v for k, v in stored.items() if k != "apart"}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Measurement:
        """Read what `to_json` gave.

        Raises:
            ValueError: If a time is not a positive number.
            KeyError: If a field is missing.
        """
        median_ms, iqr_ms = float(stored["median_ms"]), float(stored["iqr_ms"])
        return cls(median_ms, iqr_ms, int(stored["runs"]), int(stored.get("apart", 0)))


@dataclass(frozen=True)
class Comparison:
    """Two networks timed in turns.

    Attributes:
        dense: The network that came.
        small: The pruned one.
        ratio: Median over the rounds of small ÷ dense: what slows a whole round down cancels.
        ratio_iqr: Between the quartiles of that ratio.
        ratio_error: The standard error of `ratio`. Times drift, so that rounds close to each
            other agree more than they should: it is taken from the spread of ten parts of the
            timing, where that is larger than what the spread of single rounds gives.
        foreign_cores: How many cores others kept busy meanwhile, on average; 0 where nobody
            counts.
    """

    dense: Measurement
    small: Measurement
    ratio: float
    ratio_iqr: float
    ratio_error: float
    foreign_cores: float = 0.0

    @classmethod
    def of(cls, dense_ms: Sequence[float], small_ms: Sequence[float]) -> Comparison:
        """Compare times, one per round and network, in milliseconds."""
        ratios = np.asarray(small_ms) / np.asarray(dense_ms)
        low, ratio, high = np.percentile(ratios, (25, 50, 75))
        iqr = float(high - low)
        error = max(_median_error(iqr, len(ratios)), _error_by_blocks(ratios))
        return cls(summarise(dense_ms), summarise(small_ms), float(ratio), iqr, error)

    def pooled(self, other: Comparison) -> Comparison:
        """Join two timings of the same networks; each counts by how well it knows the ratio."""
        weights = [max(one.ratio_error, 1e-9 * one.ratio) ** -2 for one in (self, other)]
        return Comparison(
            self.dense.pooled(other.dense),
            self.small.pooled(other.small),
            float(np.average([self.ratio, other.ratio], weights=weights)),
            float(np.average([self.ratio_iqr, other.ratio_iqr], weights=weights)),
            float(sum(weights) ** -0.5),
            max(self.foreign_cores, other.foreign_cores),
        )

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Comparison:
        """Read what `to_json` gave.

        Raises:
            ValueError: If a time is not a positive number.
            KeyError: If a field is missing.
        """
        dense, small = (Measurement.from_json(stored[name]) for name in ("dense", "small"))
        ratio, iqr, error = (float(stored[name]) for name in ("ratio", "ratio_iqr", "ratio_error"))
        if not (math.isfinite(ratio + iqr + error) and ratio > 0 and iqr >= 0 and error >= 0):
            raise ValueError(f"no networks compare like this: {stored}")
        return cls(dense, small, ratio, iqr, error, float(stored.get("foreign_cores", 0.0)))


def pooled(timings: Sequence[Comparison]) -> Comparison:
    """Join timings of the same networks, each of which made them ready anew.

    Each counts the same; the ratio is known as well as these agree, or as each of them knows it,
    whichever is worse.
    """
    together = reduce(Comparison.pooled, timings)
    count = len(timings)
    if count < 2:
        return together
    ratios = [one.ratio for one in timings]
    between = float(np.std(ratios, ddof=1)) / math.sqrt(count)
    within = math.hypot(*(one.ratio_error for one in timings)) / count
    return replace(together, ratio=float(np.mean(ratios)), ratio_error=max(within, between))


def summarise(samples_ms: Sequence[float] | np.ndarray) -> Measurement:
    """Keep median, interquartile range and count of samples in milliseconds.

    Raises:
        ValueError: If there are none, or their median is not a positive time.
    """
    if len(samples_ms) == 0:
        raise ValueError("no runs to summarise")
    low, median, high = np.percentile(samples_ms, (25, 50, 75))
    return Measurement(float(median), float(high - low), len(samples_ms))


def time_interleaved(
    calls: Sequence[Run],
    *,
    clock: Clock = time.perf_counter,
    warmup_s: float = 0.2,
    min_rounds: int = 10,
    least_s: float = 0.0,
    limit_s: float = 1.0,
    enough: Callable[[list[list[float]]], bool] | None = None,
) -> list[list[float]]:
    """Time calls in rounds, A B A B, so that drift and load meet all of them alike.

    If one of them is shorter than `CACHED_S`, each runs for `SETTLING_S` untimed and as long again
    timed: alone, as in service, it would find its weights in the caches, and not the other's.

    Args:
        calls: What to time.
        clock: Gives seconds.
        warmup_s: Untimed rounds go on for so long, and there is at least one.
        min_rounds: Timed rounds that are never cut short.
        least_s: Before this much time has passed in timed rounds, nobody has seen enough.
        limit_s: When this much time has passed in timed rounds, no further one begins.
        enough: Looks at the samples after each round beyond `min_rounds`; true ends the timing.

    Returns:
        Per call its times in milliseconds, one per round: the median of the runs in a row.
    """
    begin = clock()
    while True:
        shortest_s = min(_seconds(call, clock) for call in calls)
        if clock() - begin >= warmup_s:
            break
    samples: list[list[float]] = [[] for _ in calls]
    time_of = _settled_seconds if shortest_s < CACHED_S else _seconds
    begin = clock()
    while True:
        for call, times in zip(calls, samples, strict=True):
            times.append(time_of(call, clock) * 1e3)
        passed_s = clock() - begin
        if len(samples[0]) < min_rounds:
            continue
        if passed_s >= limit_s or (passed_s >= least_s and enough is not None and enough(samples)):
            return samples


def _seconds(call: Run, clock: Clock) -> float:
    begin = clock()
    call()
    return clock() - begin


def _settled_seconds(call: Run, clock: Clock) -> float:
    """The median of some runs in a row, behind some that do not count."""
    _in_a_row(call, clock)
    return float(np.median(_in_a_row(call, clock)))


def _in_a_row(call: Run, clock: Clock) -> list[float]:
    times = [_seconds(call, clock)]
    while sum(times) < SETTLING_S and len(times) < _MOST_IN_A_ROW:
        times.append(_seconds(call, clock))
    return times


def steady_median(samples: list[list[float]], *, tolerance: float = 0.003) -> bool:
    """Tell whether the first call's median is known to `tolerance` (standard error, relative)."""
    found = summarise(samples[0])
    return _median_error(found.iqr_ms, found.runs) <= tolerance * found.median_ms


def _median_error(iqr: float, runs: int) -> float:
    """The standard error of the median of normal samples: σ = iqr ÷ 1.349, error 1.253 σ ÷ √n."""
    return 0.93 * iqr / math.sqrt(runs)


def _error_by_blocks(ratios: np.ndarray) -> float:
    """The standard error of a median by how much it differs from one part of the time to another.

    The method of batch means: it holds where neighbours are correlated, too.
    """
    if len(ratios) < 2 * _BLOCKS:
        return 0.0
    medians = [np.median(block) for block in np.array_split(ratios, _BLOCKS)]
    return float(np.std(medians, ddof=1) / math.sqrt(_BLOCKS))


def clock_for(threads: int) -> Clock:
    """Give the clock that suits a runtime with this many threads.

    With one thread it is that thread's own CPU time: on a quiet machine it equals the time that
    passes, on a busy one it leaves out the waiting for a processor, which is no cost of the
    network. Several threads have no such clock; theirs is the time that passes.
    """
    fine = time.get_clock_info("thread_time").resolution <= 1e-6
    return time.thread_time if threads == 1 and fine else time.perf_counter
