from __future__ import annotations

import pytest

from latprune.latency.foreign import ForeignLoad, Used, used_so_far


def watching(*readings: Used | None) -> ForeignLoad:
    return ForeignLoad(iter(readings).__next__)


def test_what_others_used_is_what_was_used_without_our_own() -> None:
    load = watching(Used(100.0, 10.0, 0.0), Used(118.0, 19.0, 10.0))

    assert load.cores() == pytest.approx(0.9)


def test_our_own_work_is_no_foreign_load() -> None:
    assert watching(Used(50.0, 5.0, 0.0), Used(60.0, 15.1, 10.0)).cores() == 0.0


def test_a_system_without_counters_shows_no_load() -> None:
    assert watching(None, None).cores() == 0.0
    assert watching(Used(1.0, 1.0, 1.0), Used(1.0, 1.0, 1.0)).cores() == 0.0


def test_this_systems_counters_only_grow() -> None:
    first, second = used_so_far(), used_so_far()

    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert all(a <= b for a, b in zip(first, second, strict=True))
