"""Channels are followed through grouped transposed convolutions, and through the batch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from benchmarks.coverage.judge import judge
from torch import Tensor, nn

from latprune.graph.tracing import trace
from tests.graph.test_tracing import EXAMPLE, cut_at_random, is_right

if TYPE_CHECKING:
    from collections.abc import Callable


class Upsampling(nn.Module):
    """A transposed convolution of groups between two convolutions."""

    def __init__(self, groups: int, out_channels: int) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, out_channels, 4, stride=2, padding=1, groups=groups)
        self.after = nn.Conv2d(out_channels, 12, 3)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.before(x).relu()).relu()
        y: Tensor = self.head(self.after(x).relu().mean((2, 3)))
        return y


@pytest.mark.parametrize(
    ("groups", "out_channels", "widths"),
    [
        (8, 8, {"before": 8, "after": 12}),  # depthwise
        (8, 16, {"before": 8, "after": 12}),
        (4, 12, {"before": 4, "after": 12}),  # whole groups of two go
        (2, 8, {"before": 4, "up": 4, "after": 12}),  # channels within both groups go
    ],
)
def test_a_grouped_transposed_convolution_is_cut(
    groups: int, out_channels: int, widths: dict[str, int]
) -> None:
    model = Upsampling(groups, out_channels).eval()

    graph = trace(model, EXAMPLE)

    assert graph.widths == widths
    assert is_right(model, graph)


KERNEL = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]])[None, None] / 16


def in_the_batch(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    x = F.conv2d(x.reshape(b * c, 1, h, w), KERNEL.to(x), stride=2, padding=1)
    return x.reshape(b, c, h // 2, w // 2)


def in_the_batch_without_saying(x: Tensor) -> Tensor:
    b, _, h, w = x.shape
    return F.conv2d(x.view(-1, 1, h, w), KERNEL.to(x), padding=1).view(b, -1, h, w)


def by_axes(x: Tensor) -> Tensor:
    blurred = F.conv2d(x.flatten(0, 1).unsqueeze(1), KERNEL.to(x)).squeeze(1)
    return blurred.unflatten(0, x.shape[:2])  # type: ignore[no-any-return, no-untyped-call]


def repeated(x: Tensor) -> Tensor:
    c = x.shape[1]
    return F.conv2d(x, KERNEL.to(x).repeat(c, 1, 1, 1), groups=c)


class Blurred(nn.Module):
    def __init__(self, blur: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 8, 3, padding=1)
        self.blur = blur
        self.after = nn.Conv2d(8, 12, 3)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blur(self.before(x).relu())
        y: Tensor = self.head(self.after(x).relu().mean((2, 3)))
        return y


@pytest.mark.parametrize("blur", [in_the_batch, in_the_batch_without_saying, by_axes, repeated])
def test_channels_that_are_blurred_one_by_one_are_cut(blur: Callable[[Tensor], Tensor]) -> None:
    model = Blurred(blur).eval()

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"before": 8, "after": 12}
    assert is_right(model, graph)


def test_a_kernel_that_differs_from_channel_to_channel_keeps_them() -> None:
    kernels = torch.arange(8.0)[:, None, None, None]
    model = Blurred(partial(F.conv2d, weight=kernels, groups=8)).eval()

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"after": 12}
    assert any(frozen.where == "before" and frozen.reason for frozen in graph.frozen)


def test_a_convolution_of_channels_in_the_batch_is_not_priced_as_one_of_samples() -> None:
    graph = trace(Blurred(in_the_batch), EXAMPLE)

    assert [layer.name for layer in graph.layers if layer.shape.has_weights] == [
        *("before", "after", "head")
    ]
    assert any("convolution of channels in the batch" in name for name in graph.unpriced)


class Gated(nn.Module):
    """Every channel is weighed by what a convolution along the channels makes of their means."""

    def __init__(self, *convolutions: nn.Module, squeezed: bool = False) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 8, 3, padding=1)
        self.along = nn.Sequential(*convolutions)
        self.squeezed = squeezed
        self.after = nn.Conv2d(8, 12, 3)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x).relu()
        if self.squeezed:
            means = F.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(-1, -2)
            gates = self.along(means).transpose(-1, -2).unsqueeze(-1)
        else:
            gates = self.along(x.mean((2, 3)).view(x.shape[0], 1, -1)).view(x.shape[0], -1, 1, 1)
        y: Tensor = self.head(self.after(x * gates.sigmoid()).relu().mean((2, 3)))
        return y


@pytest.mark.parametrize("squeezed", [False, True])
@pytest.mark.parametrize("kernel", [3, 5])
def test_channels_whose_attention_runs_along_them_are_cut_and_marked(
    kernel: int, squeezed: bool
) -> None:
    along = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
    model = Gated(along, squeezed=squeezed).eval()

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"before": 8, "after": 12}
    assert "past other neighbours in along.0" in graph.group("before").approximate
    assert not graph.group("after").approximate
    assert is_right(model, graph)
    assert any("convolution along channels" in name for name in graph.unpriced)
    assert trace(model, EXAMPLE, exact=True).widths == {"after": 12}


def test_hidden_channels_of_a_convolution_along_channels_are_cut_too() -> None:
    model = Gated(nn.Conv1d(1, 6, 1), nn.ReLU(), nn.Conv1d(6, 1, 3, padding=1)).eval()

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"before": 8, "along.0.weight": 6, "after": 12}
    assert is_right(model, graph)


def test_a_kernel_of_one_along_channels_has_no_neighbours() -> None:
    model = Gated(nn.Conv1d(1, 6, 1), nn.ReLU(), nn.Conv1d(6, 1, 1)).eval()

    graph = trace(model, EXAMPLE)

    assert not graph.group("before").approximate
    assert judge(model, lambda m: cut_at_random(m, graph), EXAMPLE).holds == "exact"


@pytest.mark.parametrize(
    "along",
    [
        nn.Sequential(nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(1, 1, 3)),  # reads those before
        nn.Sequential(nn.Conv1d(1, 1, 4, padding=3, dilation=2)),  # has no middle
        nn.Sequential(nn.Conv1d(1, 1, 2, stride=2), nn.Upsample(scale_factor=2)),
        nn.ConvTranspose1d(1, 1, 3, padding=1),
    ],
)
def test_channels_that_a_convolution_moves_along_themselves_stay(along: nn.Module) -> None:
    graph = trace(Gated(along).eval(), EXAMPLE)

    assert graph.widths == {"after": 12}
    assert any(frozen.where == "before" and frozen.reason for frozen in graph.frozen)


class Masked(nn.Conv2d):
    """A convolution that sees only what comes before, and masks its weight itself."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__(into, out, 3, padding=1)
        self.register_buffer("mask", torch.ones_like(self.weight))
        self.get_buffer("mask")[:, :, 1, 1:] = 0
        self.get_buffer("mask")[:, :, 2] = 0

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.get_buffer("mask")
        return super().forward(x)


