from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latprune.errors import NotMeasured
from latprune.graph.groups import ChannelGroup, PruningGraph
from latprune.graph.layers import Layer, LayerShape, Width
from latprune.latency.staircase import line_of, lines_needed, moving_axes, options, stairs
from latprune.latency.table import LatencyTable
from tests.latency.synthetic import TARGET, Processor, conv, layer, network

STEPS = st.sampled_from([4, 8, 16, 32])


def measured(processor: Processor, graph: PruningGraph) -> LatencyTable:
    return processor.table([*lines_needed(graph), *(layer.shape for layer in graph.layers)])


def pair(channels: int, *, multiple: int = 1) -> PruningGraph:
    """One group between two convolutions."""
    return PruningGraph(
        layers=(
            layer("first", conv(3, channels), None, "group"),
            layer("second", conv(channels, 64), "group", None),
        ),
        groups=(ChannelGroup("group", channels, (), multiple=multiple),),
    )


@given(step=STEPS, channels=st.sampled_from([64, 128, 320]))
def test_the_step_of_the_processor_is_found_in_spite_of_noise(step: int, channels: int) -> None:
    processor, graph = Processor(step, step, noise=0.01), pair(channels)
    table = measured(processor, graph)

    found = [stairs(table, layer, axis) for layer in graph.layers for axis in moving_axes(layer)]

    assert {axis.step for axis in found} == {step}


@given(step=STEPS)
def test_a_depthwise_layer_has_steps_too(step: int) -> None:
    graph = network()

    found = stairs(measured(Processor(step, step), graph), graph.layers[2], "writes")

    assert found.step == step


@given(step=STEPS)
def test_only_whole_steps_are_options(step: int) -> None:
    graph = pair(256)

    found = options(graph, measured(Processor(step, step), graph))

    assert found["group"].tolist() == list(range(step, 257, step))


def test_a_width_that_a_wider_one_matches_everywhere_is_no_option() -> None:
    class Irregular(Processor):
        """Has kernels for 8, 16, 24, 32 and 64 channels and fills up to the next."""

        def ms(self, shape: LayerShape) -> float:
            return super().ms(replace(shape, in_channels=fill(shape.in_channels)))

    def fill(width: int) -> int:
        whole, rest = divmod(width, 64)
        return 64 * whole + (64 if rest > 32 else rest)

    graph = PruningGraph((layer("reads", conv(128, 64), "group", None),), pair(128).groups)

    found = options(graph, measured(Irregular(8, 8), graph))

    assert found["group"].tolist() == [8, 16, 24, 32, 64, 72, 80, 88, 96, 128]


def test_the_full_width_is_an_option_even_inside_a_step() -> None:
    graph = pair(100)

    found = options(graph, measured(Processor(16, 16), graph))

    assert found["group"].tolist() == [16, 32, 48, 64, 80, 96, 100]


def test_a_width_that_pays_only_where_it_is_read_is_an_option() -> None:
    graph = pair(64)

    found = options(graph, measured(Processor(reads_step=4, writes_step=32), graph))

    assert found["group"].tolist() == list(range(4, 65, 4))


def test_a_layer_that_takes_hardly_any_time_makes_no_options_finer() -> None:
    graph = pair(64)
    tiny = replace(graph.layers[1], shape=conv(64, 64, size=1))
    graph = PruningGraph((graph.layers[0], tiny), graph.groups)

    found = options(graph, measured(Processor(reads_step=4, writes_step=16), graph))

    assert found["group"].tolist() == [16, 32, 48, 64]


@given(channels=st.integers(1, 3000), multiple=st.sampled_from([1, 3, 8, 32]))
def test_options_are_few_ascending_allowed_and_end_at_the_full_width(
    channels: int, multiple: int
) -> None:
    graph = pair(channels, multiple=multiple)

    widths = options(graph, measured(Processor(8, 8), graph))["group"]

    assert len(widths) <= 64
    assert (np.diff(widths) > 0).all()
    assert widths[-1] == channels
    assert all(width % multiple == 0 for width in widths[:-1])


@given(step=STEPS, width=st.integers(1, 512), other=st.integers(1, 512))
def test_equal_effective_widths_are_equal_times_and_wider_ones_longer(
    step: int, width: int, other: int
) -> None:
    processor, graph = Processor(step, step), pair(64)
    table = measured(processor, graph)
    reading = graph.layers[1]

    effective = stairs(table, reading, "reads").effective(np.array([width, other]))
    times = [processor.ms(reading.shape_of(w, 64)) for w in (width, other)]

    assert np.sign(np.diff(effective).round(6)) == np.sign(np.diff(times).round(9))


def test_a_depthwise_layer_moves_along_one_axis_and_stays_depthwise() -> None:
    depthwise = network().layers[2]

    assert moving_axes(depthwise) == ("writes",)
    assert all(
        shape.groups == shape.in_channels == shape.out_channels
        for shape in line_of(depthwise, "writes")
    )


def test_a_grouped_convolution_is_measured_in_whole_groups() -> None:
    grouped = replace(layer("grouped", conv(128, 128, groups=32), "a", "b"), groups_follow=False)

    assert [shape.in_channels for shape in line_of(grouped, "reads")] == [
        32 * point for point in (*range(1, 17), 17, 18, 20, 24)
    ]


def test_channels_that_stand_beside_others_are_counted_with_them() -> None:
    graph = pair(64)
    joined = Layer("joined", conv(80, 64), Width(16, (("group", 1),)), Width(64))
    graph = PruningGraph((graph.layers[0], joined), graph.groups)

    found = options(graph, measured(Processor(32, 32), graph))

    # 32 and 64 fill the steps of the writing layer; 16 more are read beside them.
    assert {32, 64} <= set(found["group"].tolist())


def test_one_line_per_kernel_and_axis_is_enough() -> None:
    graph = network()
    twice = PruningGraph((*graph.layers, replace(graph.layers[1], name="again")), graph.groups)

    assert len(lines_needed(twice)) == len(lines_needed(graph)) <= 6 * 20


def test_without_its_line_a_layer_has_no_stairs() -> None:
    with pytest.raises(NotMeasured, match="expand"):
        stairs(LatencyTable(TARGET), network().layers[1], "reads")


def test_without_the_dense_layers_there_are_no_options() -> None:
    graph = network()

    with pytest.raises(NotMeasured, match="dense network"):
        options(graph, Processor().table(lines_needed(graph)))


def test_groups_that_cross_have_few_options_each_since_their_products_are_options_too() -> None:
    width = Width(0, products=(("heads", "each", 1),))
    linear = LayerShape("linear", 256, 32 * 64, size=(16,), bias=True)
    layers = (Layer("values", linear, Width(0, (("trunk", 1),)), width),)
    channels = {"trunk": 256, "heads": 32, "each": 64}
    graph = PruningGraph(layers, tuple(ChannelGroup(n, c, ()) for n, c in channels.items()))
    table = Processor(1, 1).table((*lines_needed(graph), linear))

    found = {name: len(widths) for name, widths in options(graph, table).items()}

    assert found["trunk"] > 16
    assert found["heads"] == found["each"] == 16
