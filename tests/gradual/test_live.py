"""A cut in place: everything of a channel goes together, and training goes on."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import latprune as lp
from latprune.gradual.live import LiveNetwork, unwrapped
from latprune.graph.slicing import slice_model
from latprune.graph.verifying import random_kept
from tests.gradual.training import EXAMPLE, batch, network
from tests.networks import EVERY


def alive(
    model: nn.Module, make: Any = torch.optim.SGD, **options: Any
) -> tuple[LiveNetwork, lp.PruningGraph, torch.optim.Optimizer]:
    graph = lp.trace(model.eval(), EXAMPLE)
    optimizer = make(model.train().parameters(), lr=0.1, **options)
    return LiveNetwork(model, graph, optimizer), graph, optimizer


def descend(model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    images, labels = batch(0)
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss


@pytest.mark.parametrize("kind", EVERY)
def test_cuts_in_turn_leave_what_one_cut_leaves(kind: type[nn.Module]) -> None:
    model = kind()
    live, graph, _ = alive(model)
    kept: dict[str, Any] = {g.name: range(g.channels) for g in graph.groups}
    whole = copy.deepcopy(model)

    for seed in range(3):
        among = random_kept(live.groups, 0.3, seed, ties=graph.ties)
        kept = {name: [kept[name][i] for i in places] for name, places in among.items()}
        live.cut(kept)

    slice_model(whole, graph.groups, kept, ties=graph.ties)
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert str(model) == str(whole)  # modules print their sizes
    images = torch.randn(2, *EXAMPLE.shape[1:])
    assert torch.equal(model.eval()(images), whole.eval()(images))


@pytest.mark.parametrize(
    ("make", "options", "slots"),
    [
        (torch.optim.SGD, {"momentum": 0.9}, {"momentum_buffer"}),
        (torch.optim.AdamW, {"amsgrad": True}, {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}),
        (torch.optim.RMSprop, {"centered": True}, {"square_avg", "grad_avg"}),
    ],
)
def test_gradients_and_what_the_optimizer_keeps_are_cut_like_the_weights(
    make: Any, options: dict[str, Any], slots: set[str]
) -> None:
    model = network()
    live, graph, optimizer = alive(model, make, **options)
    descend(model, optimizer)
    with torch.no_grad():
        for parameter in model.parameters():
            for slot in slots:
                optimizer.state[parameter][slot].copy_(parameter)
            assert parameter.grad is not None
            parameter.grad.copy_(parameter)

    live.cut(random_kept(graph.groups, 0.5, 0))

    for parameter in model.parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, parameter)
        assert all(torch.equal(optimizer.state[parameter][slot], parameter) for slot in slots)
    descend(model, optimizer)


def test_factored_moments_are_cut_where_they_have_the_axis() -> None:
    model = network()
    live, graph, optimizer = alive(model, torch.optim.Adafactor)
    descend(model, optimizer)

    live.cut(random_kept(graph.groups, 0.5, 0))
    descend(model, optimizer)

    weight = model.get_parameter("last.weight")
    assert optimizer.state[weight]["row_var"].shape == (*weight.shape[:-1], 1)


def test_state_that_cannot_be_cut_is_refused_and_nothing_has_changed() -> None:
    model = network()
    live, graph, optimizer = alive(model)
    optimizer.state[model.get_parameter("last.weight")]["basis"] = torch.zeros(3, 3)
    before = {name: value.shape for name, value in model.state_dict().items()}

    with pytest.raises(lp.ModelMismatch, match=r"SGD keeps 'basis' of shape \(3, 3\) for last"):
        live.cut(random_kept(graph.groups, 0.5, 0))

    assert {name: value.shape for name, value in model.state_dict().items()} == before


@pytest.mark.parametrize(
    ("slot", "message"),
    [
        ([torch.zeros(3, 3)], "SGD keeps a list as 'basis', and cannot be cut along"),
        (torch.zeros(40, 1, 1, 1), r"SGD keeps 'basis' of shape \(40, 1, 1, 1\) for last.weight"),
    ],
    ids=["list", "factored by size"],
)
def test_state_whose_axes_nothing_tells_is_refused(slot: Any, message: str) -> None:
    model = network()
    live, graph, optimizer = alive(model)
    optimizer.state[model.get_parameter("last.weight")]["basis"] = slot

    with pytest.raises(lp.ModelMismatch, match=message):
        live.cut(random_kept(graph.groups, 0.5, 0))


def test_an_optimizer_around_another_is_refused_by_name() -> None:
    model = network()
    graph = lp.trace(model.eval(), EXAMPLE)
    timm = pytest.importorskip("timm.optim")
    optimizer = timm.create_optimizer_v2(model, opt="lookahead_sgd", lr=0.1)

    with pytest.raises(lp.ModelMismatch, match="Lookahead keeps another optimizer as '_base_opt"):
        LiveNetwork(model, graph, optimizer)


def test_training_goes_on_while_the_last_loss_is_still_alive() -> None:
    model = network()
    live, graph, optimizer = alive(model)
    loss = descend(model, optimizer)

    live.cut(random_kept(graph.groups, 0.5, 0))
    descend(model, optimizer)

    assert loss.grad_fn is not None


def test_half_accumulated_gradients_survive_a_cut() -> None:
    model = network()
    model.eval()  # so that the small network's gradients are the large one's
    live, graph, _ = alive(model)
    model.eval()
    images, labels = batch(0)
    kept = random_kept(graph.groups, 0.5, 0)
    live.cut(kept)
    F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
    once = [p.grad.clone() for p in model.parameters() if p.grad is not None]

    live.cut(live.kept)
    F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]

    twice = [p.grad for p in model.parameters()]
    assert all(torch.allclose(b, 2 * a) for a, b in zip(once, twice, strict=True) if b is not None)


def test_weights_that_have_their_channels_last_keep_them_there() -> None:
    model = network().to(memory_format=torch.channels_last)
    live, graph, optimizer = alive(model, momentum=0.9)
    descend(model, optimizer)

    live.cut(random_kept(graph.groups, 0.5, 0))

    weight = model.get_parameter("inner.0.weight")
    assert not weight.is_contiguous()
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert optimizer.state[weight]["momentum_buffer"].stride() == weight.stride()


def test_a_channel_that_is_gone_cannot_stay() -> None:
    live, graph, _ = alive(network())
    everything = dict(live.kept)
    live.cut(random_kept(graph.groups, 0.5, 0))

    with pytest.raises(lp.ModelMismatch, match="has been cut away and cannot stay"):
        live.cut(everything)


def test_wrappers_are_seen_through() -> None:
    model = network()
    graph = lp.trace(model.eval(), EXAMPLE)
    averaged = torch.optim.swa_utils.AveragedModel(nn.DataParallel(model))
    compiled: Any = torch.compile(model, backend="eager")

    assert type(unwrapped(averaged, graph)) is type(model)
    assert unwrapped(compiled, graph) is model
    assert unwrapped(model, graph) is model


def test_a_network_that_was_cut_before_is_refused() -> None:
    model = network()
    graph = lp.trace(model.eval(), EXAMPLE)
    slice_model(model, graph.groups, {"inner.0": np.arange(8).tolist()})

    with pytest.raises(lp.ModelMismatch, match="give the dense one"):
        unwrapped(model, graph)
