"""What a network takes beside its layers is learned from networks of its size."""

from __future__ import annotations

import math

import pytest

from latprune.latency.rest import ALIKE, Whole, rest_at, rest_within

DENSE = Whole(100.0, 104.0, 0.3)
HALF = Whole(50.0, 53.0, 0.5)


def test_networks_as_large_are_averaged_by_what_is_known_of_them() -> None:
    again = Whole(50.0 * (1 + ALIKE / 2), 50.0 * (1 + ALIKE / 2) + 4.5, 1.0)

    rest_ms, error_ms = rest_at([DENSE, HALF, again], 50.0)

    assert rest_ms == pytest.approx((4 * 3.0 + 4.5) / 5)
    assert error_ms == pytest.approx((4 + 1) ** -0.5)


def test_between_networks_the_rest_changes_with_the_layers() -> None:
    rest_ms, error_ms = rest_at([DENSE, HALF], 75.0)

    assert rest_ms == pytest.approx(3.5)
    assert error_ms == math.inf


def test_above_them_it_is_that_of_the_largest() -> None:
    assert rest_at([HALF, DENSE], 500.0)[0] == 4.0


@pytest.mark.parametrize("rest_ms", [-20.0, 25.0])
def test_below_them_it_shrinks_with_the_layers(rest_ms: float) -> None:
    whole = Whole(100.0, 100.0 + rest_ms, 0.5)

    assert rest_at([whole], 50.0)[0] == pytest.approx(rest_ms / 2)
    assert rest_within([whole], 50.0 + rest_ms / 2) == pytest.approx(rest_ms / 2)


def test_the_rest_within_a_whole_fits_with_its_layers() -> None:
    rest_ms = rest_within([DENSE, HALF], 80.0)

    assert rest_ms == pytest.approx(rest_at([DENSE, HALF], 80.0 - rest_ms)[0], rel=1e-5)


def test_layers_that_take_longer_one_by_one_leave_less_than_nothing() -> None:
    assert Whole(10.0, 8.0, 0.1).rest_ms == -2.0
