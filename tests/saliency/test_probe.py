"""A probed width is worth what the network cut to it loses, its norms re-estimated."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from latprune.errors import ModelMismatch, NotFinite
from latprune.graph.slicing import slice_model
from latprune.graph.tracing import trace
from latprune.graph.verifying import randomise
from latprune.saliency import Saliency, magnitude, probe
from latprune.saliency.probe import _curve
from latprune.testing import random_batches, small_network
from tests.networks import Concatenated, Depthwise, Grouped, Residual

if TYPE_CHECKING:
    from latprune.graph.groups import PruningGraph

NETWORKS = [Residual, Concatenated, Depthwise, Grouped]


def traced(network: type[nn.Module]) -> tuple[nn.Module, PruningGraph]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network()
        randomise(model)
    return model, trace(model, torch.randn(1, 3, 6, 6))


@torch.no_grad()
def outputs_of_cut(
    model: nn.Module, graph: PruningGraph, kept: dict[str, list[int]], inputs: Tensor
) -> Tensor:
    """Give what the cut network answers when its norms use the batch's statistics."""
    small = copy.deepcopy(model)
    slice_model(small, graph.groups, kept)
    outputs: Tensor = small.train()(inputs)
    return outputs


def loss_of_cut(
    model: nn.Module, graph: PruningGraph, kept: dict[str, list[int]], batch: tuple[Tensor, Tensor]
) -> float:
    """Give the loss of the cut network."""
    return float(F.cross_entropy(outputs_of_cut(model, graph, kept, batch[0]), batch[1]))


@pytest.mark.parametrize("network", NETWORKS)
def test_what_a_probed_width_lacks_is_what_the_cut_network_loses(network: type[nn.Module]) -> None:
    model, graph = traced(network)
    (batch,) = random_batches(1)
    order = magnitude(model, graph)
    curves = probe(model, graph, [batch], F.cross_entropy, order=order, shares=[0.5]).curves

    dense = loss_of_cut(model, graph, {}, batch)
    for group in graph.groups:
        width = round(group.channels / group.multiple / 2) * group.multiple
        kept = {group.name: sorted(order.ranked(group.name)[:width].tolist())}
        added = loss_of_cut(model, graph, kept, batch) - dense
        curve = curves[group.name]
        assert curve[-1] - curve[width] == pytest.approx(max(added, 0.0), abs=1e-4)


def test_several_batches_count_by_their_samples() -> None:
    model, graph = traced(Residual)
    large, small = random_batches(2)
    small = small[0][:2], small[1][:2]
    order = magnitude(model, graph)

    def lost(batches: list[tuple[Tensor, Tensor]]) -> float:
        found = probe(model, graph, batches, torch_distance, order=order, shares=[])
        return float(found.curves["inner.0"][-1])

    expected = (4 * lost([large]) + 2 * lost([small])) / 6
    assert lost([large, small]) == pytest.approx(expected, rel=1e-4)


def torch_distance(outputs: Tensor, _: Tensor) -> Tensor:
    """Fall as channels come back: minus the size of the outputs."""
    return -outputs.square().sum(dim=1).mean()


@pytest.mark.parametrize("network", NETWORKS)
def test_by_outputs_a_width_lacks_how_far_the_cut_networks_answers_move(
    network: type[nn.Module],
) -> None:
    model, graph = traced(network)
    (batch,) = random_batches(1)
    order = magnitude(model, graph)
    curves = probe(
        model, graph, [batch], F.cross_entropy, order=order, shares=[0.5], by="outputs"
    ).curves

    dense = outputs_of_cut(model, graph, {}, batch[0])
    for group in graph.groups:
        width = round(group.channels / group.multiple / 2) * group.multiple
        kept = {group.name: sorted(order.ranked(group.name)[:width].tolist())}
        moved = float((outputs_of_cut(model, graph, kept, batch[0]) - dense).square().mean())
        curve = curves[group.name]
        assert curve[-1] - curve[width] == pytest.approx(moved, rel=1e-3)


