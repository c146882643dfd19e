"""A masked channel is not read, goes on learning, and can come back."""

from __future__ import annotations

import copy
import itertools
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import latprune as lp
from latprune.gradual.masks import SoftMasks
from latprune.graph.slicing import slice_model
from latprune.graph.verifying import random_kept
from tests.gradual.training import EXAMPLE, batch, begun, measured, network, train

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("is_normed", [False, True], ids=["plain", "under weight_norm"])
def test_masked_the_network_is_the_cut_one(is_normed: bool) -> None:
    model = network().eval()
    for module in list(model.modules()) if is_normed else ():
        if isinstance(module, torch.nn.Conv2d):
            weight_norm(module)
    graph = lp.trace(model, EXAMPLE)
    kept = random_kept(graph.groups, 0.5, 0)
    images, _ = batch(0)
    dense = copy.deepcopy(model)

    masks = SoftMasks(model)
    masks.put(graph.groups, kept)

    small = copy.deepcopy(dense)
    slice_model(small, graph.groups, kept)
    assert torch.allclose(model(images), small(images), atol=1e-5)

    masks.lift()
    for name, parameter in model.named_parameters():
        # Gains were multiplied, and come back but for the last bits.
        tolerance = 1e-6 if is_normed else 0.0
        torch.testing.assert_close(
            parameter, dense.get_parameter(name), rtol=tolerance, atol=tolerance
        )


def test_masked_a_network_under_spectral_norm_is_the_cut_one() -> None:
    model = network().eval()
    spectral_norm(model.last)
    graph = lp.trace(model, EXAMPLE)
    kept = random_kept(graph.groups, 0.5, 0)
    small = copy.deepcopy(model)
    slice_model(small, graph.groups, kept)

    SoftMasks(model).put(graph.groups, kept)

    images, _ = batch(0)
    assert torch.allclose(model(images), small(images), atol=1e-5)


def test_the_optimizer_moves_what_is_behind_a_mask_by_the_gradients_at_zero() -> None:
    model = network()
    graph = lp.trace(model.eval(), EXAMPLE)
    kept = random_kept(graph.groups, 0.5, 0)
    masks, dense = SoftMasks(model), copy.deepcopy(model)
    masks.put(graph.groups, kept)
    images, labels = batch(0)
    F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
    slopes = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    masks.lift()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    masks.lower()
    masks.put(graph.groups, {g.name: range(g.channels) for g in graph.groups})

    weight = "inner.0.weight"
    expected = dense.get_parameter(weight) - 0.5 * slopes[weight]
    assert torch.allclose(model.get_parameter(weight), expected)
    assert not torch.equal(expected, dense.get_parameter(weight))


def test_between_steps_the_network_computes_what_its_plan_leaves(tmp_path: Path) -> None:
    model, optimizer, pruning = begun(tmp_path, soft=True, optimizer=partial(torch.optim.SGD, lr=0))
    dense = copy.deepcopy(model)
    graph, _ = measured(dense, tmp_path)

    (plan,) = train(model, optimizer, pruning, range(3))

    small = lp.cut(dense, graph, plan)
    images, _ = batch(9)
    with torch.no_grad():
        assert torch.allclose(model.train()(images), small.train()(images), atol=1e-5)


def test_masked_channels_come_back(tmp_path: Path) -> None:
    model, optimizer, pruning = begun(tmp_path, "60%", soft=True, steps=6, every=3)

    plans = train(model, optimizer, pruning, range(18))

    came_back = [
        set(after.kept[group]) - set(before.kept[group])
        for before, after in itertools.pairwise(plans)
        for group in after.kept
    ]
    assert any(came_back)
    assert pruning.kept == plans[-1].kept
