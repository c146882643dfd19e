"""Channels are cut under poolings that run along them, as of local response norm."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch
from benchmarks.coverage.judge import judge
from torch import Tensor, nn

from latprune.export import export_onnx
from latprune.graph.slicing import slice_model, zero_channels
from latprune.graph.tracing import trace
from latprune.graph.verifying import random_kept
from tests.graph.test_tracing import EXAMPLE, cut_at_random, is_right

if TYPE_CHECKING:
    from pathlib import Path


class Averaged(nn.Module):
    """Divides every channel by what is made of an average along the channels of their squares."""

    def __init__(self, average: nn.Module) -> None:
        super().__init__()
        self.average = average

    def forward(self, x: Tensor) -> Tensor:
        mean: Tensor = self.average(x.square().unsqueeze(1)).squeeze(1)
        return x / (1 + mean) ** 0.75


def between(norm: nn.Module, *, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.ReLU(), norm, nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 12, 3, groups=groups), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(12, 5),
    ).eval()


NORMS = {
    "torch": nn.LocalResponseNorm(5, alpha=0.5),
    "torch, even": nn.LocalResponseNorm(4, alpha=0.5),
    "longer than the axis is after a cut": nn.LocalResponseNorm(15, alpha=0.5),
    "of squares": Averaged(
        nn.Sequential(nn.ConstantPad3d((0, 0, 0, 0, 2, 2), 0.0), nn.AvgPool3d((5, 1, 1), 1))
    ),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("groups", [1, 2])
def test_channels_under_a_local_response_norm_are_cut_and_marked(name: str, groups: int) -> None:
    model = between(NORMS[name], groups=groups)

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"0": 16 // groups, "4": 12 // groups}
    assert "averaged with its neighbours" in graph.group("0").approximate
    assert not graph.group("4").approximate
    assert is_right(model, graph)
    assert is_right(model, graph, share=0.9)
    assert any("pooling along channels" in name for name in graph.unpriced)
    assert "0" not in trace(model, EXAMPLE, exact=True).widths


def test_so_are_the_channels_of_sequences() -> None:
    model = nn.Sequential(
        *(nn.Conv1d(3, 16, 3), nn.ReLU(), nn.LocalResponseNorm(3, alpha=0.5)),
        *(nn.Conv1d(16, 12, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(12, 5)),
    )

    graph = trace(model.eval(), EXAMPLE[..., 0])

    assert graph.widths == {"0": 16, "3": 12}
    assert is_right(model, graph, EXAMPLE[..., 0])


@pytest.mark.parametrize("groups", [1, 2])
def test_an_average_that_pads_by_itself_keeps_as_many_channels_as_its_window_has(
    groups: int,
) -> None:
    """As networks have it that came from Caffe: torch refuses fewer."""
    model = between(Averaged(nn.AvgPool3d((5, 1, 1), 1, padding=(2, 0, 0))), groups=groups)

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"0": 16 // groups, "4": 12 // groups}
    assert graph.group("0").multiple == 8 // groups
    assert is_right(model, graph)
    assert is_right(model, graph, share=0.9)


def test_a_norm_of_single_channels_is_exact() -> None:
    model = between(nn.LocalResponseNorm(1, alpha=0.5))

    graph = trace(model, EXAMPLE)

    assert not graph.group("0").approximate
    assert judge(model, lambda m: cut_at_random(m, graph), EXAMPLE).holds == "exact"


def test_a_cut_network_is_near_the_masked_one() -> None:
    model = between(nn.LocalResponseNorm(5))  # with torch's own numbers
    graph = trace(model, EXAMPLE)
    kept = random_kept(graph.groups, share=0.5, seed=0)
    small, masked = copy.deepcopy(model), copy.deepcopy(model)
    slice_model(small, graph.groups, kept)
    zero_channels(masked, graph.groups, kept)

    assert graph.widths == {"0": 16, "4": 12}
    with torch.no_grad():
        dense, found, expected = model(EXAMPLE), small(EXAMPLE), masked(EXAMPLE)

    assert (found - expected).abs().max() < 0.01 * (dense - expected).abs().max()


def test_a_cut_network_with_such_norms_is_exported(tmp_path: Path) -> None:
    model = between(nn.LocalResponseNorm(5, alpha=0.5))
    small = cut_at_random(model, trace(model, EXAMPLE))
    assert small.get_submodule("0").out_channels == 11

    export_onnx(small, EXAMPLE, tmp_path / "small.onnx")  # which compares what it writes

    assert (tmp_path / "small.onnx").is_file()


@pytest.mark.parametrize(
    "average",
    [
        nn.Sequential(nn.ConstantPad3d((0, 0, 0, 0, 4, 0), 0.0), nn.AvgPool3d((5, 1, 1), 1)),
        nn.Sequential(nn.AvgPool3d((2, 1, 1), (2, 1, 1)), nn.Upsample(scale_factor=(2, 1, 1))),
        nn.Sequential(nn.AvgPool3d((5, 1, 1), 1), nn.ConstantPad3d((0, 0, 0, 0, 2, 2), 0.0)),
        nn.AvgPool3d(3, stride=1, padding=1),
        nn.MaxPool3d((3, 1, 1), stride=1, padding=(1, 0, 0)),
    ],
    ids=["of those before", "of pairs", "without the ends", "of places, too", "the largest"],
)
def test_channels_that_another_pooling_runs_along_stay(average: nn.Module) -> None:
    graph = trace(between(Averaged(average)), EXAMPLE)

    assert graph.widths == {"4": 12}
    assert any(f.where == "0" and "mixes it in 2" in f.reason for f in graph.frozen)


class Columns(nn.Module):
    """Reads text: every column of a feature map is a step, its channels pooled each for itself."""

    def __init__(self, pool: nn.Module, *, read: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
        self.pool, self.head = pool, nn.Linear(read, 5)

    def forward(self, x: Tensor) -> Tensor:
        by_column = self.features(x).permute(0, 3, 1, 2)
        steps: Tensor = self.head(self.pool(by_column).squeeze(3))
        return steps


@pytest.mark.parametrize("kind", [nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d])
def test_an_adaptive_pooling_passes_channels_that_it_leaves_apart(kind: type[nn.Module]) -> None:
    model = Columns(kind((None, 1))).eval()

    graph = trace(model, EXAMPLE, exact=True)

    assert graph.widths == {"features.0": 16}
    assert is_right(model, graph)


@pytest.mark.parametrize("size", [16, 8])
def test_an_adaptive_pooling_to_a_number_of_channels_that_is_written_down_keeps_them(
    size: int,
) -> None:
    assert not trace(Columns(nn.AdaptiveAvgPool2d((size, 1)), read=size), EXAMPLE).groups
