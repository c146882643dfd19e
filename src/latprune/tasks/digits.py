"""Real pictures and a compact residual network with real widths, for the demonstration.

The pictures are scikit-learn's: 1,797 handwritten digits of 8x8 pixels that come with the package
(Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from latprune.errors import import_extra

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE = 16
LARGEST_SHIFT = 2
WIDTHS = (64, 128, 256)


class Split(NamedTuple):
    """The digits in two halves, each class in both alike; always the same halves."""

    train: Digits
    test: Digits


class Digits(Dataset[tuple[Tensor, int]]):
    """Pictures [1, 16, 16] in [-1, 1] and their digits; shifted by up to two pixels on request."""

    def __init__(self, pictures: Tensor, labels: Sequence[int], *, shifted: bool = False) -> None:
        self.pictures = pictures
        self.labels = tuple(labels)
        self.shifted = shifted

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = self.pictures[index]
        if self.shifted:
            down, right = torch.randint(2 * LARGEST_SHIFT + 1, (2,)).tolist()
            padded = F.pad(picture, [LARGEST_SHIFT] * 4, value=-1.0)
            picture = padded[:, down : down + SIZE, right : right + SIZE]
        return picture, self.labels[index]


def digits() -> Split:
    """Load the digits, enlarged to 16x16 pixels; needs no network connection.

    Raises:
        MissingExtra: If scikit-learn is not installed.
    """
    loaded = import_extra("sklearn.datasets", "demo").load_digits()
    small = torch.tensor(loaded.images, dtype=torch.float32)[:, None] / 8 - 1
    pictures = F.interpolate(small, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    train, test = _halves(loaded.target)
    return Split(
        Digits(pictures[train], loaded.target[train].tolist(), shifted=True),
        Digits(pictures[test], loaded.target[test].tolist()),
    )


def network() -> nn.Module:
    """Build the network: [n, 1, 16, 16] to logits [n, 10]."""
    return ResNet(WIDTHS, classes=10)


class ResNet(nn.Module):
    """A residual network with one block per width, each after the first at half the resolution."""

    def __init__(self, widths: Sequence[int], *, classes: int) -> None:
        super().__init__()
        first, last = widths[0], widths[-1]
        self.stem = nn.Sequential(_conv(1, first, kernel=3), nn.ReLU())
        self.blocks = nn.Sequential(
            *(
                Block(before, width, stride=1 if before == width else 2)
                for before, width in zip((first, *widths), widths, strict=False)
            )
        )
        self.head = nn.Linear(last, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Classify pictures [n, 1, height, width]."""
        features: Tensor = self.blocks(self.stem(pictures))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.first = _conv(in_channels, out_channels, kernel=3, stride=stride)
        self.second = _conv(out_channels, out_channels, kernel=3)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = _conv(in_channels, out_channels, kernel=1, stride=stride)

    def forward(self, features: Tensor) -> Tensor:
        """Give features of `out_channels` channels."""
        return F.relu(self.second(F.relu(self.first(features))) + self.shortcut(features))


def _conv(in_channels: int, out_channels: int, *, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


def _halves(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split every class in two, at random but always alike; gives two arrays of indices."""
    random = np.random.default_rng(0)
    shuffled = [random.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    first = [indices[: len(indices) // 2] for indices in shuffled]
    second = [indices[len(indices) // 2 :] for indices in shuffled]
    return np.sort(np.concatenate(first)), np.sort(np.concatenate(second))
