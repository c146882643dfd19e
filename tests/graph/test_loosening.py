"""A trunk that is shuffled again and again loses as many channels as go together, whichever."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from benchmarks.coverage.judge import judge
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import latprune as lp
from latprune.graph.slicing import slice_model
from latprune.graph.ties import Tie
from latprune.graph.tracing import trace
from latprune.latency.staircase import lines_needed, options
from latprune.latency.timing import Measurement
from tests import networks
from tests.test_planning import TARGET, made_up_ms
from tests.test_surgery import a_plan

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
GRAPH = trace(networks.ShuffledAgain().eval(), EXAMPLE)
(TIE,) = GRAPH.ties


def kept_at(option: int, *, seed: int) -> dict[str, list[int]]:
    """Choose any channels, as many as one option says."""
    draw = np.random.default_rng(seed)
    counts = zip(TIE.groups, TIE.widths[option].tolist(), strict=True)
    return {
        name: sorted(draw.permutation(GRAPH.group(name).channels)[:count].tolist())
        for name, count in counts
    }


@given(option=st.integers(0, len(TIE.widths) - 2), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_any_channels_can_stay_of_as_many_as_go_together(option: int, seed: int) -> None:
    kept = kept_at(option, seed=seed)

    def cutter(model: nn.Module) -> nn.Module:
        small = copy.deepcopy(model)
        slice_model(small, GRAPH.groups, kept, ties=GRAPH.ties)
        return small

    assert judge(networks.ShuffledAgain(), cutter, EXAMPLE).holds == "exact"


def test_no_width_needs_more_channels_of_a_way_than_there_are() -> None:
    # Of seven channels of a block one takes a way that two of six would take.
    graph = trace(networks.ShuffledAgain(half=7), EXAMPLE)
    (tie,) = graph.ties

    assert (tie.widths <= tie.widths[-1]).all()
    widths = [dict(zip(tie.groups, row, strict=True)) for row in tie.widths.tolist()]
    trunk = [graph.shapes_at({**graph.widths, **at})["after"].in_channels for at in widths]
    assert trunk == [4, 6, 8, 10, 14]


def test_every_layer_of_the_trunk_can_be_cut() -> None:
    written = {layer.name: layer.writes for layer in GRAPH.layers if layer.shape.has_weights}

    assert all(not written[f"blocks.{i}.0"].fixed for i in range(3))
    assert not written["stem.0"].fixed


def test_the_trunk_follows_one_width_in_every_option() -> None:
    for option, of_groups in enumerate(TIE.widths):
        widths = {**GRAPH.widths, **dict(zip(TIE.groups, of_groups.tolist(), strict=True))}
        shapes = GRAPH.shapes_at(widths)

        assert TIE.option(widths) == option
        assert {shapes[f"blocks.{i}.0"].in_channels for i in range(3)} == {2 * (option + 1)}
        assert shapes["after"].in_channels == 4 * (option + 1)


def test_what_moves_the_trunk_is_priced_with_its_width() -> None:
    joins = [layer for layer in GRAPH.layers if layer.shape.kind == "concat"]

    assert len(joins) == 3
    assert not any("concat" in name for name in GRAPH.unpriced)


def every_choice(graph: lp.PruningGraph, table: lp.LatencyTable) -> list[dict[str, int]]:
    """All widths that a plan may have."""
    alone = {g: w for g, w in options(graph, table).items() if g not in TIE.groups}
    return [
        dict(zip([*TIE.groups, *alone], [*row, *others], strict=True))
        for row in TIE.widths.tolist()
        for others in itertools.product(*(widths.tolist() for widths in alone.values()))
    ]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_plan_keeps_the_most_that_goes_together_within_the_budget(share: float) -> None:
    table = lp.LatencyTable(TARGET)
    for shape in (*lines_needed(GRAPH), *GRAPH.shapes_at(GRAPH.widths).values()):
        table.add(shape, Measurement(made_up_ms(shape), 0.0, 1))
    every = every_choice(GRAPH, table)
    for layer, one, other in itertools.product(GRAPH.layers, every, every):
        if one is other or not layer.tied:
            shape = layer.shape_of(layer.reads.at(one), layer.writes.at(other))
            table.add(shape, Measurement(made_up_ms(shape), 0.0, 1))
    dense_ms = table.layers_ms(GRAPH, GRAPH.widths)
    table.add_network(GRAPH, Measurement(dense_ms, 0.0, 1))
    draw = np.random.default_rng(0)
    scores = {group.name: draw.lognormal(size=group.channels) for group in GRAPH.groups}
    saliency = lp.Saliency(scores, criterion="random")

    made = lp.plan(GRAPH, table, saliency, lp.Budget(fraction=share))

    best = max(
        sum(float(saliency.values(group)[width]) for group, width in widths.items())
        for widths in every
        if table.layers_ms(GRAPH, widths) <= share * dense_ms
    )
    assert GRAPH.allows(made.widths)
    assert made.value == pytest.approx(best)
    assert made.predicted_ms == pytest.approx(table.layers_ms(GRAPH, made.widths))


def test_numbers_of_channels_that_do_not_go_together_are_refused() -> None:
    plan = a_plan(GRAPH)
    kept = {**plan.kept, TIE.groups[0]: tuple(range(GRAPH.group(TIE.groups[0]).channels))}
    other = lp.Plan(**{**vars(plan), "kept": kept})

    assert not GRAPH.allows(other.widths)
    with pytest.raises(lp.ModelMismatch, match="go together"):
        lp.cut(networks.ShuffledAgain(), GRAPH, other)


def test_a_trunk_that_one_shuffle_leaves_apart_is_cut_by_positions() -> None:
    assert not trace(networks.Shuffled(), EXAMPLE).ties


def test_a_protected_layer_keeps_the_whole_trunk() -> None:
    graph = trace(networks.ShuffledAgain(), EXAMPLE, keep=["blocks.1"])

    assert not graph.ties
    assert "protected by keep=" in {frozen.reason.partition(" in ")[0] for frozen in graph.frozen}


def test_a_tie_comes_back_from_json() -> None:
    again = Tie.from_json(TIE.to_json())

    assert again.groups == TIE.groups
    assert np.array_equal(again.widths, TIE.widths)
    assert all(
        found.keys() == told.keys() and all(np.array_equal(found[a], told[a]) for a in told)
        for found, told in zip(again.places, TIE.places, strict=True)
    )
