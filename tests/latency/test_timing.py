from __future__ import annotations

import json
import math
import statistics
import time
from itertools import count, takewhile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latprune.latency.timing import (
    Comparison,
    Measurement,
    clock_for,
    steady_median,
    summarise,
    time_interleaved,
)
from tests.latency.synthetic import FakeClock

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMES = st.floats(min_value=1e-3, max_value=1e3)


@given(st.lists(TIMES, min_size=2, max_size=40))
def test_a_summary_keeps_the_quartiles(samples: list[float]) -> None:
    found = summarise(samples)
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")

    assert found.median_ms == pytest.approx(middle)
    assert found.iqr_ms == pytest.approx(high - low, abs=1e-9)
    assert found.runs == len(samples)


def test_no_samples_have_no_summary() -> None:
    with pytest.raises(ValueError, match="no runs"):
        summarise([])


@pytest.mark.parametrize("median", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_is_positive_and_finite(median: float) -> None:
    with pytest.raises(ValueError, match="no run takes such a time"):
        Measurement(median, 0.0, 1)


def test_a_measurement_survives_a_trip_through_json() -> None:
    for measured in (Measurement(1.234567, 0.01, 12), Measurement(1.234567, 0.01, 12, apart=5)):
        assert Measurement.from_json(measured.to_json()) == measured


def test_what_older_tables_hold_reads_as_before() -> None:
    assert Measurement.from_json({"median_ms": 1.0, "iqr_ms": 0.1, "runs": 9}).apart == 0
    assert "apart" not in Measurement(1.0, 0.1, 9).to_json()


def test_calls_take_turns() -> None:
    clock, order = FakeClock(), list[str]()

    def call(name: str) -> None:
        order.append(name)
        clock.now += 0.1

    time_interleaved(
        [lambda: call("a"), lambda: call("b")], clock=clock, warmup_s=0.1, min_rounds=3, limit_s=0.0
    )

    assert "".join(order) == "ab" * 4


@pytest.mark.parametrize("cold_runs", [1, 5, 15])
def test_a_quick_call_is_timed_only_when_its_own_runs_have_settled(cold_runs: int) -> None:
    clock, runs = FakeClock(), list[str]()

    def call(name: str) -> None:
        row = list(takewhile(lambda before: before == name, reversed(runs)))
        clock.now += 0.002 if len(row) < cold_runs else 0.001
        runs.append(name)

    found = time_interleaved(
        [lambda: call("a"), lambda: call("b")], clock=clock, min_rounds=5, limit_s=0.0
    )

    # the tenth untimed run ends at 20 ms; five of ten and more timed ones are cold at the most
    assert found == [[pytest.approx(1.0)] * 5] * 2


def test_runs_that_take_no_time_end_all_the_same() -> None:
    found = time_interleaved(
        [lambda: None], clock=FakeClock(), warmup_s=0.0, min_rounds=2, limit_s=0.0
    )

    assert found == [[0.0, 0.0]]


def test_nobody_has_seen_enough_before_the_least_time() -> None:
    clock = FakeClock()

    found = time_interleaved(
        [clock.takes(0.5)], clock=clock, min_rounds=1, least_s=2.0, limit_s=9.0, enough=bool
    )

    assert len(found[0]) == 4


def test_samples_are_the_milliseconds_between_two_looks_at_the_clock() -> None:
    clock = FakeClock()

    found = time_interleaved(
        [clock.takes(0.25), clock.takes(0.5)], clock=clock, min_rounds=4, limit_s=0.0
    )

    assert found == [[250.0] * 4, [500.0] * 4]


def test_what_is_slow_only_at_first_is_not_in_the_samples() -> None:
    clock, calls = FakeClock(), count()

    def warms_up() -> None:
        clock.now += 1.0 if next(calls) < 3 else 0.125

    found = time_interleaved([warms_up], clock=clock, warmup_s=2.5, min_rounds=5, limit_s=0.0)

    assert found == [[125.0] * 5]


def test_the_limit_ends_the_rounds_but_never_before_the_least_number() -> None:
    clock = FakeClock()

    quick = time_interleaved([clock.takes(0.125)], clock=clock, min_rounds=2, limit_s=1.0)
    slow = time_interleaved([clock.takes(10.0)], clock=clock, min_rounds=2, limit_s=1.0)

    assert len(quick[0]) == 8
    assert len(slow[0]) == 2


def test_whoever_has_seen_enough_ends_the_rounds() -> None:
    clock = FakeClock()

    found = time_interleaved(
        [clock.takes(0.1)],
        clock=clock,
        min_rounds=2,
        limit_s=100.0,
        enough=lambda samples: len(samples[0]) == 5,
    )

    assert len(found[0]) == 5


@given(st.lists(st.floats(0.5, 2.0), min_size=3, max_size=30))
def test_what_slows_a_whole_round_down_cancels_in_the_ratio(drift: list[float]) -> None:
    compared = Comparison.of([10.0 * slow for slow in drift], [4.0 * slow for slow in drift])

    assert compared.ratio == pytest.approx(0.4)
    assert compared.ratio_iqr == pytest.approx(0.0, abs=1e-12)


def compared(ratios: Sequence[float] | np.ndarray) -> Comparison:
    return Comparison.of([10.0] * len(ratios), [10.0 * float(ratio) for ratio in ratios])


def test_the_error_of_a_ratio_falls_with_the_rounds() -> None:
    rng = np.random.default_rng(0)
    few, many = (compared(rng.normal(0.5, 0.02, rounds)) for rounds in (50, 5000))

    assert few.ratio_error == pytest.approx(0.02 * 1.25 / 50**0.5, rel=0.5)
    assert many.ratio_error == pytest.approx(0.02 * 1.25 / 5000**0.5, rel=0.5)


def test_a_ratio_that_drifts_is_known_less_well_than_its_rounds_make_believe() -> None:
    rng = np.random.default_rng(0)
    moods = np.repeat(rng.normal(0.5, 0.02, 10), 500)

    drifting = compared(moods + rng.normal(0, 0.001, len(moods)))

    assert drifting.ratio_error > 0.003


def test_timings_are_pooled_by_how_well_they_know_the_ratio() -> None:
    first = Comparison(Measurement(10, 1, 30), Measurement(5, 1, 30), 0.50, 0.02, 0.004, 1.5)
    other = Comparison(Measurement(13, 1, 10), Measurement(7, 1, 10), 0.53, 0.02, 0.008)

    both = first.pooled(other)

    assert both.ratio == pytest.approx(0.506)
    assert both.ratio_error == pytest.approx((1 / 0.004**2 + 1 / 0.008**2) ** -0.5)
    assert both.dense == Measurement(10.75, 1.0, 40)
    assert both.small == Measurement(5.5, 1.0, 40)
    assert both.foreign_cores == 1.5


def test_a_comparison_survives_a_trip_through_json() -> None:
    made = compared([0.5, 0.51, 0.52])

    assert Comparison.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize("change", [{"ratio": -1.0}, {"ratio_error": math.nan}, {"ratio_iqr": -1}])
def test_a_comparison_that_cannot_be_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="no networks compare like this"):
        Comparison.from_json({**compared([0.5, 0.51]).to_json(), **change})


def test_a_median_is_steady_when_its_samples_agree() -> None:
    assert steady_median([[10.0, 10.001, 9.999]])
    assert not steady_median([[10.0, 12.0, 9.0]])


def test_the_clock_of_one_thread_leaves_waiting_out() -> None:
    clock = clock_for(1)
    begin = clock()
    time.sleep(0.05)

    assert clock() - begin < 0.05


def test_several_threads_are_timed_by_the_clock_on_the_wall() -> None:
    assert clock_for(2) is time.perf_counter