def test_channels_are_ordered_by_fisher_unless_told_otherwise() -> None:
    model, graph = small_network()
    backwards = Saliency({"stem": np.arange(8.0), "inner": np.arange(4.0)}, criterion="mine")
    told = probe(model, graph, random_batches(), F.cross_entropy, order=backwards)
    untold = probe(model, graph, random_batches(), F.cross_entropy)

    assert told.ranked("stem").tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert untold.ranked("stem").tolist() != told.ranked("stem").tolist()


def test_no_more_images_are_used_than_asked_for() -> None:
    model, graph = small_network()
    seen: list[int] = []

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        seen.append(len(labels))
        return F.cross_entropy(outputs, labels)

    probe(model, graph, random_batches(5), loss, order=magnitude(model, graph), images=10)
    assert set(zip(seen[::3], seen[1::3], seen[2::3], strict=True)) == {(4, 4, 2)}


@st.composite
def probed(draw: st.DrawFn) -> tuple[dict[int, float], np.ndarray]:
    channels = draw(st.integers(1, 12))
    inner = draw(st.sets(st.integers(1, channels), max_size=4)) - {channels}
    added = {width: draw(st.floats(-1, 5)) for width in [0, *inner]} | {channels: 0.0}
    scores = draw(
        st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=channels, max_size=channels)
    )
    return added, np.concatenate([[0.0], np.cumsum(sorted(scores, reverse=True))])


@given(probed())
def test_a_curve_meets_what_was_measured_and_never_falls(
    case: tuple[dict[int, float], np.ndarray],
) -> None:
    added, worth = case
    curve = _curve(added, worth)

    assert curve[0] == 0
    assert (np.diff(curve) >= 0).all()
    for width in added:
        least = max([0.0, *(loss for other, loss in added.items() if other >= width)])
        assert curve[-1] - curve[width] == pytest.approx(least, abs=1e-9)


def test_between_two_widths_the_loss_follows_the_scores() -> None:
    worth = np.array([0.0, 6.0, 9.0, 10.0])

    assert _curve({3: 0.0, 0: 5.0}, worth).tolist() == [0.0, 3.0, 4.5, 5.0]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_a_share_that_masks_nothing_or_everything_is_refused(share: float) -> None:
    model, graph = small_network()

    with pytest.raises(ValueError, match="between 0 and 1"):
        probe(model, graph, random_batches(), F.cross_entropy, shares=[share])


def test_a_loss_that_is_not_finite_names_the_group_and_the_width() -> None:
    model, graph = small_network()
    calls = 0

    def breaks_later(outputs: Tensor, labels: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return F.cross_entropy(outputs, labels) * (torch.nan if calls > 1 else 1)

    with pytest.raises(NotFinite, match="stem masked to 6 of 8 channels"):
        probe(model, graph, random_batches(1), breaks_later, order=magnitude(model, graph))


def test_scores_of_another_network_do_not_order_channels() -> None:
    model, graph = small_network()

    with pytest.raises(ModelMismatch):
        probe(model, graph, random_batches(), F.cross_entropy, order=Saliency({}, criterion="mine"))


def test_no_batches_are_an_error() -> None:
    model, graph = small_network()

    with pytest.raises(ValueError, match="at least one batch"):
        probe(model, graph, [], F.cross_entropy)


def test_what_is_probed_by_is_the_loss_or_the_outputs() -> None:
    model, graph = small_network()

    with pytest.raises(ValueError, match="by 'loss' or by 'outputs', not by 'typo'"):
        probe(model, graph, random_batches(1), F.cross_entropy, by="typo")  # type: ignore[arg-type]


def test_pictures_that_come_one_by_one_all_count() -> None:
    model, graph = traced(Residual)
    (batch,) = random_batches(1)
    order = magnitude(model, graph)
    ones = list(zip(*(torch.split(part, 1) for part in batch), strict=True))

    found = probe(model, graph, ones, F.cross_entropy, order=order).curves

    for name, curve in probe(model, graph, [batch], F.cross_entropy, order=order).curves.items():
        np.testing.assert_allclose(found[name], curve, atol=1e-6)
