"""What a network takes beside its layers is learned from networks of its size."""

from __future__ import annotations

import math

import pytest

from latprune.latency.rest import ALIKE, Relative, Whole, rest_at, rest_within, whole_at

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


def relative(whole_ms: float, differs: float, *, error_ms: float = 0.5) -> Relative:
    return Relative(Whole(50.0, whole_ms, error_ms), differs)


def test_a_networks_own_timings_count_for_more_than_those_of_strangers_as_large() -> None:
    own = [relative(53.0, 0.0)] * 4
    strangers = [relative(55.0, 1.0)] * 40

    whole_ms, error_ms = whole_at([*own, *strangers], 50.0, differs_ms=0.5)

    assert whole_ms == pytest.approx(53.0, abs=0.5)
    assert 0.2 < error_ms < 0.25  # 0.5 ÷ √4, and little from the strangers


def test_however_many_strangers_do_not_tell_how_a_network_differs_from_them() -> None:
    _, error_ms = whole_at([relative(53.0, 1.0)] * 10_000, 50.0, differs_ms=0.5)

    assert error_ms == pytest.approx(0.5, rel=0.01)


def test_a_near_relative_tells_nearly_as_much_as_the_network_itself() -> None:
    own, near = (
        whole_at([relative(53.0, differs), relative(53.5, 1.0)], 50.0, differs_ms=0.5)
        for differs in (0.0, 0.1)
    )

    assert near == pytest.approx(own, rel=0.02)


def test_networks_of_other_sizes_alone_leave_the_error_infinite() -> None:
    assert whole_at([Relative(DENSE, 1.0)], 50.0, differs_ms=0.5)[1] == math.inf


def test_timings_of_its_own_that_contradict_the_others_are_believed() -> None:
    own = [relative(58.0, 0.0)] * 3
    others = [relative(53.0, 0.1)] * 40

    whole_ms, _ = whole_at([*own, *others], 50.0, differs_ms=0.5)

    assert whole_ms == pytest.approx(58.0, abs=0.1)


def test_a_network_whose_rest_is_most_of_it_is_found_between_its_parts() -> None:
    known = [Whole(1.0, 50.0, 0.1)]

    rest_ms = rest_within(known, 25.0)

    assert rest_ms == pytest.approx(24.5)
    assert rest_at(known, 25.0 - rest_ms)[0] == pytest.approx(rest_ms)
