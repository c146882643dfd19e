"""Attention within windows loses heads, wherever these are moved on the way."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latprune.graph.tracing import trace
from tests.graph.test_tracing import is_right

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Windows(nn.Module):
    """Windows lie between heads and their width when these are given their sizes."""

    def __init__(self, heads: int, window: int, *, biased: bool) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.stem = nn.Conv2d(3, 16, 1)
        self.qkv = nn.Conv2d(16, 48, 1)
        places = window**2
        self.bias = nn.Parameter(torch.randn(heads, places, places)) if biased else None
        self.out = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, c, h, w = x.shape
        n, s = self.heads, self.window
        qkv = self.qkv(x).view(b, 3, n, c // n, h // s, s, w // s, s)
        qkv = qkv.permute(1, 0, 4, 6, 2, 5, 7, 3).reshape(3, -1, n, s * s, c // n)
        query, key, value = qkv.unbind(0)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=self.bias)
        y = y.view(b, h // s, w // s, n, s, s, c // n).permute(0, 3, 6, 1, 4, 2, 5)
        out: Tensor = self.head((x + self.out(y.reshape(b, c, h, w))).mean((2, 3)))
        return out


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("heads", "window"), [(4, 4), (2, 4), (4, 2)])
def test_heads_go_where_windows_lie_between_them_and_their_width(
    heads: int, window: int, biased: bool
) -> None:
    model = Windows(heads, window, biased=biased).eval()

    graph = trace(model, EXAMPLE)

    assert graph.widths["stem"] == heads
    assert is_right(model, graph, EXAMPLE)
