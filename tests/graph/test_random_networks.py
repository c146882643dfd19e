"""Networks drawn at random from all mechanisms at once stay exact under random cuts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from latprune.graph.tracing import trace
from tests.graph.test_tracing import is_right
from tests.networks import ConvNorm, Head


class Block(nn.Module):
    """Reads and writes the same number of channels, a multiple of four."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.width, self.inner = width, inner


class Straight(Block):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__(width, inner)
        self.body = nn.Sequential(ConvNorm(width, inner), ConvNorm(inner, width, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)  # type: ignore[no-any-return]


class Residual(Straight):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


class Concatenated(Block):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__(width, inner)
        self.grow, self.merge = ConvNorm(width, inner), ConvNorm(width + inner, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.merge(torch.cat([x, self.grow(x)], dim=1))  # type: ignore[no-any-return]


class Grouped(Block):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__(width, inner)
        self.body = ConvNorm(width, width, groups=2 if inner % 8 else width // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)  # type: ignore[no-any-return]


class Depthwise(Block):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__(width, inner)
        self.expand, self.depth = ConvNorm(width, inner, 1), ConvNorm(inner, inner, groups=inner)
        self.project = nn.Conv2d(inner, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.project(self.depth(self.expand(x)))  # type: ignore[no-any-return]


class Shuffled(Block):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__(width, inner)
        self.worked = ConvNorm(width // 2, width // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        passed, worked = x.chunk(2, dim=1)
        x = torch.cat([passed, self.worked(worked)], dim=1)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        return x.reshape(batch, channels, height, width)


class Gated(Block):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__(width, inner)
        self.squeeze, self.excite = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        squeezed = F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.excite(squeezed))


class Attending(Block):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__(width, inner)
        self.heads, self.head_dim = 3, 4
        self.qkv, self.proj = nn.Linear(width, 36), nn.Linear(12, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        qkv = self.qkv(tokens).reshape(batch, -1, 3, self.heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        added: torch.Tensor = self.proj(mixed).transpose(1, 2)
        return x + added.reshape(batch, channels, height, width)


class AttendingBySizes(Block):
    """As wide as what it reads, which its code takes from the tensor."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__(width, inner)
        self.heads = 2
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        qkv = self.qkv(tokens).reshape(batch, -1, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        added: torch.Tensor = self.proj(mixed.reshape(batch, -1, channels)).transpose(1, 2)
        return x + added.reshape(batch, channels, height, width)


BLOCKS = (
    *(Straight, Residual, Concatenated, Grouped, Depthwise, Shuffled, Gated, Attending),
    AttendingBySizes,
)


class Drawn(nn.Module):
    def __init__(self, width: int, blocks: list[tuple[type[Block], int]]) -> None:
        super().__init__()
        self.stem = ConvNorm(3, width)
        self.blocks = nn.Sequential(*(kind(width, inner) for kind, inner in blocks))
        self.head = Head(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)))  # type: ignore[no-any-return]


@st.composite
def drawn_networks(draw: st.DrawFn) -> nn.Module:
    width = 4 * draw(st.integers(2, 4))
    kinds = st.tuples(st.sampled_from(BLOCKS), st.integers(3, 9))
    return Drawn(width, draw(st.lists(kinds, min_size=1, max_size=4)))


@given(model=drawn_networks(), share=st.sampled_from([0.2, 0.5, 0.8]), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_networks_are_exact_after_random_cuts(
    model: nn.Module, share: float, seed: int
) -> None:
    example = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    graph = trace(model.eval(), example)

    assume(graph.groups)  # shuffles and heads together may tie all channels into one bundle
    assert is_right(model, graph, example, share=share, seed=seed)
