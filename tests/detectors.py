"""A detector small enough to train in a test, and pictures in VOC's layout to train it with."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

from tests.networks import ConvNorm

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SIZE = 32
CLASSES = ("disc", "square")
COLOURS = {"disc": (220, 40, 40), "square": (40, 40, 220)}


class TwoMaps(nn.Module):
    """Maps of a quarter and an eighth of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvNorm(3, 8), nn.MaxPool2d(2), ConvNorm(8, 16), nn.MaxPool2d(2), ConvNorm(16, 16)
        )
        self.extra = nn.Sequential(ConvNorm(16, 8, 1), nn.MaxPool2d(2), ConvNorm(8, 12))
        self.out_channels = [16, 12]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        first = self.body(images)
        return OrderedDict([("0", first), ("1", self.extra(first))])


def tiny_ssd(num_classes: int = 3) -> SSD:
    anchors = DefaultBoxGenerator([[2], [2]], scales=[0.25, 0.5, 0.8])
    return SSD(TwoMaps(), anchors, (SIZE, SIZE), num_classes, score_thresh=0.05)


@dataclass(frozen=True)
class Thing:
    """An object as VOC writes it down: pixels from 1, the last one included."""

    name: str
    box: tuple[int, int, int, int]
    difficult: int = 0


def write_picture(root: Path, name: str, things: Sequence[Thing], *, side: int = 48) -> None:
    """Paint a picture with its objects, and write it down in a root."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    pixels = np.full((side, side, 3), 128, np.uint8)
    for thing in things:
        left, top, right, bottom = thing.box
        pixels[top - 1 : bottom, left - 1 : right] = COLOURS.get(thing.name, (0, 255, 0))
    Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.png")
    objects = "".join(
        f"<object><name>{thing.name}</name><difficult>{thing.difficult}</difficult><bndbox>"
        + "".join(
            f"<{edge}>{value}</{edge}>"
            for edge, value in zip(("xmin", "ymin", "xmax", "ymax"), thing.box, strict=True)
        )
        + "</bndbox></object>"
        for thing in things
    )
    (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")


def write_split(root: Path, split: str, names: Sequence[str]) -> None:
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def write_things(root: Path, *, train: int = 12, test: int = 4) -> Path:
    """Write pictures with one or two objects each, split into `trainval` and `test`."""
    random = np.random.default_rng(0)
    for split, count in (("trainval", train), ("test", test)):
        names = [f"{split}{number}" for number in range(count)]
        for name in names:
            things = []
            for number in range(int(random.integers(1, 3))):
                width, height = random.integers(12, 20, 2)
                left = 1 + 24 * number + int(random.integers(0, 24 - width + 1))
                top = int(random.integers(1, 48 - height))
                kind = CLASSES[int(random.integers(2))]
                things.append(Thing(kind, (left, top, left + int(width) - 1, top + int(height))))
            write_picture(root, name, things)
        write_split(root, split, names)
    return root


def things_batch(count: int = 4) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Pictures of noise [count, 3, SIZE, SIZE] in [0, 1], the last of them without objects."""
    images = torch.rand(count, 3, SIZE, SIZE)
    targets = []
    for number in range(count):
        objects = 0 if number == count - 1 else number + 1
        corners = torch.rand(objects, 2) * SIZE / 2
        boxes = torch.cat([corners, corners + 4 + torch.rand(objects, 2) * SIZE / 3], dim=1)
        targets.append({"boxes": boxes, "labels": torch.randint(1, 3, (objects,))})
    return images, targets
