"""What a graph says of its layers at any widths."""

from __future__ import annotations

import pytest
import torch

import latprune as lp
from latprune.graph import groups
from tests.networks import Residual


@pytest.fixture
def graph() -> lp.PruningGraph:
    return lp.trace(Residual().eval(), torch.zeros(1, 3, 12, 12))


def test_layers_at_widths_are_the_same_however_often_one_asks(
    graph: lp.PruningGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_MOST_SHAPES", 2)  # more widths than are remembered
    first = graph.groups[0]
    several = [{**graph.widths, first.name: width} for width in range(1, first.channels + 1)]
    expected = [{layer.name: layer.shape_at(one) for layer in graph.layers} for one in several]

    for _ in range(2):
        assert [graph.shapes_at(one) for one in several] == expected


def test_what_is_done_to_the_layers_that_a_graph_gave_stays_there(graph: lp.PruningGraph) -> None:
    given = graph.shapes_at(graph.widths)
    given.clear()

    assert graph.shapes_at(graph.widths).keys() == {layer.name for layer in graph.layers}
