"""The recipes that are shipped run as they are, on a folder of pictures made up for it."""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING

import pytest

from latprune.tuning import Recipe
from latprune.tuning.schedule import learning_rate
from tests.cli.conftest import latprune

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Disk

RECIPES = ("imagenet-resnet50",)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_on_a_small_folder_with_a_small_network(
    disk: Disk, tmp_path: Path, repository: Path, name: str
) -> None:
    recipe = repository / "recipes" / f"{name}.toml"
    small = (*disk.model, *disk.data, "--no-pretrained", "--runtime", "synthetic", "--workers", "0")
    short = ("--epochs", "2", "--steps", "3", "--every", "2", "--lr", "0.05")

    found = latprune(
        "prune", "--config", str(recipe), *small, *short, "--out", str(tmp_path / "run"), "--json"
    )

    said = json.loads(found.stdout)
    asked = json.loads((tmp_path / "run" / "run.json").read_text())
    assert found.exit_code == 0
    assert said["met"]
    assert (asked["label_smoothing"], asked["weight_decay"]) == (0.1, 3.05e-5)
    assert (tmp_path / "run" / "pruned.safetensors").is_file()


def test_every_recipe_is_run(repository: Path) -> None:
    assert {file.stem for file in (repository / "recipes").glob("*.toml")} == set(RECIPES)


def test_the_papers_recipe_has_the_papers_numbers(repository: Path) -> None:
    said = tomllib.loads((repository / "recipes" / "imagenet-resnet50.toml").read_text())
    recipe = Recipe(
        epochs=said["epochs"], lr=said["lr"], warmup_epochs=said["warmup-epochs"], precision="no"
    )
    per_epoch = 1_281_167 // (8 * said["train-batch"])
    rates = [
        learning_rate(recipe, step, steps_per_epoch=per_epoch) for step in range(90 * per_epoch)
    ]

    assert 8 * said["train-batch"] == 1024
    assert (said["steps"], said["every"]) == (30, 40)
    assert max(rates) == pytest.approx(1.024)
    assert rates.index(max(rates)) == 8 * per_epoch
    assert rates[-1] < 1e-6
