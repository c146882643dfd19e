"""Channels are cut under EvoNorm, which divides by one deviation for each block of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from benchmarks.coverage.judge import judge
from torch import Tensor, nn

from latprune.graph.tracing import trace
from tests.graph.test_tracing import EXAMPLE, cut_at_random, is_right

if TYPE_CHECKING:
    from collections.abc import Callable


class Evolved(nn.Module):
    """EvoNorm S0 (Liu et al., 2020), as timm has it."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.v, self.weight = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        blocks = x.reshape(b, self.groups, c // self.groups, h, w)
        deviation = blocks.var(dim=(2, 3, 4), unbiased=False, keepdim=True).add(1e-5).sqrt()
        whole = deviation.expand(blocks.shape).reshape(b, c, h, w)
        v, weight, bias = (p.view(1, -1, 1, 1) for p in (self.v, self.weight, self.bias))
        return x * (x * v).sigmoid() / whole * weight + bias


class FourBlocks(nn.Module):
    """The same with a number of blocks that is written into the code."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.size()
        blocks = torch.reshape(x, (b, 4, c // 4, h, w))
        variance = torch.var(blocks, dim=(2, 3, 4), keepdim=True).expand_as(blocks)
        return x / torch.reshape(variance.add(1e-5).sqrt(), (b, c, h, w))


def between(norms: Callable[[], nn.Module], *, groups: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3), norms(), nn.Conv2d(16, 16, 3, groups=groups), norms()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)),
    ).eval()


def test_norms_of_larger_blocks_than_a_grouped_convolution_has_groups_are_cut_within_these() -> (
    None
):
    model = between(lambda: Evolved(16, 2), groups=2)

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"0#within": 8, "2": 8}
    assert all("var over its channels" in group.approximate for group in graph.groups)
    assert is_right(model, graph)
    assert is_right(model, graph, share=0.9)
    assert not trace(model, EXAMPLE, exact=True).groups


def test_whole_blocks_go_exactly_and_positions_within_them_are_marked() -> None:
    model = between(lambda: Evolved(16, 4), groups=1)

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"0": 4, "2": 4, "0#within": 4, "2#within": 4}
    assert {g.name for g in graph.groups if g.approximate} == {"0#within", "2#within"}
    assert is_right(model, graph)
    exact = trace(model, EXAMPLE, exact=True)
    assert exact.widths == {"0": 4, "2": 4}
    assert judge(model, lambda m: cut_at_random(m, exact), EXAMPLE).holds == "exact"


def test_blocks_whose_number_is_written_into_the_code_are_cut_within() -> None:
    model = between(FourBlocks, groups=1)

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"0#within": 4, "2#within": 4}
    assert is_right(model, graph)


class Signed(nn.Module):
    """Turns the sign of one half."""

    def forward(self, x: Tensor) -> Tensor:
        c = x.shape[1]
        signs = torch.tensor([1.0, -1.0], dtype=x.dtype)
        return x * signs.view(1, 2, 1).expand(1, 2, c // 2).reshape(1, c, 1, 1)


@pytest.mark.parametrize(("groups", "width"), [(2, {"1": 8}), (1, {})])
def test_constants_of_whole_blocks_are_cut_where_all_blocks_lose_the_same_positions(
    groups: int, width: dict[str, int]
) -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, groups=groups), Signed()),
        *(nn.Conv2d(16, 12, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)),
    ).eval()

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"0": 8 // groups, **width, "3": 12}
    assert judge(model, lambda m: cut_at_random(m, graph), EXAMPLE).holds == "exact"
