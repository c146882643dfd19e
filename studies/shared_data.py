"""Where the studies' real data lies, and CIFAR-10 as tensors.

`LATPRUNE_DATA` names the folder; without it, `shared/data` beside the repository.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from torch import Tensor

BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[2] / "shared" / "data"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TILES = 100  # a sheet is 100 x 100 pictures of 32 x 32


def data_folder() -> Path:
    return Path(os.environ.get("LATPRUNE_DATA", BESIDE_THE_REPOSITORY))


class Cifar10(Dataset[tuple["Tensor", int]]):
    """CIFAR-10 from its picture sheets; train pictures are shifted and mirrored when `augment`.

    Items are (float32 [3, 32, 32], normalised; label 0 to 9).
    """

    def __init__(
        self,
        split: Literal["train", "test"],
        *,
        folder: Path | None = None,
        augment: bool = False,
    ) -> None:
        root = (folder or data_folder()) / "cifar10"
        names = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}[split]
        pixels = np.concatenate([read_sheet(root / f"{name}.webp") for name in names])
        self.images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        with np.load(root / "labels.npz") as labels:
            self.labels = torch.from_numpy(labels[split].astype(np.int64))
        self.augment = augment
        self._mean = torch.tensor(MEAN).view(3, 1, 1)
        self._std = torch.tensor(STD).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = (self.images[index].float() / 255 - self._mean) / self._std
        if self.augment:
            image = shifted_and_mirrored(image)
        return image, int(self.labels[index])


def read_sheet(path: Path) -> np.ndarray:
    """Cut a sheet into its pictures, uint8 [10000, 32, 32, 3], in their original order."""
    with Image.open(path) as picture:
        sheet = np.asarray(picture.convert("RGB"))
    tiles = sheet.reshape(TILES, 32, TILES, 32, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(TILES * TILES, 32, 32, 3)


def shifted_and_mirrored(image: Tensor) -> Tensor:
    """Shift by up to four pixels either way, mirror every other time (He et al. 2016)."""
    top, left, mirror = torch.randint(9, (1,)), torch.randint(9, (1,)), torch.rand(1) < 0.5
    padded = torch.nn.functional.pad(image, (4, 4, 4, 4))
    cropped = padded[:, int(top) : int(top) + 32, int(left) : int(left) + 32]
    return cropped.flip(-1) if mirror else cropped
