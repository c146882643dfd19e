"""Small networks, one per mechanism that a graph must follow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class ConvNorm(nn.Sequential):
    def __init__(self, into: int, out: int, kernel: int = 3, *, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(into, out, kernel, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
        )


class Head(nn.Sequential):
    def __init__(self, into: int, out: int = 5) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(into, out))


class Plain(nn.Module):
    """Two convolutions and a head: the smallest network with two groups."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = ConvNorm(3, width)
        self.second = ConvNorm(width, 2 * width)
        self.head = Head(2 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x)))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """A trunk that several layers write."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 12)
        self.inner = ConvNorm(12, 10)
        self.outer = nn.Conv2d(10, 12, 1)
        self.head = Head(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.outer(self.inner(x)))  # type: ignore[no-any-return]


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


class PreNorm(nn.Module):
    """The norm comes before the convolution, behind a pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.norm = nn.BatchNorm2d(12)
        self.conv = nn.Conv2d(12, 10, 3, padding=1)
        self.head = Head(10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.pool(self.stem(x))))
        return self.head(self.conv(y))  # type: ignore[no-any-return]


class Depthwise(nn.Module):
    """An inverted residual with a squeeze-excite gate."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depth = ConvNorm(3, 12, 1), ConvNorm(12, 12, groups=12)
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.head = Head(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depth(self.expand(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head(x * gate)  # type: ignore[no-any-return]


class Grouped(nn.Module):
    """Many narrow groups, then few wide ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ConvNorm(3, 16)
        self.many = ConvNorm(16, 16, groups=8)
        self.few = ConvNorm(16, 24, groups=2)
        self.head = Head(24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.few(self.many(self.first(x))))  # type: ignore[no-any-return]


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


class LayerScaled(nn.Module):
    """A bare parameter, and a buffer, on the channel axis."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = ConvNorm(3, 8), nn.Conv2d(8, 8, 1)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.register_buffer("shift", torch.zeros(1, 8, 1, 1))
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.branch(x) * self.scale + self.shift)  # type: ignore[no-any-return]


class Transposed(nn.Module):
    """Down and up again; outputs an image."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 10, 4, 2, 1), nn.BatchNorm2d(10), nn.ReLU())
        self.up = nn.ConvTranspose2d(10, 6, 2, 2)
        self.out = nn.Conv2d(6, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(F.relu(self.up(self.down(x))))  # type: ignore[no-any-return]


class SharedLayer(nn.Module):
    """One module, called twice on inputs of different size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = ConvNorm(3, 8), ConvNorm(8, 8)
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.shared(self.stem(x))
        return self.head(self.shared(F.max_pool2d(x, 2)))  # type: ignore[no-any-return]


class Auxiliary(nn.Module):
    """A second head that only runs in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = ConvNorm(3, 8), ConvNorm(8, 8)
        self.head, self.extra = Head(8), Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        x = self.stem(x)
        out: torch.Tensor = self.head(self.body(x))
        return (out, self.extra(x)) if self.training else out


class HardCoded(nn.Module):
    """Sizes that stand in the forward code: must be found out by trying."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.free = ConvNorm(3, 12), ConvNorm(6, 8)
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = torch.split(self.stem(x), 6, dim=1)
        return self.head(self.free(first + second))  # type: ignore[no-any-return]


class SoftmaxOverChannels(nn.Module):
    """Channels that are mixed without a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mixed, self.after = ConvNorm(3, 8), ConvNorm(8, 8), ConvNorm(8, 8)
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.after(torch.softmax(self.mixed(self.stem(x)), dim=1)))  # type: ignore[no-any-return]


EVERY = (
    Plain,
    Residual,
    Concatenated,
    Depthwise,
    Grouped,
    Shuffled,
    Chunked,
    Flattened,
    PaddedShortcut,
    LayerScaled,
    Transposed,
    SharedLayer,
    Auxiliary,
    HardCoded,
    SoftmaxOverChannels,
)
