"""A branch that can go leaves what the network computes without its channels."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any

import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from latprune.errors import ModelMismatch
from latprune.graph.groups import Branch
from latprune.graph.removing import Emptied, added, holds, remove_branches
from latprune.graph.slicing import zero_channels
from latprune.graph.tracing import trace
from latprune.graph.verifying import random_kept, randomise
from latprune.tuning import recalibrate
from tests import blocks, networks

if TYPE_CHECKING:
    from collections.abc import Collection

    from latprune.graph.groups import PruningGraph

EXAMPLE = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
GRAPHS: dict[type[nn.Module], PruningGraph] = {
    network: trace(network(), EXAMPLE, branches=True)
    for network in (*blocks.WITH_BRANCHES, networks.Residual)
}


def kept_without(
    graph: PruningGraph, gone: Collection[str], *, share: float = 0.0
) -> dict[str, list[int]]:
    """Keep nothing of some branches, and of all else most channels."""
    kept = {group.name: list(range(group.channels)) for group in graph.groups}
    if share:
        kept = random_kept(graph.groups, share=share, seed=1, ties=graph.ties)
    for branch in graph.branches:
        if branch.name in gone:
            kept |= {group: [] for group in branch.groups}
    return kept


def both(
    model: nn.Module, graph: PruningGraph, kept: dict[str, list[int]]
) -> tuple[nn.Module, nn.Module]:
    """Give the network that ignores channels, the judge, and the one without them; in float64."""
    masked, small = copy.deepcopy(model).double(), copy.deepcopy(model).double()
    zero_channels(masked, graph.groups, kept)
    remove_branches(small, graph.groups, graph.branches, kept)
    return masked, small


def relative_error(masked: nn.Module, small: nn.Module, example: torch.Tensor) -> float:
    with torch.no_grad():
        expected, found = masked(example.double()), small(example.double())
    return float((expected - found).abs().max() / expected.abs().max())


@given(st.sampled_from(list(GRAPHS)), st.data())
def test_without_some_branches_a_network_computes_what_it_does_with_their_channels_unread(
    network: type[nn.Module], data: st.DataObject
) -> None:
    graph = GRAPHS[network]
    gone = data.draw(st.sets(st.sampled_from([branch.name for branch in graph.branches])))
    statistics = any(group.approximate for group in graph.groups)
    share = data.draw(st.just(0.0) if statistics else st.sampled_from([0.0, 0.4]))
    torch.manual_seed(0)
    model = network().eval()
    randomise(model)

    masked, small = both(model, graph, kept_without(graph, gone, share=share))

    assert relative_error(masked, small, EXAMPLE) < 1e-9


def test_every_way_to_add_to_a_trunk_is_found() -> None:
    found = {
        network.__name__: {branch.name: branch.groups for branch in graph.branches}
        for network, graph in GRAPHS.items()
    }

    assert found == {
        "Residuals": {f"blocks.{i}": (f"blocks.{i}.first.0",) for i in range(3)},
        "Inverteds": {
            f"blocks.{i}": (f"blocks.{i}.expand.0", f"blocks.{i}.squeeze") for i in range(2)
        },
        "Mixers": {
            **{f"blocks.{i}.up1": (f"blocks.{i}.up1",) for i in range(2)},
            **{f"blocks.{i}.mlp": (f"blocks.{i}.mlp.0",) for i in range(2)},
        },
        "BothSides": {"left": ("left.0.0",)},
        "Leakies": {f"blocks.{i}.first": (f"blocks.{i}.first.0",) for i in range(2)},
        "Residual": {"inner": ("inner.0",)},
    }


@pytest.mark.parametrize("network", [*blocks.WITHOUT, networks.Plain, networks.Concatenated])
def test_what_does_more_than_add_a_constant_stays(network: type[nn.Module]) -> None:
    assert trace(network(), EXAMPLE, branches=True).branches == ()


@pytest.mark.parametrize("network", [blocks.Asking, blocks.AskingToTrain])
def test_a_block_that_is_asked_for_more_than_its_result_stays(network: type[nn.Module]) -> None:
    graph = trace(network(), EXAMPLE, branches=True)

    assert [branch.name for branch in graph.branches] == ["blocks.1"]
    assert graph.in_branches == {"blocks.0.first.0", "blocks.1.first.0"}


def test_a_block_that_is_asked_for_more_stays_where_outputs_tell_nothing() -> None:
    class Asked(blocks.Asking):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = self.blocks
            x = first(self.stem(x))
            x = self.head(second(x) if hasattr(first, "down") else x)
            return torch.relu(x - 1e4)

    graph = trace(Asked(), EXAMPLE, branches=True)

    assert [branch.name for branch in graph.branches] == ["blocks.1"]


def test_a_block_whose_hook_leads_to_a_network_that_keeps_its_results_stays() -> None:
    graph = trace(blocks.Keeping(), EXAMPLE, branches=True)

    assert [branch.name for branch in graph.branches] == ["blocks.1"]


@pytest.mark.parametrize("network", blocks.TOLD)
def test_what_a_block_is_told_beside_its_input_is_not_lost(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = network().eval()
    graph = trace(model, EXAMPLE, branches=True)
    gone = {branch.name for branch in graph.branches}

    masked, small = both(model, graph, kept_without(graph, gone))

    assert "block.first.0" in graph.in_branches
    assert relative_error(masked, small, 2 * EXAMPLE.flip(0)) < 1e-9


def test_a_block_that_changes_its_input_in_place_is_judged_by_the_input_that_it_was_given() -> None:
    block = Emptied(blocks.Preactivated().double())
    nn.init.zeros_(block.block.get_parameter("branch.3.weight"))
    shortcut = Branch(
        name="block",
        groups=(),
        layers=(),
        modules=("block.branch",),
        block="block",
        takes=(2, 8, 6, 6),
        trunk="",
        relu=False,
        axis=-3,
    )

    assert added(block, shortcut) is None
    assert not holds(block, shortcut, torch.zeros(8, dtype=torch.float64))


def test_each_block_of_a_long_stage_costs_as_little_to_prove_as_of_a_short_one() -> None:
    runs = {}
    for count in (10, 20):
        blocks.Counted.runs = 0
        graph = trace(blocks.Stage(count), EXAMPLE, branches=True)
        runs[count] = blocks.Counted.runs
        assert [branch.name for branch in graph.branches] == [f"blocks.{i}" for i in range(count)]

    assert runs[20] <= 2 * runs[10]


class SeveralAdded(nn.Module):
    """Two branches are added to a trunk in one go."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.left, self.right = (
            nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 1)) for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.left(x) + self.right(x)
        y: torch.Tensor = self.head(x)
        return y


