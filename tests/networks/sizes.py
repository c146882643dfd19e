"""Networks whose code or attributes say how many channels there are."""

from __future__ import annotations

import torch
from torch import nn

from tests.networks.parts import ConvNorm, Head


class FixedAuxiliary(nn.Module):
    """A second head whose code expects a width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = ConvNorm(3, 8), ConvNorm(8, 8)
        self.head, self.extra = Head(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        x = self.stem(x)
        out: torch.Tensor = self.head(self.body(x))
        return (out, self.extra(x.mean((2, 3)).view(-1, 8))) if self.training else out


class HardCoded(nn.Module):
    """Sizes that stand in the forward code: must be found out by trying."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.free = ConvNorm(3, 12), ConvNorm(6, 8)
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = torch.split(self.stem(x), 6, dim=1)
        return self.head(self.free(first + second))  # type: ignore[no-any-return]


class SizedMask(nn.Module):
    """Multiplies by a constant as long as there are channels, which must be as many as it says."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 12
        self.stem, self.head = ConvNorm(3, 12), Head(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if x.shape[1] != self.channels:
            raise ValueError(f"{x.shape[1]} channels, not {self.channels}")
        return self.head(x * x.new_full((1, x.shape[1], 1, 1), 0.5))  # type: ignore[no-any-return]


class ToldSplit(nn.Module):
    """Unequal parts whose sizes stand in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.widths = (5, 7)
        self.stem, self.left, self.right = ConvNorm(3, 12), ConvNorm(5, 6), ConvNorm(7, 6)
        self.head = Head(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = torch.split(self.stem(x), list(self.widths), dim=1)
        return self.head(self.left(left) + self.right(right))  # type: ignore[no-any-return]


class ToldSlice(nn.Module):
    """The first channels pass, the others are worked on; an attribute says how many."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 4
        self.stem, self.worked = ConvNorm(3, 12), ConvNorm(8, 6)
        self.head = Head(10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        worked = self.worked(x[:, self.passed :])
        return self.head(torch.cat([x[:, : self.passed], worked], dim=1))  # type: ignore[no-any-return]


class ToldRest(nn.Module):
    """A part, and the rest: one size is the difference of two attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.worked = 12, 5
        self.stem, self.part, self.head = ConvNorm(3, 12), ConvNorm(5, 5), Head(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sizes = [self.worked, self.width - self.worked]
        worked, passed = torch.split(self.stem(x), sizes, dim=1)
        return self.head(torch.cat([self.part(worked), passed], dim=1))  # type: ignore[no-any-return]
