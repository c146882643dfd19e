"""What the small networks are made of."""

from __future__ import annotations

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
