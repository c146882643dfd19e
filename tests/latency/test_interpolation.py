from __future__ import annotations

from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latprune.errors import NotMeasured
from latprune.latency.interpolation import held_out_errors, inside_hull, layer_cost
from latprune.latency.staircase import line_of, moving_axes
from latprune.latency.timing import Measurement
from tests.latency.synthetic import Processor, conv, layer, network

if TYPE_CHECKING:
    from latprune.graph.layers import Layer
    from latprune.latency.table import LatencyTable

MIDDLE = layer("middle", conv(512, 256), "a", "b")
CORNERS = list(product((8, 512), (8, 256)))
POINTS = st.lists(st.tuples(st.integers(-6, 6), st.integers(-6, 6)), min_size=1, max_size=7)


def seeded(processor: Processor, layer: Layer, pairs: list[tuple[int, int]]) -> LatencyTable:
    lines = [line_of(layer, axis) for axis in moving_axes(layer)]
    seeds = (layer.shape_of(*pair) for pair in pairs)
    return processor.table([*(shape for line in lines for shape in line), *seeds])


def cost(table: LatencyTable, layer: Layer, reads: int, writes: int) -> float:
    return float(layer_cost(table, layer, np.array([reads]), np.array([writes]))[0, 0])


@settings(max_examples=10)
@given(
    st.lists(
        st.tuples(st.integers(1, 512), st.integers(1, 256), st.floats(0.01, 10.0)), max_size=12
    )
)
def test_a_measured_width_costs_what_was_measured(extra: list[tuple[int, int, float]]) -> None:
    table = seeded(Processor(), MIDDLE, CORNERS)
    for reads, writes, time_ms in extra:
        table.add(MIDDLE.shape_of(reads, writes), Measurement(time_ms, 0.0, 5))

    found = {shape: cost(table, MIDDLE, shape.in_channels, shape.out_channels) for shape in table}
    assert found == {shape: measurement.median_ms for shape, measurement in table.items()}


@given(
    step=st.sampled_from([4, 8, 16, 32]),
    reads=st.integers(8, 512),
    writes=st.integers(8, 256),
)
def test_between_the_corners_the_stairs_are_followed(step: int, reads: int, writes: int) -> None:
    processor = Processor(step, step)
    table = seeded(processor, MIDDLE, CORNERS)

    found = cost(table, MIDDLE, reads, writes)

    assert found == pytest.approx(processor.ms(MIDDLE.shape_of(reads, writes)), rel=0.02)


def test_a_measurement_corrects_its_neighbourhood_more_than_the_far_end() -> None:
    table = seeded(Processor(), MIDDLE, CORNERS)
    before = [cost(table, MIDDLE, reads, 128) for reads in (32, 408)]
    table.add(MIDDLE.shape_of(400, 128), Measurement(2 * cost(table, MIDDLE, 400, 128), 0.0, 5))
    after = [cost(table, MIDDLE, reads, 128) for reads in (32, 408)]

    assert after[1] / before[1] > 1.5
    assert after[0] / before[0] < 1.4


@pytest.mark.parametrize(("reads", "writes"), [(4, 128), (513, 128), (128, 3), (128, 257)])
def test_outside_the_corners_nothing_is_guessed(reads: int, writes: int) -> None:
    table = Processor().table(
        [
            *line_of(layer("else", conv(512, 256, size=4), "a", "b"), "reads"),
            *line_of(layer("else", conv(512, 256, size=4), "a", "b"), "writes"),
            *(MIDDLE.shape_of(*corner) for corner in CORNERS),
        ]
    )

    with pytest.raises(NotMeasured, match="middle") as caught:
        cost(table, MIDDLE, reads, writes)
    assert f"{reads} → {writes}" in str(caught.value)


def test_a_layer_that_was_never_measured_has_no_cost() -> None:
    table = seeded(Processor(), MIDDLE, CORNERS)

    with pytest.raises(NotMeasured, match="other"):
        cost(table, layer("other", conv(512, 256, size=5), "a", "b"), 64, 64)


def test_the_tied_axes_of_a_depthwise_layer_only_go_together() -> None:
    depthwise, processor = network().layers[2], Processor()
    table = seeded(processor, depthwise, [(8, 8), (96, 96), (192, 192)])
    widths = np.array([8, 40, 192])

    costs = layer_cost(table, depthwise, widths, widths)

    expected = [processor.ms(depthwise.shape_of(width, width)) for width in (8, 40, 192)]
    assert np.diag(costs) == pytest.approx(expected, rel=0.02)
    assert np.isinf(costs[~np.eye(3, dtype=bool)]).all()


def test_fixed_channels_need_no_second_axis() -> None:
    stem, processor = network().layers[0], Processor()
    table = seeded(processor, stem, [(3, 8), (3, 64)])

    assert cost(table, stem, 3, 40) == pytest.approx(processor.ms(stem.shape_of(3, 40)), rel=0.02)


@given(POINTS, st.tuples(st.integers(-7, 7), st.integers(-7, 7)))
def test_inside_the_hull_is_inside_a_triangle_of_its_points(
    points: list[tuple[int, int]], asked: tuple[int, int]
) -> None:
    found = bool(inside_hull(np.array(points), np.array([asked]))[0])

    assert found == any(in_triangle(corners, asked) for corners in combinations(points * 3, 3))


def in_triangle(corners: tuple[tuple[int, int], ...], asked: tuple[int, int]) -> bool:
    """By the signs of the three areas; a flat triangle holds what lies between its ends."""

    def area(p: tuple[int, int], q: tuple[int, int]) -> int:
        return (q[0] - p[0]) * (asked[1] - p[1]) - (q[1] - p[1]) * (asked[0] - p[0])

    a, b, c = corners
    signs = {np.sign(area(p, q)) for p, q in ((a, b), (b, c), (c, a))}
    between = all(
        min(corner[axis] for corner in corners)
        <= asked[axis]
        <= max(corner[axis] for corner in corners)
        for axis in (0, 1)
    )
    return between and not {-1, 1} <= signs


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_held_out_points_show_how_far_interpolation_is_off(noise: float) -> None:
    shape = conv(128, 128)
    one = layer("one", shape, "a", "b")
    widths = range(8, 129, 24)
    points = [one.shape_of(reads, writes) for reads in widths for writes in widths]
    lines = [*line_of(one, "reads"), *line_of(one, "writes")]
    table = Processor(noise=noise).table([*lines, *points])

    errors = held_out_errors(table, one)

    assert len(errors) >= len(points) - 4
    typical = float(np.median(np.abs(errors)))
    assert typical < 0.01 if noise == 0 else noise / 3 < typical < 3 * noise


def test_points_that_no_others_enclose_are_not_held_out() -> None:
    other = layer("other", conv(512, 256, size=4), "a", "b")
    table = seeded(Processor(), MIDDLE, [])
    for corner in CORNERS:
        table.add(other.shape_of(*corner), Measurement(1.0, 0.0, 10))

    assert held_out_errors(table, other).shape == (0,)
