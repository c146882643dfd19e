"""A framed network costs what its layers cost, at every combination of widths."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latprune.errors import ProblemTooDense
from latprune.framing import Framing, frame
from latprune.graph.groups import Branch, PruningGraph
from latprune.graph.layers import Layer, LayerShape, Width
from latprune.graph.ties import Tie
from tests.strategies import framed_networks, group_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def bumpy_cost(layer: Layer, reads: np.ndarray, writes: np.ndarray) -> np.ndarray:
    """Price layers by a rule in which no two prices are alike by accident."""
    seed = layer.shape.in_channels + 3 * layer.shape.out_channels
    grid: np.ndarray = (seed * reads[:, None] * 37 % 101 + seed * writes * 53 % 89) / 8.0
    return grid


def cost_of_layers(graph: PruningGraph, widths: Mapping[str, int]) -> float:
    """Add up the layers' prices one by one."""
    return math.fsum(
        float(
            bumpy_cost(
                layer,
                np.array([layer.reads.at(widths)]),
                np.array([layer.writes.at(widths)]),
            )[0, 0]
        )
        for layer in graph.layers
    )


def allowed_costs(framing: Framing, picks: Sequence[int]) -> list[float]:
    """Price these picks of the groups with every allowed pick of the auxiliary variables."""
    problem = framing.problem(
        {group: np.zeros(100) for group in framing.groups}, budget_ms=math.inf
    )
    known = [tuple(picks)]
    for variable in range(len(framing.grouped), len(problem.sizes)):
        tables = [table for table in problem.tables if max(table.scope, default=-1) == variable]
        known = [
            found
            for before in known
            for found in ((*before, pick) for pick in range(problem.sizes[variable]))
            if all(np.isfinite(t.cost_ms[tuple(found[v] for v in t.scope)]) for t in tables)
        ]
    costs = map(problem.cost_of, known)
    return [cost for cost in costs if math.isfinite(cost)]


def chain_of_concatenations(growth: int) -> tuple[PruningGraph, dict[str, np.ndarray]]:
    """Make layers of which each reads all that the ones before it wrote."""
    names = [f"g{index}" for index in range(growth)]
    layers = [
        Layer(
            f"layer{index}",
            LayerShape("linear", 4 * index, 4, size=(1,)),
            Width(0, tuple((name, 1) for name in reversed(names[:index]))),
            Width(0, ((names[index], 1),)),
        )
        for index in range(1, growth)
    ]
    graph = PruningGraph(tuple(layers), tuple(group_of(name, 4) for name in names))
    return graph, dict.fromkeys(names, np.array([2, 4]))


