"""What another tool left of a network is found again in it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import torch
from studies.cifar_resnet import resnet20
from torch import nn

import latprune as lp
from tests.test_surgery import a_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = torch.zeros(1, 3, 32, 32)


def trained() -> nn.Module:
    """A network whose norms are not all alike."""
    torch.manual_seed(0)
    dense = resnet20().eval()
    for norm in norms_of(dense):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return dense


def norms_of(network: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (module for module in network.modules() if isinstance(module, nn.BatchNorm2d))


def drawn(graph: lp.PruningGraph) -> dict[str, tuple[int, ...]]:
    """Half of the channels of every group."""
    random = torch.Generator().manual_seed(0)
    halves = (
        (group.name, torch.randperm(group.channels, generator=random)[: group.channels // 2])
        for group in graph.groups
    )
    return {name: tuple(half.sort().values.tolist()) for name, half in halves}


def cut(dense: nn.Module, graph: lp.PruningGraph, kept: dict[str, tuple[int, ...]]) -> nn.Module:
    fields = a_plan(graph).to_json()
    return lp.cut(dense, graph, lp.Plan.from_json({**fields, "kept": kept}))


def test_what_was_kept_is_found_without_the_branches_that_went() -> None:
    dense = trained()
    graph = lp.trace(dense, EXAMPLE, branches=True)
    kept = drawn(graph) | dict.fromkeys(graph.branches[1].groups, ())
    small = cut(dense, graph, kept)
    lp.recalibrate(small, [(torch.randn(8, 3, 32, 32), None)], images=8)

    assert lp.kept_channels(graph, dense, small) == kept


def test_biases_tell_where_there_are_no_norms() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3, bias=False))
    graph = lp.trace(dense.eval(), EXAMPLE)
    kept = drawn(graph)

    assert lp.kept_channels(graph, dense, cut(dense, graph, kept)) == kept


@pytest.mark.parametrize("changed", ["layer1.0.conv1.weight", "layer1.0.bn1.bias"])
def test_networks_that_are_no_mere_cut_are_refused(changed: str) -> None:
    dense = trained()
    graph = lp.trace(dense, EXAMPLE)
    small = cut(dense, graph, drawn(graph))
    with torch.no_grad():
        small.get_parameter(changed).mul_(1.01)

    with pytest.raises(lp.ModelMismatch, match=r"layer1\.0\..* trained after it was cut"):
        lp.kept_channels(graph, dense, small)


def test_another_network_is_refused() -> None:
    graph = lp.trace(trained(), EXAMPLE, branches=True)

    with pytest.raises(lp.ModelMismatch, match="nothing is left of conv1 under the names"):
        lp.kept_channels(graph, trained(), nn.Sequential(nn.Linear(2, 2)))


def test_weights_tell_where_norms_are_all_alike_as_in_a_network_that_is_not_trained() -> None:
    torch.manual_seed(0)
    dense = resnet20().eval()
    graph = lp.trace(dense, EXAMPLE)
    kept = drawn(graph)

    assert lp.kept_channels(graph, dense, cut(dense, graph, kept)) == kept


def test_weights_tell_where_there_are_neither_biases_nor_norms() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, bias=False), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, groups=16, bias=False), nn.Conv2d(16, 12, 1, bias=False)),
        *(nn.ReLU(), nn.Conv2d(12, 8, 3, bias=False)),
    )
    graph = lp.trace(dense.eval(), EXAMPLE)
    kept = drawn(graph)

    assert lp.kept_channels(graph, dense, cut(dense, graph, kept)) == kept


def test_of_equal_channels_any_may_have_stayed() -> None:
    dense = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.fill_(0.5)
    graph = lp.trace(dense, EXAMPLE)

    assert lp.kept_channels(graph, dense, cut(dense, graph, {"0": (1, 5, 6)})) == {"0": (0, 1, 2)}


def test_channels_that_nothing_tells_apart_are_refused() -> None:
    sizes = (3, 8, 8, 8, 4)
    convolutions = [nn.Conv2d(*pair, 3, bias=False) for pair in itertools.pairwise(sizes)]
    dense = nn.Sequential(*(part for one in convolutions for part in (one, nn.ReLU()))).eval()
    for alike in (convolutions[0], convolutions[-1]):
        nn.init.constant_(alike.weight, 0.5)
    graph = lp.trace(dense, EXAMPLE)

    with pytest.raises(lp.ModelMismatch, match="nothing tells which of them are left"):
        lp.kept_channels(graph, dense, cut(dense, graph, drawn(graph)))


def test_what_torch_pruning_left_can_be_reconstructed() -> None:
    torch_pruning = pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    dense = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3)),
        *(nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 8 * 8, 10)),
    ).eval()
    for norm in norms_of(dense):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    example = torch.zeros(1, 3, 12, 12)
    graph = lp.trace(dense, example)
    small = cut(dense, graph, {g.name: tuple(range(g.channels)) for g in graph.groups})
    torch_pruning.pruner.BasePruner(
        small,
        example,
        importance=torch_pruning.importance.MagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=[small.get_submodule("7")],
    ).step()
    batches = [(torch.randn(32, 3, 12, 12), None) for _ in range(4)]
    held_out = torch.randn(64, 3, 12, 12)

    def distance() -> float:
        lp.recalibrate(small, batches)
        with torch.no_grad():
            return float((small.eval()(held_out) - dense(held_out)).square().mean())

    before = distance()
    kept = lp.kept_channels(graph, dense, small)
    lp.reconstruct(small, dense, graph, kept, batches)

    assert {len(channels) for channels in kept.values()} == {8}
    assert distance() < 0.9 * before
