"""Layers whose weight is made of other parameters: cut, or frozen with a reason."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

import latprune as lp
from latprune.gradual.live import LiveNetwork
from latprune.graph.reparametrised import gains_made_up
from latprune.graph.slicing import zeroed
from latprune.graph.tracing import trace
from latprune.graph.verifying import random_kept
from tests.test_surgery import a_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Wrap = Callable[[nn.Module], nn.Module]

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def older(module: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning, match="weight_norm"):
        return torch.nn.utils.weight_norm(module)


WEIGHT_NORMS = [
    older,
    parametrizations.weight_norm,
    partial(parametrizations.weight_norm, dim=-1),
]


def a_network(wrap: Wrap, *, bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        wrap(nn.Conv2d(3, 8, 3, padding=1, bias=bias)),
        nn.ReLU(),
        wrap(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=bias)),
        wrap(nn.Conv2d(8, 12, 3, padding=1, groups=2, bias=bias)),
        nn.ReLU(),
        wrap(nn.ConvTranspose2d(12, 12, 3, bias=bias)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        wrap(nn.Linear(12, 10, bias=bias)),
    ).eval()


def layers(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd | nn.Linear)]


@torch.no_grad()
def plain(model: nn.Module) -> nn.Module:
    """The same network with weights of its own."""
    twin = a_network(lambda module: module)
    for own, module in zip(layers(twin), layers(model), strict=True):
        own.weight.copy_(module.weight)
        own.bias.copy_(module.bias)
    return twin


class Residual(nn.Module):
    def __init__(self, wrap: Wrap) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = wrap(nn.Conv2d(3, 8, 3, padding=1))
        self.body = nn.Sequential(
            wrap(nn.Conv2d(8, 6, 3, padding=1)), nn.ReLU(), wrap(nn.Conv2d(6, 8, 3, padding=1))
        )
        self.head = wrap(nn.Conv2d(8, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        out: torch.Tensor = self.head((x + self.body(x)).relu())
        return out


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "wrap", [parametrizations.orthogonal, parametrizations.spectral_norm, spectral_norm]
)
def test_a_weight_made_by_an_unknown_operator_is_frozen_with_a_reason(
    wrap: Wrap, bias: bool
) -> None:
    graph = trace(a_network(wrap, bias=bias), EXAMPLE)

    assert not graph.groups
    found = {frozen.where.partition(".")[0] for frozen in graph.frozen if frozen.reason}
    assert found >= {"0", "3", "5", "8"}  # what the depthwise one writes is what it reads


class Blurred(nn.Module):
    """One filter of one channel, run over every channel by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.filter = nn.Parameter(torch.randn(1, 1, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.before(x)
        each = torch.nn.functional.conv2d(x.flatten(0, 1).unsqueeze(1), self.filter, padding=1)
        out: torch.Tensor = self.after(each.view_as(x))
        return out


def test_places_of_a_filter_are_no_channels() -> None:
    graph = trace(Blurred().eval(), EXAMPLE)

    assert graph.widths == {"before": 8}
    assert [frozen.where for frozen in graph.frozen] == ["after"]


@pytest.mark.parametrize("wrap", WEIGHT_NORMS)
def test_weights_under_weight_norm_are_cut_to_those_of_the_network_without_it(
    wrap: Wrap, tmp_path: Path
) -> None:
    model = a_network(wrap)
    graph, of_plain = trace(model, EXAMPLE), trace(plain(model), EXAMPLE)
    plan = a_plan(graph)

    small = lp.cut(model, graph, plan)
    lp.save(small, tmp_path / "small.safetensors", graph=graph, plan=plan)
    again = lp.load(tmp_path / "small.safetensors", a_network(wrap))

    assert graph.widths == of_plain.widths == {"0": 4, "3": 6, "5": 12}
    expected = lp.cut(plain(model), of_plain, plan)
    assert torch.allclose(small(EXAMPLE), expected(EXAMPLE), atol=1e-6)
    assert torch.equal(small(EXAMPLE), again(EXAMPLE))
    assert [m.extra_repr() for m in layers(small)] == [m.extra_repr() for m in layers(expected)]


@pytest.mark.parametrize("wrap", WEIGHT_NORMS)
def test_a_branch_under_weight_norm_can_go(wrap: Wrap) -> None:
    graph = trace(Residual(wrap), EXAMPLE, branches=True)

    assert [branch.groups for branch in graph.branches] == [("body.0",)]


@pytest.mark.parametrize("wrap", WEIGHT_NORMS)
def test_a_network_under_weight_norm_is_whole_again_after_it_was_masked(wrap: Wrap) -> None:
    model = a_network(wrap)
    graph = trace(model, EXAMPLE)
    before = copy.deepcopy(model.state_dict())
    whole = model(EXAMPLE)

    with zeroed(model, graph.groups, {"0": [0], "3": [1, 2], "5": [0]}):
        masked = model(EXAMPLE)

    assert masked.isfinite().all()
    assert not torch.allclose(masked, whole)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_layers_that_share_what_their_weights_are_made_of_are_cut() -> None:
    torch.manual_seed(0)
    layers = [parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1)) for _ in range(2)]
    made: Any = [layer.parametrizations["weight"] for layer in layers]
    made[1].original0, made[1].original1 = made[0].original0, made[0].original1
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *layers, nn.Conv2d(8, 4, 1)).eval()

    assert trace(model, EXAMPLE).widths == {"0": 8}


def test_a_network_under_weight_norm_is_cut_the_same_while_it_trains() -> None:
    model = a_network(parametrizations.weight_norm)
    graph = trace(model, EXAMPLE)
    kept = random_kept(graph.groups, share=0.4, seed=0)
    expected = lp.cut(model, graph, a_plan(graph))

    LiveNetwork(model, graph, torch.optim.SGD(model.parameters(), lr=0.1)).cut(kept)

    assert torch.equal(model(EXAMPLE), expected(EXAMPLE))


@pytest.mark.parametrize("wrap", [lambda module: module, parametrizations.weight_norm])
def test_a_network_is_as_it_was_where_channels_could_not_all_be_set_to_zero(wrap: Wrap) -> None:
    model = a_network(wrap)
    group, *others = trace(model, EXAMPLE).groups
    beyond = [replace(member, positions=member.positions + 999) for member in others[-1].members]
    wrong = replace(others[-1], members=tuple(beyond))
    before = copy.deepcopy(model.state_dict())

    with pytest.raises(IndexError), zeroed(model, [group, wrong], {group.name: (), wrong.name: ()}):
        pass

    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_gains_make_up_for_what_was_set_to_zero_before_an_error() -> None:
    layer = parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
    weight = layer.weight.detach().clone()

    def fail() -> None:
        layer.get_parameter("parametrizations.weight.original1").data[:, 0] = 0.0
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"), gains_made_up(layer):
        fail()

    assert torch.allclose(layer.weight[:, 1:], weight[:, 1:])