def test_a_convolution_that_masks_its_weight_in_place_is_cut() -> None:
    model = nn.Sequential(Masked(3, 8), nn.ReLU(), Masked(8, 12), nn.ReLU(), nn.Conv2d(12, 5, 1))

    graph = trace(model.eval(), EXAMPLE)

    assert graph.widths == {"0": 8, "2": 12}
    assert is_right(model, graph)


class Mixed(nn.Module):
    """A convolution of channels one by one, its filters a mixture of several, as in CondConv."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.in_channels = self.out_channels = self.groups = channels
        self.filters = nn.Parameter(torch.randn(3, channels * 9))

    def forward(self, x: Tensor, shares: Tensor) -> Tensor:
        b, c, h, w = x.shape
        sizes = (b * self.out_channels, self.in_channels // self.groups, 3, 3)
        filters = (shares @ self.filters).view(sizes)
        x = F.conv2d(x.reshape(1, b * c, h, w), filters, padding=1, groups=b * self.groups)
        return x.permute(1, 0, 2, 3).view(b, self.out_channels, h, w)


class Routed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.routing = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 3)
        self.mixed, self.after = Mixed(16), nn.Conv2d(16, 12, 3)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x).relu()
        x = self.mixed(x, self.routing(x.mean((2, 3))).sigmoid())
        y: Tensor = self.head(self.after(x.relu()).relu().mean((2, 3)))
        return y


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_numbers_that_one_is_made_of_stay_equal_to_each_other(share: float) -> None:
    model = Routed().eval()

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"before": 16, "routing": 3, "after": 12}
    assert is_right(model, graph, share=share)


class Parted(nn.Module):
    """Two numbers of equal size, neither of which counts channels."""

    def __init__(self) -> None:
        super().__init__()
        self.size = self.part = 14
        self.before, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x).relu()
        b, c, *_ = x.shape
        x = x.reshape(b, c, self.size // self.part, -1)
        y: Tensor = self.head(x.mean((2, 3)))
        return y


def test_equal_numbers_that_count_no_channels_keep_none() -> None:
    model = Parted().eval()

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"before": 8}
    assert is_right(model, graph)
