"""Repeated runs against a clock, and what is kept of them: the median, its spread, the count."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

Clock = Callable[[], float]
"""Gives seconds that only grow, as `time.perf_counter` does."""

Run = Callable[[], None]
"""Does once what is to be timed."""


@dataclass(frozen=True)
class Measurement:
    """What is kept of many timed runs.

    Attributes:
        median_ms: Half of the runs took at most this.
        iqr_ms: Between the quarter that was fastest and the quarter that was slowest.
        runs: How many were timed.
    """

    median_ms: float
    iqr_ms: float
    runs: int

    def __post_init__(self) -> None:
        finite = math.isfinite(self.median_ms) and math.isfinite(self.iqr_ms)
        if not finite or self.median_ms <= 0 or self.iqr_ms < 0 or self.runs < 1:
            raise ValueError(f"no run takes such a time: {self}")

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Measurement:
        """Read what `to_json` gave.

        Raises:
            ValueError: If a time is not a positive number.
            KeyError: If a field is missing.
        """
        return cls(float(stored["median_ms"]), float(stored["iqr_ms"]), int(stored["runs"]))


@dataclass(frozen=True)
class Comparison:
    """Two networks timed in turns.

    Attributes:
        dense: The network that came.
        small: The pruned one.
        ratio: Median over the rounds of small ÷ dense: what slows a whole round down cancels.
        ratio_iqr: Between the quartiles of that ratio.
    """

    dense: Measurement
    small: Measurement
    ratio: float
    ratio_iqr: float

    @classmethod
    def of(cls, dense_ms: Sequence[float], small_ms: Sequence[float]) -> Comparison:
        """Compare times, one per round and network, in milliseconds."""
        ratios = np.asarray(small_ms) / np.asarray(dense_ms)
        low, ratio, high = np.percentile(ratios, (25, 50, 75))
        return cls(summarise(dense_ms), summarise(small_ms), float(ratio), float(high - low))

    @property
    def ratio_error(self) -> float:
        """The standard error of `ratio`, by its spread and the number of rounds."""
        return _median_error(self.ratio_iqr, self.small.runs)


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
    limit_s: float = 1.0,
    enough: Callable[[list[list[float]]], bool] | None = None,
) -> list[list[float]]:
    """Time calls in rounds, A B A B, so that drift and load meet all of them alike.

    Args:
        calls: What to time.
        clock: Gives seconds.
        warmup_s: Untimed rounds go on for so long, and there is at least one.
        min_rounds: Timed rounds that are never cut short.
        limit_s: When this much time has passed in timed rounds, no further one begins.
        enough: Looks at the samples after each round beyond `min_rounds`; true ends the timing.

    Returns:
        Per call its times in milliseconds, one per round.
    """
    begin = clock()
    while True:
        for call in calls:
            call()
        if clock() - begin >= warmup_s:
            break
    samples: list[list[float]] = [[] for _ in calls]
    begin = clock()
    while not _over(samples, min_rounds, clock() - begin >= limit_s, enough):
        for call, times in zip(calls, samples, strict=True):
            start = clock()
            call()
            times.append((clock() - start) * 1e3)
    return samples


def _over(
    samples: list[list[float]],
    min_rounds: int,
    late: bool,
    enough: Callable[[list[list[float]]], bool] | None,
) -> bool:
    if len(samples[0]) < min_rounds:
        return False
    return late or (enough is not None and enough(samples))


def steady_median(samples: list[list[float]], *, tolerance: float = 0.003) -> bool:
    """Tell whether the first call's median is known to `tolerance` (standard error, relative)."""
    found = summarise(samples[0])
    return _median_error(found.iqr_ms, found.runs) <= tolerance * found.median_ms


def _median_error(iqr: float, runs: int) -> float:
    """The standard error of the median of normal samples: σ = iqr ÷ 1.349, error 1.253 σ ÷ √n."""
    return 0.93 * iqr / math.sqrt(runs)


def clock_for(threads: int) -> Clock:
    """Give the clock that suits a runtime with this many threads.

    With one thread it is that thread's own CPU time: on a quiet machine it equals the time that
    passes, on a busy one it leaves out the waiting for a processor, which is no cost of the
    network. Several threads have no such clock; theirs is the time that passes.
    """
    fine = time.get_clock_info("thread_time").resolution <= 1e-6
    return time.thread_time if threads == 1 and fine else time.perf_counter