@given(network=framed_networks())
def test_exactly_one_value_of_the_sums_is_allowed_and_costs_what_the_layers_cost(
    network: tuple[PruningGraph, Mapping[str, np.ndarray]],
) -> None:
    graph, options = network
    framing = frame(graph, options, bumpy_cost)

    picks_of_groups = list(itertools.product(*(range(len(options[g])) for g in framing.groups)))
    for picks in picks_of_groups[:: max(1, len(picks_of_groups) // 4)]:
        assert allowed_costs(framing, picks) == [cost_of_layers(graph, framing.widths(picks))]


@given(network=framed_networks())
def test_the_dense_picks_keep_everything(
    network: tuple[PruningGraph, Mapping[str, np.ndarray]],
) -> None:
    graph, options = network
    framing = frame(graph, options, bumpy_cost)
    problem = framing.problem(
        {group: np.zeros(100) for group in framing.groups}, budget_ms=math.inf
    )

    assert framing.widths(framing.dense) == graph.widths
    assert problem.cost_of(framing.dense) == cost_of_layers(graph, graph.widths)


@given(network=framed_networks(), data=st.data())
def test_tied_groups_are_one_variable_and_cost_what_the_layers_cost(
    network: tuple[PruningGraph, Mapping[str, np.ndarray]], data: st.DataObject
) -> None:
    graph, options = network
    names = data.draw(st.lists(st.sampled_from(list(options)), min_size=1, unique=True))
    rows = data.draw(st.integers(1, 3))
    narrower = np.array(
        [[graph.widths[name] * row // rows for name in names] for row in range(rows)]
    )
    widths = np.array([*narrower, [graph.widths[name] for name in names]])
    graph = replace(graph, ties=(Tie(tuple(names), widths, ({},) * len(widths)),))
    options = {**options, **dict(zip(names, widths.T, strict=True))}

    framing = frame(graph, options, bumpy_cost)

    assert [*names] in [[*groups] for groups in framing.grouped]
    picks_of_groups = list(
        itertools.product(*(range(n) for n in map(len, framing.channels[: len(framing.grouped)])))
    )
    for picks in picks_of_groups[:: max(1, len(picks_of_groups) // 8)]:
        found = framing.widths(picks)
        assert graph.allows(found)
        assert allowed_costs(framing, picks) == [cost_of_layers(graph, found)]


def test_layers_that_read_the_same_beginning_share_its_sum() -> None:
    graph, options = chain_of_concatenations(growth=8)
    framing = frame(graph, options, bumpy_cost)

    sums = framing.channels[len(framing.groups) :]
    assert [list(channels) for channels in sums] == [
        list(range(2 * count, 4 * count + 1, 2)) for count in range(2, 8)
    ]
    assert max(len(table.scope) for table in framing.tables) == 3


def test_what_crosses_is_one_axis_as_wide_as_the_product() -> None:
    width = Width(0, products=(("heads", "each", 3),))
    layers = [
        Layer("qkv", LayerShape("linear", 5, 72, size=(1,)), Width(5), width),
        Layer("proj", LayerShape("linear", 72, 5, size=(1,)), width, Width(5)),
    ]
    graph = PruningGraph(tuple(layers), (group_of("heads", 4), group_of("each", 6)))

    framing = frame(graph, {"heads": np.array([2, 4]), "each": np.array([3, 6])}, bumpy_cost)

    assert [widths.tolist() for widths in framing.channels] == [[2, 4], [3, 6], [6, 12, 24]]
    priced = [table.scope for table in framing.tables if len(table.scope) == 1]
    assert priced == [(2,), (2,)]


def test_a_depthwise_layer_is_priced_only_where_its_two_widths_agree() -> None:
    group = group_of("g0", 8)
    axis = Width(0, (("g0", 1),))
    shape = LayerShape("conv", 8, 8, size=(4, 4), kernel=(3, 3), groups=8)
    layer = Layer("layer0", shape, axis, axis, groups_follow=True)

    def cost_of_pairs(_: Layer, reads: np.ndarray, writes: np.ndarray) -> np.ndarray:
        return np.where(reads[:, None] == writes, writes / 2.0, np.inf)

    framing = frame(PruningGraph((layer,), (group,)), {"g0": np.array([2, 5, 8])}, cost_of_pairs)

    (table,) = framing.tables
    assert table.scope == (0,)
    assert table.cost_ms.tolist() == [1.0, 2.5, 4.0]


def test_values_are_looked_up_by_the_number_of_channels() -> None:
    graph = PruningGraph((), (group_of("g0", 4),))
    framing = frame(graph, {"g0": np.array([1, 3, 4])}, bumpy_cost)
    problem = framing.problem({"g0": np.array([0.0, 5.0, 7.0, 8.0, 8.5])}, budget_ms=2.0)

    assert problem.values[0].tolist() == [5.0, 8.0, 8.5]
    assert problem.budget_ms == 2.0


def test_a_sum_with_too_many_values_is_an_error_before_its_table_is_made() -> None:
    names = ("g0", "g1")
    layer = Layer(
        "layer0",
        LayerShape("linear", 800, 5, size=(1,)),
        Width(0, tuple((name, 1) for name in names)),
        Width(5),
    )
    graph = PruningGraph((layer,), tuple(group_of(name, 400) for name in names))
    options = dict.fromkeys(names, np.arange(1, 401))

    with pytest.raises(ProblemTooDense) as error:
        frame(graph, options, bumpy_cost)
    assert error.value.needed_mib > error.value.allowed_mib


@st.composite
def networks_with_a_branch(
    draw: st.DrawFn,
) -> tuple[PruningGraph, Mapping[str, np.ndarray]]:
    """Draw a network of which some groups, and the layers on them and more, can go together."""
    graph, options = draw(framed_networks())
    inside = draw(st.sets(st.sampled_from([group.name for group in graph.groups]), min_size=1))
    on_it = [
        layer.name for layer in graph.layers if inside & {*layer.reads.names, *layer.writes.names}
    ]
    others = draw(st.sets(st.sampled_from([layer.name for layer in graph.layers] or [""])))
    branch = Branch(
        name="branch",
        groups=tuple(sorted(inside)),
        layers=tuple({*on_it, *others} - {""}),
        modules=("branch",),
        block="",
        takes=(1,),
        trunk="",
        relu=False,
        axis=-1,
    )
    with_none = {
        name: np.array([0, *widths]) if name in inside else widths
        for name, widths in options.items()
    }
    return replace(graph, branches=(branch,)), with_none


@given(network=networks_with_a_branch())
def test_a_branch_goes_with_all_of_its_groups_and_its_layers_then_cost_nothing(
    network: tuple[PruningGraph, Mapping[str, np.ndarray]],
) -> None:
    graph, options = network
    framing = frame(graph, options, bumpy_cost)

    picks_of_groups = list(itertools.product(*(range(len(options[g])) for g in framing.groups)))
    for picks in picks_of_groups[:: max(1, len(picks_of_groups) // 8)]:
        widths = framing.widths(picks)
        (branch,) = graph.branches
        gone = branch.layers if branch.is_removed(widths) else ()
        left = replace(graph, layers=tuple(la for la in graph.layers if la.name not in gone))
        expected = [cost_of_layers(left, widths)] if graph.allows(widths) else []
        assert allowed_costs(framing, picks) == expected
