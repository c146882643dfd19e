from __future__ import annotations

import statistics
import time
from itertools import count

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
    measured = Measurement(1.234567, 0.01, 12)

    assert Measurement.from_json(measured.to_json()) == measured


def test_calls_take_turns() -> None:
    clock, order = FakeClock(), list[str]()

    def call(name: str) -> None:
        order.append(name)
        clock.now += 0.1

    time_interleaved(
        [lambda: call("a"), lambda: call("b")], clock=clock, warmup_s=0.1, min_rounds=3, limit_s=0.0
    )

    assert "".join(order) == "ab" * 4


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
