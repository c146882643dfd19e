"""Networks of convolutions: norms, residual sums, gates, layers of every kind."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.networks.parts import ConvNorm, Head


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


class SoftmaxOverChannels(nn.Module):
    """Channels that are mixed without a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mixed, self.after = ConvNorm(3, 8), ConvNorm(8, 8), ConvNorm(8, 8)
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.after(torch.softmax(self.mixed(self.stem(x)), dim=1)))  # type: ignore[no-any-return]


class Blurred(nn.Module):
    """One filter without parameters for all channels."""

    kernel: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.channels = 10
        self.stem, self.after = ConvNorm(3, 10), ConvNorm(10, 8)
        self.register_buffer("kernel", torch.full((1, 1, 3, 3), 1 / 9))
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel = self.kernel.expand(self.channels, 1, 3, 3)
        blurred = F.conv2d(self.stem(x), kernel, padding=1, groups=self.channels)
        return self.head(self.after(blurred))  # type: ignore[no-any-return]


class Normalised(nn.Module):
    """LayerNorm over tokens' channels and GroupNorm over feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.conv = nn.Conv2d(16, 12, 4, 4)
        self.norm, self.up, self.down = nn.LayerNorm(12), nn.Linear(12, 20), nn.Linear(20, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(F.relu(self.grouped(self.stem(x)))).flatten(2).transpose(1, 2)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x.mean(dim=1))  # type: ignore[no-any-return]


class NormalisedByItself(nn.Module):
    """GroupNorms of as many groups as channels: with weights, without, and as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 10
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(16, 16)
        self.middle, self.bare = nn.Conv2d(16, 12, 3), nn.GroupNorm(12, 12, affine=False)
        self.last = nn.Conv2d(12, self.channels, 3)
        self.head = Head(self.channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bare(self.middle(F.relu(self.norm(self.stem(x))))))
        return self.head(F.relu(F.group_norm(self.last(x), self.channels)))  # type: ignore[no-any-return]
