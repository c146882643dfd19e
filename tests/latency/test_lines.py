"""A table alone tells which kernels it holds and where their steps are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latprune.graph.layers import LayerShape
from latprune.latency.describing import shape_words
from latprune.latency.lines import kernels, line_words
from latprune.latency.staircase import line_of, lines_needed
from tests.latency.synthetic import Processor, conv, layer, network

if TYPE_CHECKING:
    from latprune.latency.table import LatencyTable


def measured(processor: Processor) -> LatencyTable:
    """The lines and the dense layers of the small network."""
    dense = (layer.shape for layer in network().layers)
    return processor.table(dict.fromkeys((*lines_needed(network()), *dense)))


@given(st.sampled_from([4, 8, 16]), st.sampled_from([4, 8, 16]))
def test_the_steps_are_those_of_the_processor(reads: int, writes: int) -> None:
    table = measured(Processor(reads_step=reads, writes_step=writes))

    found = {kernel.name: kernel for kernel in kernels(table)}["conv 1x1"]

    steps = {line.axis: line.stairs.step for line in found.lines if line.stairs}
    assert steps == {"reads": reads, "writes": writes}


def test_every_layer_belongs_to_one_kernel_and_the_slowest_comes_first() -> None:
    table = measured(Processor())

    found = kernels(table)

    assert sum(len(kernel.layers) for kernel in found) == len(table)
    assert {shape for kernel in found for shape in kernel.layers} == set(table)
    slowest = [kernel.slowest_ms for kernel in found]
    assert slowest == sorted(slowest, reverse=True)
    assert slowest[0] == max(one.median_ms for one in table.values())


def test_the_stairs_are_what_was_measured_where_there_is_no_noise() -> None:
    for kernel in kernels(measured(Processor())):
        for line in kernel.lines:
            for point in line.points:
                assert point.measured is not None
                assert point.expected_ms == pytest.approx(point.measured.median_ms, rel=0.02)


def test_beyond_the_line_a_width_is_measured_or_interpolated() -> None:
    processor = Processor()
    found = {kernel.name: kernel for kernel in kernels(measured(processor))}["conv 1x1"]

    for line in found.lines:
        assert all(point.width > line.points[-1].width for point in line.wider)
        for point in line.wider:
            shape = conv(
                *(
                    (point.width, line.shape.out_channels)
                    if line.axis == "reads"
                    else (line.shape.in_channels, point.width)
                ),
                kernel=1,
            )
            assert point.expected_ms == pytest.approx(processor.ms(shape), rel=0.1)


def test_a_depthwise_layer_has_one_axis_and_keeps_its_name() -> None:
    found = {kernel.name: kernel for kernel in kernels(measured(Processor()))}

    (line,) = found["depthwise conv 3x3"].lines
    assert line.axis == "both"
    assert line.stairs is not None
    assert line_words(line).startswith("4 … 96 channels at ")


@pytest.mark.parametrize("follow", [True, False])
def test_grouped_convolutions_tell_by_their_line_whether_groups_or_their_channels_go(
    follow: bool,
) -> None:
    grouped = replace(layer("grouped", conv(128, 128, groups=8), "a", "b"), groups_follow=follow)

    # With one group left it is a convolution like any other, and counted as such.
    found = kernels(Processor().table(line_of(grouped, "writes")))[0]

    assert found.name == ("conv 3x3 groups of 16 → 16" if follow else "conv 3x3 8 groups")
    assert found.lines[0].axis == ("both" if follow else "writes")


def test_an_unfinished_line_is_left_out() -> None:
    shapes = line_of(layer("a", conv(64, 64), "x", "y"), "writes")

    (found,) = kernels(Processor().table(shapes[:-1]))

    assert found.lines == ()
    assert len(found.layers) == len(shapes) - 1


def test_an_operator_goes_by_the_channel() -> None:
    shapes = [LayerShape("add", width, width, size=(4, 4)) for width in (64, 8, 16)]

    (found,) = kernels(Processor().table(shapes))

    (line,) = found.lines
    assert line.stairs is None
    assert line.step_ms == 0
    assert [point.width for point in line.points] == [8, 16, 64]
    assert found.name == "add"


def test_an_empty_table_has_no_kernels() -> None:
    assert kernels(Processor().table([])) == ()


def test_a_layer_in_words_has_all_that_decides_its_time() -> None:
    strided = LayerShape(
        "conv", 64, 128, (28, 28), (3, 3), (2, 2), (1, 1), (1, 1), norm=True, activation="relu"
    )

    assert shape_words(strided) == "conv 3x3 /2  64 → 128 at 28x28, norm, relu"
    assert shape_words(conv(8, 8, groups=8)).startswith("depthwise conv 3x3  8 → 8 at 8x8")
    assert shape_words(LayerShape("linear", 8, 10, (1,), bias=True)) == (
        "linear  8 → 10 at 1 row, bias"
    )
    between = replace(strided, rectified=True, to_depthwise=True)
    assert shape_words(between).endswith("norm, relu, reads ≥ 0, before a depthwise")
