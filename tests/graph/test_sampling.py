"""Channels are followed through operators that take each of them from other places."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from latprune.graph.tracing import trace
from tests.graph.test_tracing import EXAMPLE, is_right

if TYPE_CHECKING:
    from collections.abc import Callable


def warped(x: Tensor) -> Tensor:
    turn = torch.tensor([[0.8, 0.6, 0.1], [-0.6, 0.8, 0.0]], dtype=x.dtype)
    places = F.affine_grid(turn.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, places, align_corners=False)


def unpooled(x: Tensor) -> Tensor:
    x, places = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(x.tanh(), places, [2, 2])


def filtered(x: Tensor) -> Tensor:
    y: Tensor = torch.fft.irfft2(torch.fft.rfft2(x) * torch.complex(x[..., :7], x[..., 5:]))
    return y


def by_parts(x: Tensor) -> Tensor:
    parts = torch.view_as_real(torch.fft.rfft2(x)).relu()
    y: Tensor = torch.fft.irfft2(torch.view_as_complex(parts))
    return y


class Between(nn.Module):
    """Something is done between two convolutions."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.before, self.between = nn.Conv2d(3, 8, 3, padding=1), between
        self.after = nn.Conv2d(8, 12, 3)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.before(x).relu())
        y: Tensor = self.head(self.after(x).relu().mean((2, 3)))
        return y


@pytest.mark.parametrize("between", [warped, unpooled, filtered, by_parts])
def test_channels_that_are_sampled_one_by_one_are_cut(between: Callable[[Tensor], Tensor]) -> None:
    model = Between(between).eval()

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"before": 8, "after": 12}
    assert is_right(model, graph)


class Deformable(nn.Module):
    """A deformable convolution, whose places another one tells."""

    def __init__(self, groups: int, places: int, *, bias: bool) -> None:
        super().__init__()
        self.tell = nn.Conv2d(8, places * 18, 3, padding=1)
        self.mask = nn.Conv2d(8, places * 9, 3, padding=1)
        self.deform = DeformConv2d(8, 8, 3, padding=1, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.deform(x, self.tell(x), self.mask(x).sigmoid()).relu()
        return y


@pytest.mark.parametrize(("groups", "places", "width"), [(1, 1, 8), (2, 1, 4), (1, 2, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_deformable_convolution_is_cut(groups: int, places: int, width: int, bias: bool) -> None:
    model = Between(Deformable(groups, places, bias=bias)).eval()

    graph = trace(model, EXAMPLE)

    assert graph.widths["before"] == width
    assert graph.widths["between.deform.weight"] == (4 if groups == 2 else 8)
    assert {frozen.where for frozen in graph.frozen} >= {"between.tell", "between.mask"}
    assert is_right(model, graph)
