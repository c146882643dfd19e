"""Networks that join, split, shuffle and fold their channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.networks.parts import ConvNorm, Head


class Concatenated(nn.Module):
    """Two branches of different widths that one layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = ConvNorm(3, 6), ConvNorm(3, 10)
        self.norm = nn.BatchNorm2d(16)
        self.both = ConvNorm(16, 8)
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([self.left(x), self.right(x)], dim=1)
        return self.head(self.both(self.norm(joined)))  # type: ignore[no-any-return]


class Shuffled(nn.Module):
    """Channels are split, one half passes, and both are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.worked = ConvNorm(3, 16), ConvNorm(8, 8)
        self.head = Head(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        passed, worked = self.stem(x).chunk(2, dim=1)
        x = torch.cat([passed, self.worked(worked)], dim=1)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        return self.head(x.reshape(batch, channels, height, width))  # type: ignore[no-any-return]


class ShuffledAgain(nn.Module):
    """A trunk that is chunked and shuffled block by block, of a width that halves only once."""

    def __init__(self, half: int = 10, blocks: int = 3) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 2 * half)
        self.blocks = nn.ModuleList(ConvNorm(half, half) for _ in range(blocks))
        self.after = nn.Conv2d(2 * half, 8, 1)
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            passed, worked = x.chunk(2, dim=1)
            x = torch.cat([passed, block(worked)], dim=1)
            batch, channels, height, width = x.shape
            x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2)
            x = x.reshape(batch, channels, height, width)
        return self.head(self.after(x))  # type: ignore[no-any-return]


class Chunked(nn.Module):
    """Two halves of one layer go to two readers: wrong where positions are not followed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 16)
        self.left, self.right = ConvNorm(8, 6), ConvNorm(8, 6)
        self.head = Head(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u, v = self.stem(x).chunk(2, dim=1)
        return self.head(self.left(u) + self.right(v))  # type: ignore[no-any-return]


class ChunkedUnevenly(nn.Module):
    """Fourteen channels in three chunks: the last one is shorter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = ConvNorm(3, 14), ConvNorm(5, 5), ConvNorm(5, 5)
        self.head = Head(14)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second, third = self.stem(x).chunk(3, dim=1)
        first = self.first(first)
        second = self.second(first + second)
        return self.head(torch.cat([first, second, third], dim=1))  # type: ignore[no-any-return]


class Flattened(nn.Module):
    """A linear layer reads several entries per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(ConvNorm(3, 8), nn.AdaptiveAvgPool2d(3))
        self.hidden, self.out = nn.Linear(8 * 9, 20), nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = torch.flatten(self.features(x), 1)
        return self.out(F.relu(self.hidden(flat)))  # type: ignore[no-any-return]


class PaddedShortcut(nn.Module):
    """A shortcut without parameters that adds channels of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.back = ConvNorm(3, 8), ConvNorm(8, 12), nn.Conv2d(12, 16, 1)
        self.head = Head(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        shortcut = F.pad(x[:, :, ::1, ::1], (0, 0, 0, 0, 4, 4))
        return self.head(shortcut + self.back(self.wide(x)))  # type: ignore[no-any-return]


class Gated(nn.Module):
    """One half of the channels gates the other one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 20, 3, padding=1), Head(10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.glu(self.stem(x), dim=1))  # type: ignore[no-any-return]


class Upscaled(nn.Module):
    """Channels become pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.after = ConvNorm(3, 32), ConvNorm(8, 6)
        self.head = Head(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.after(F.pixel_shuffle(self.stem(x), 2)))  # type: ignore[no-any-return]


class Selected(nn.Module):
    """Branches are stacked, weighed by a softmax over branches, and summed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze = ConvNorm(3, 6), nn.Conv2d(8, 4, 1)
        self.first, self.second = ConvNorm(6, 8), ConvNorm(6, 8, 1)
        self.weigh, self.head = nn.Conv2d(4, 16, 1), Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        branches = torch.stack([self.first(x), self.second(x)], dim=1)
        gate = self.weigh(F.relu(self.squeeze(branches.sum(dim=1).mean((2, 3), keepdim=True))))
        batch, _, channels, *_ = branches.shape
        weights = torch.softmax(gate.view(batch, 2, channels, 1, 1), dim=1)
        return self.head((branches * weights).sum(dim=1))  # type: ignore[no-any-return]
