"""`--data hf:FOLDER` prunes as a folder of the same pictures does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import latprune as lp
from latprune.tasks.data import open_images
from latprune.tasks.models import load_model
from tests.cli.conftest import latprune

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Disk

datasets: Any = pytest.importorskip("datasets")
ASKED = ("--runtime", "synthetic", "--budget", "70%", "--epochs", "1", "--train-batch", "4")


def save(pictures: Path, folder: Path) -> None:
    """Write a folder of pictures as a data set."""
    images = open_images(pictures)
    columns = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(images.classes))}
    splits = {}
    for name in images.pictures:
        shown, labels = zip(*images.split(name), strict=True)
        splits[name] = datasets.Dataset.from_dict(
            {"image": list(shown), "label": list(labels)}, features=datasets.Features(columns)
        )
    datasets.DatasetDict(splits).save_to_disk(folder)


def test_a_data_set_prunes_a_network_as_its_pictures_in_a_folder_do(
    disk: Disk, tmp_path: Path
) -> None:
    save(disk.folder / "pictures", tmp_path / "saved")
    sources = {"folder": disk.folder / "pictures", "data set": f"hf:{tmp_path / 'saved'}"}

    for name, source in sources.items():
        found = latprune(
            "prune", *disk.trained, "--data", str(source), *ASKED, "--out", str(tmp_path / name)
        )
        assert found.exit_code == 0, found.stderr

    one, other = (
        lp.load(tmp_path / name / "pruned.safetensors", load_model(disk.model[1])).state_dict()
        for name in sources
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_data_set_that_is_not_there_is_one_line(disk: Disk, tmp_path: Path) -> None:
    asked = (*ASKED, "--data", f"hf:{tmp_path / 'nothing'}", "--out", str(tmp_path / "run"))

    found = latprune("prune", *disk.trained, *asked)

    assert found.exit_code == 1
    assert "cannot be loaded" in found.stderr
