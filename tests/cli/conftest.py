"""A tiny network, its weights and a few pictures, as a user would have them on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from latprune.cli.app import app
from latprune.latency.timing import Comparison, Measurement
from latprune.tasks.models import load_model
from tests.synthetic import Synthetic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typer.testing import Result

FORMULA = ("--runtime", "synthetic")

FACTORY = """
from torch import nn


def network():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2),
    )
"""


@dataclass(frozen=True)
class Disk:
    """Paths, and the options that name them."""

    folder: Path

    @property
    def model(self) -> list[str]:
        return ["--model", f"{self.folder / 'net.py'}:network", "--input", "3x16x16"]

    @property
    def trained(self) -> list[str]:
        return [*self.model, "--weights", str(self.folder / "dense.safetensors")]

    @property
    def data(self) -> list[str]:
        return ["--data", str(self.folder / "pictures"), "--train-batch", "4"]


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    disk = Disk(tmp_path_factory.mktemp("disk"))
    (disk.folder / "net.py").write_text(FACTORY)
    torch.manual_seed(0)
    weights = load_model(f"{disk.folder / 'net.py'}:network").state_dict()
    save_file(weights, disk.folder / "dense.safetensors")
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for class_name, brightness in (("dark", 64), ("light", 192)):
            folder = disk.folder / "pictures" / split / class_name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(brightness - 64, brightness + 63, (16, 16, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return disk


@pytest.fixture(scope="package", autouse=True)
def formula() -> Iterator[None]:
    """Offer the runtime `synthetic`, whose clock is a formula."""
    with pytest.MonkeyPatch.context() as patch:
        Synthetic(whole=1.2).install(patch)
        yield


@pytest.fixture(scope="package")
def pruned(disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A finished run: its folder, and what the command said."""
    out = tmp_path_factory.mktemp("out") / "run"
    options = ("--budget", "70%", "--epochs", "1", "--out", str(out), "--json")
    return out, latprune("prune", *disk.trained, *disk.data, *FORMULA, *options)


def latprune(*arguments: str) -> Result:
    """Run the command line in this process; an error of the program itself is raised."""
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def accuracy_of(out: Path) -> dict[str, float]:
    """Give the accuracy of the network in a finished run's folder."""
    found: dict[str, float] = json.loads((out / "report.json").read_text())["small"]["accuracy"]
    return found


def with_ratio(patch: pytest.MonkeyPatch, ratio: float) -> None:
    """Let every pruned network be timed at this share of the dense one, by a clock that is sure."""
    clock = Comparison(Measurement(1.0, 0.01, 9), Measurement(ratio, 0.01, 9), ratio, 0.001, 0.0003)
    patch.setattr("latprune.report.comparison.compare", lambda *_, **__: clock)