@pytest.mark.parametrize("gone", [{"left"}, {"right"}, {"left", "right"}])
def test_of_several_branches_added_to_one_trunk_each_can_go(gone: set[str]) -> None:
    model = SeveralAdded().eval()
    graph = trace(model, EXAMPLE, branches=True)

    assert [branch.name for branch in graph.branches] == ["left", "right"]
    assert graph.in_branches == {"left.0", "right.0"}
    masked, small = both(model, graph, kept_without(graph, gone))
    assert relative_error(masked, small, EXAMPLE) < 1e-9


def test_branches_that_can_go_are_looked_for_only_if_asked() -> None:
    assert trace(blocks.Residuals(), EXAMPLE).branches == ()


@pytest.mark.parametrize("network", list(GRAPHS))
def test_groups_in_branches_are_known_without_asking(network: type[nn.Module]) -> None:
    inside = {group for branch in GRAPHS[network].branches for group in branch.groups}

    assert trace(network(), EXAMPLE).in_branches == GRAPHS[network].in_branches == inside


def test_a_group_is_in_a_branch_even_where_that_cannot_go() -> None:
    inside = {network.__name__: trace(network(), EXAMPLE).in_branches for network in blocks.WITHOUT}

    assert inside == {
        "Multiplied": frozenset(),
        "Bordered": {"branch.0.0"},
        "ReadTwice": frozenset(),
        "Activated": {"block.branch.1"},
    }


