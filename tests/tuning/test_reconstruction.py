"""Layers of a cut network give again, as nearly as can be, what they gave in the dense one."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import latprune as lp
from latprune.errors import DataError
from latprune.tuning import reconstruction
from tests.networks import Residual
from tests.test_surgery import a_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Batches = list[tuple[Tensor, None]]


def doubled(layer: nn.Module, groups: int) -> nn.Module:
    """Make the second half of a group's channels sums of the first, from which they can be told."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    with torch.no_grad():
        for of_group, biases in zip(weight.chunk(groups), bias.chunk(groups), strict=True):
            half = len(biases) // 2
            mixed = torch.randn(half, half) / half**0.5
            of_group[half:] = torch.einsum("ij,j...->i...", mixed, of_group[:half])
            biases[half:] = mixed @ biases[:half]
    return layer


class Chain(nn.Module):
    """Two layers, the second of which is to be reconstructed, and a head."""

    def __init__(self, first: nn.Module, *rest: nn.Module, groups: int = 1) -> None:
        super().__init__()
        self.first = doubled(first, groups)
        self.rest = nn.Sequential(*rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x))  # type: ignore[no-any-return]


CHAINS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1x1": (lambda: Chain(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1)), (3, 9, 9)),
    "strided, padded": (
        lambda: Chain(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, (3, 5), stride=2, padding=(1, 2))),
        (3, 11, 9),
    ),
    "dilated, same": (
        lambda: Chain(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3, dilation=2, padding="same")),
        (3, 11, 9),
    ),
    "without bias": (
        lambda: Chain(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3, padding=1, bias=False)),
        (3, 9, 9),
    ),
    "around the edge": (
        lambda: Chain(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3, padding=1, padding_mode="replicate")),
        (3, 9, 9),
    ),
    "grouped": (
        lambda: Chain(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3, padding=1, groups=2), groups=2),
        (3, 9, 9),
    ),
    "along a line": (lambda: Chain(nn.Conv1d(3, 8, 3), nn.Conv1d(8, 6, 3, stride=2)), (3, 19)),
    "in space": (lambda: Chain(nn.Conv3d(2, 8, 3), nn.Conv3d(8, 6, 2, padding=1)), (2, 5, 6, 7)),
    "flattened": (
        lambda: Chain(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 4, 6)),
        (3, 4, 4),
    ),
    "tokens": (lambda: Chain(nn.Linear(5, 8), nn.Linear(8, 6)), (7, 5)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_what_the_channels_left_can_tell_is_told_again(name: str) -> None:
    build, shape = CHAINS[name]
    torch.manual_seed(0)
    dense = build().eval()
    example = torch.randn(1, *shape)
    graph = lp.trace(dense, example)
    (group,) = graph.groups
    plan = replace(a_plan(graph), kept={group.name: tuple(range(group.channels // 2))})
    batches = batches_of(shape)
    small = lp.cut(dense, graph, plan)
    wanted, cut = dense(example), small(example)

    found = lp.reconstruct(small, dense, graph, plan, batches)

    torch.testing.assert_close(small(example), wanted, rtol=2e-2, atol=2e-2)  # but for the ridge
    assert F.mse_loss(small(example), wanted) < F.mse_loss(cut, wanted) / 100
    (changed,) = (one for one in found if one.after < one.before)
    assert changed.layer.startswith("rest.")
    assert changed.after < 1e-3


def batches_of(shape: tuple[int, ...], *, seed: int = 1) -> Batches:
    random = torch.Generator().manual_seed(seed)
    return [(torch.randn(24, *shape, generator=random), None) for _ in range(3)]


IMAGES = batches_of((3, 12, 12))


def a_cut() -> tuple[nn.Module, lp.PruningGraph, lp.Plan]:
    torch.manual_seed(0)
    dense = Residual().eval()
    graph = lp.trace(dense, torch.zeros(1, 3, 12, 12))
    return dense, graph, a_plan(graph)


@torch.no_grad()
def distance(small: nn.Module, dense: nn.Module) -> float:
    held_out = torch.cat([images for images, _ in batches_of((3, 12, 12), seed=2)])
    return float(F.mse_loss(small.eval()(held_out), dense.eval()(held_out)))


def test_a_network_with_batch_norms_answers_more_like_the_dense_one() -> None:
    dense, graph, plan = a_cut()
    small, fitted = lp.cut(dense, graph, plan), lp.cut(dense, graph, plan)
    lp.reconstruct(fitted, dense, graph, plan, IMAGES)
    for network in (small, fitted):
        lp.recalibrate(network, IMAGES)

    assert distance(fitted, dense) < 0.8 * distance(small, dense)


def test_nothing_but_weights_changes() -> None:
    dense, graph, plan = a_cut()
    small = lp.cut(dense, graph, plan).train()
    before = copy.deepcopy([dense.state_dict(), dict(small.named_buffers())])
    names = {name for name, _ in small.named_parameters() if not name.endswith(("weight", "bias"))}

    lp.reconstruct(small, dense, graph, plan, IMAGES)

    torch.testing.assert_close([dense.state_dict(), dict(small.named_buffers())], before)
    assert all(module.training for module in small.modules())
    assert not any(module._forward_hooks for module in dense.modules())
    assert not any(module._forward_pre_hooks for module in [*dense.modules(), *small.modules()])
    assert all(p.requires_grad and p.grad is None for p in small.parameters())
    assert not names


def test_layers_that_lost_nothing_keep_their_weights() -> None:
    dense, graph, plan = a_cut()
    whole = replace(plan, kept={g.name: tuple(range(g.channels)) for g in graph.groups})
    same = lp.cut(dense, graph, whole)

    # The batch norms of `same` use other statistics meanwhile, so only the first layer is sure.
    first, *_ = lp.reconstruct(same, dense, graph, whole, IMAGES)

    assert first.before == first.after
    assert torch.equal(
        same.get_parameter(f"{first.layer}.weight"), dense.get_parameter(f"{first.layer}.weight")
    )


def test_weights_that_held_out_samples_speak_against_are_not_taken() -> None:
    torch.manual_seed(0)
    dense = Chain(nn.Linear(5, 300), nn.Tanh(), nn.Linear(300, 1)).eval()
    graph = lp.trace(dense, torch.zeros(1, 5))
    (group,) = graph.groups
    plan = replace(a_plan(graph), kept={group.name: tuple(range(296))})
    small = lp.cut(dense, graph, plan)
    before = copy.deepcopy(small.state_dict())

    # Four samples, of which one is held out, cannot fit 296 inputs.
    found = lp.reconstruct(small, dense, graph, plan, [(torch.randn(4, 5), None)])

    for one in found:
        assert one.after <= one.before
        kept = torch.equal(small.state_dict()[f"{one.layer}.weight"], before[f"{one.layer}.weight"])
        assert kept == (one.after == one.before)


def test_groups_are_fitted_as_they_would_be_together(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    build, shape = CHAINS["grouped"]
    dense = build().eval()
    graph = lp.trace(dense, torch.zeros(1, *shape))
    plan = replace(a_plan(graph), kept={group.name: (0, 1) for group in graph.groups})
    together, apart = lp.cut(dense, graph, plan), lp.cut(dense, graph, plan)

    lp.reconstruct(together, dense, graph, plan, batches_of(shape))
    monkeypatch.setattr(reconstruction, "MOST_AT_ONCE", 1)
    lp.reconstruct(apart, dense, graph, plan, batches_of(shape))

    torch.testing.assert_close(apart.state_dict(), together.state_dict())


class Odd(nn.Module):
    """Layers that are left alone: depthwise, shared, run twice, with a forward of their own."""

    def __init__(self) -> None:
        super().__init__()

        class Own(nn.Conv2d):
            def forward(self, x: Tensor) -> Tensor:
                return 2 * super().forward(x)

        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.own = Own(8, 8, 1)
        self.twice = nn.Conv2d(8, 8, 1)
        self.a, self.b = nn.Conv2d(8, 8, 1, bias=False), nn.Conv2d(8, 8, 1, bias=False)
        self.b.weight = self.a.weight
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.own(self.depthwise(self.stem(x)).relu())
        x = self.b(self.a(self.twice(self.twice(x)).relu()).relu())
        return self.head(x)  # type: ignore[no-any-return]


def test_layers_that_are_more_than_their_weights_are_left_alone() -> None:
    torch.manual_seed(0)
    dense = Odd().eval()
    graph = lp.trace(dense, torch.zeros(1, 3, 12, 12))
    plan = a_plan(graph)
    small = lp.cut(dense, graph, plan)
    before = copy.deepcopy(small.state_dict())

    found = lp.reconstruct(small, dense, graph, plan, IMAGES)

    assert {one.layer for one in found} == {"stem", "head"}
    changed = {k for k, v in small.state_dict().items() if not torch.equal(v, before[k])}
    assert changed <= {"stem.weight", "stem.bias", "head.weight", "head.bias"}
    assert "head.weight" in changed


def test_as_many_images_are_used_as_are_asked_for_and_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    dense, graph, plan = a_cut()

    def counted(batches: Iterator[Any], **options: Any) -> int:
        used = 0

        def told() -> Iterator[Any]:
            nonlocal used
            for batch in batches:
                used += 1
                yield batch

        lp.reconstruct(lp.cut(dense, graph, plan), dense, graph, plan, told(), **options)
        return used

    assert counted(iter(IMAGES), images=30) == 2
    assert counted(iter(IMAGES), images=1000) == 3
    monkeypatch.setattr(reconstruction, "MOST_NUMBERS", 25 * 3 * 12 * 12)  # at least, per layer
    assert counted(iter(IMAGES), images=1000) <= 2
    monkeypatch.setattr(reconstruction, "MOST_NUMBERS", 1)
    assert counted(iter(IMAGES), images=1000) == 1


def test_a_batch_with_nan_is_left_out() -> None:
    dense, graph, plan = a_cut()
    sound, spoilt = lp.cut(dense, graph, plan), lp.cut(dense, graph, plan)

    found = lp.reconstruct(sound, dense, graph, plan, IMAGES)
    damaged = [(torch.full_like(IMAGES[0][0], torch.nan), None), *IMAGES]

    assert lp.reconstruct(spoilt, dense, graph, plan, damaged) == found
    torch.testing.assert_close(spoilt.state_dict(), sound.state_dict(), rtol=0, atol=0)


def test_pictures_of_another_size_than_the_first_are_left_out() -> None:
    dense, graph, plan = a_cut()
    alone, beside = lp.cut(dense, graph, plan), lp.cut(dense, graph, plan)

    found = lp.reconstruct(alone, dense, graph, plan, IMAGES)
    sizes = [IMAGES[0], (torch.randn(8, 3, 16, 12), None), *IMAGES[1:]]

    assert lp.reconstruct(beside, dense, graph, plan, sizes) == found
    torch.testing.assert_close(beside.state_dict(), alone.state_dict(), rtol=0, atol=0)


def test_batches_may_differ_in_size() -> None:
    dense, graph, plan = a_cut()
    whole, apart = lp.cut(dense, graph, plan), lp.cut(dense, graph, plan)
    images = torch.cat([images for images, _ in IMAGES])

    one = lp.reconstruct(whole, dense, graph, plan, [(images, None)])
    several = lp.reconstruct(
        apart, dense, graph, plan, [(part, None) for part in torch.split(images, [30, 41, 1])]
    )

    # Positions are drawn batch by batch, but as many of every sample.
    assert [x.layer for x in one] == [x.layer for x in several]
    assert [x.after for x in one] == pytest.approx([x.after for x in several], rel=0.2, abs=0.02)


@pytest.mark.parametrize("batches", [[], [(torch.full((4, 3, 12, 12), torch.inf), None)]])
def test_images_are_needed(batches: Batches) -> None:
    dense, graph, plan = a_cut()

    with pytest.raises(DataError, match="the loader gave none without nan: check what"):
        lp.reconstruct(lp.cut(dense, graph, plan), dense, graph, plan, batches)