@pytest.mark.parametrize("network", blocks.WITH_BRANCHES)
def test_a_network_without_branches_trains_all_of_its_parameters(network: type[nn.Module]) -> None:
    graph = GRAPHS[network]
    model = network().train()
    remove_branches(
        model,
        graph.groups,
        graph.branches,
        kept_without(graph, {branch.name for branch in graph.branches}),
    )

    model(EXAMPLE).sum().backward()

    assert all(module.training for module in model.modules())
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("network", [blocks.Residuals, blocks.Inverteds])
def test_re_estimated_batch_norms_give_the_constant_that_they_would_in_the_branch(
    network: type[nn.Module],
) -> None:
    graph = GRAPHS[network]
    torch.manual_seed(0)
    model = network().eval()
    randomise(model)
    masked, small = both(model, graph, kept_without(graph, [graph.branches[0].name], share=0.3))
    batches = [(torch.randn(16, 3, 12, 12, dtype=torch.float64), torch.zeros(16))]

    for each in (masked, small):
        recalibrate(each, batches)

    assert relative_error(masked, small, EXAMPLE) < 1e-9


def test_layers_of_a_removed_branch_are_not_run() -> None:
    graph = GRAPHS[blocks.Residuals]
    kept = kept_without(graph, ["blocks.1"])
    small = blocks.Residuals().eval()
    remove_branches(small, graph.groups, graph.branches, kept)
    ran: list[str] = []
    for name, module in small.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))

    small(EXAMPLE)

    expected = graph.shapes_at({name: len(channels) for name, channels in kept.items()})
    assert ran == [name for name, shape in expected.items() if shape.has_weights]
    assert set(graph.shapes_at(graph.widths)) - set(expected) == {
        "blocks.1.first.0",
        "blocks.1.second.0",
    }


def test_widths_of_0_outside_removed_branches_are_refused() -> None:
    graph = GRAPHS[blocks.Inverteds]
    widths = graph.widths
    half = {**widths, "blocks.0.squeeze": 0}
    whole = {**half, "blocks.0.expand.0": 0}
    kept = {name: list(range(width)) for name, width in half.items()}

    assert [graph.allows(at) for at in (widths, half, whole)] == [True, False, True]
    with pytest.raises(ModelMismatch, match=r"no channel of blocks\.0\.squeeze"):
        remove_branches(blocks.Inverteds(), graph.groups, graph.branches, kept)


def test_a_graph_says_which_branches_can_go() -> None:
    text = GRAPHS[blocks.Inverteds].describe()

    assert "branches that can go as a whole:\n  blocks.0: with blocks.0.expand.0, " in text


REAL = (
    ("torchvision:resnet18", 8),
    ("torchvision:mobilenet_v2", 10),
    ("torchvision:efficientnet_b0", 9),
    ("timm:convnext_atto", 12),
    ("timm:vit_tiny_patch16_224", 24),
)


def build(name: str) -> nn.Module:
    library, _, name = name.partition(":")
    sizes: dict[str, Any] = {"img_size": 64} if name.startswith("vit") else {}
    model: nn.Module = (
        torchvision.models.get_model(name, weights=None)
        if library == "torchvision"
        else timm.create_model(name, **sizes)
    )
    return model


@pytest.mark.parametrize(("name", "count"), REAL)
def test_published_networks_lose_branches_exactly(name: str, count: int) -> None:
    torch.manual_seed(0)
    model = build(name).eval()
    randomise(model)
    example = torch.randn(1, 3, 64, 64)
    graph = trace(model, example, branches=True)
    statistics = any(group.approximate for group in graph.groups)
    every_other = {branch.name for branch in itertools.islice(graph.branches, 0, None, 2)}
    kept = kept_without(graph, every_other, share=0.0 if statistics else 0.3)

    masked, small = both(model, graph, kept)

    assert len(graph.branches) == count
    assert relative_error(masked, small, example) < 1e-9
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


class TwoInARow(nn.Module):
    """Blocks of two branches each, of which a shortcut could stand for neither."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Sequential(nn.Conv2d(4, 4, 1), blocks.Counted(), nn.Conv2d(4, 4, 1))
            self.widen = nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.mix(x)
            return x + self.widen(x)  # type: ignore[no-any-return]

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)
        self.blocks = nn.Sequential(*(self.Block() for _ in range(4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)))  # type: ignore[no-any-return]


def test_the_ways_to_remove_a_branch_share_the_runs_that_they_ask_for() -> None:
    model = TwoInARow()
    blocks.Counted.runs = 0
    trace(model, EXAMPLE)
    without = blocks.Counted.runs

    blocks.Counted.runs = 0
    graph = trace(model, EXAMPLE, branches=True)

    assert len(graph.branches) == 8
    assert blocks.Counted.runs - without <= 80  # it was 104 when every way ran the block anew
