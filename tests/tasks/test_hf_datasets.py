"""Pictures from Hugging Face's `datasets` are what the same pictures in a folder are."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from latprune.errors import DataError
from latprune.tasks.data import open_images
from latprune.tasks.hf_datasets import images_of

if TYPE_CHECKING:
    from pathlib import Path

datasets: Any = pytest.importorskip("datasets")
CLASSES = ["ant", "bee", "cat"]
COLUMNS = {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=CLASSES)}
COUNTS = {"train": 7, "test": 4}


def picture(split: str, number: int) -> Image.Image:
    shade = 20 * number + len(split)
    return Image.new("RGB", (6, 5), (shade, 0, 255 - shade))


@pytest.fixture
def splits() -> Any:
    """Seven and four pictures, of each class in turn."""
    return datasets.DatasetDict({split: rows(split, n) for split, n in COUNTS.items()})


def rows(split: str, count: int, columns: Any = COLUMNS, **more: Any) -> Any:
    pictures = [picture(split, number) for number in range(count)]
    kinds = [number % len(CLASSES) for number in range(count)]
    return datasets.Dataset.from_dict(
        {"picture": pictures, "kind": kinds, **more}, features=datasets.Features(columns)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same pictures in class folders."""
    for split, count in COUNTS.items():
        for number in range(count):
            file = tmp_path / "pictures" / split / CLASSES[number % 3] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(split, number).save(file)
    return tmp_path / "pictures"


def test_a_saved_data_set_gives_what_a_folder_of_its_pictures_gives(
    splits: Any, folder: Path, tmp_path: Path
) -> None:
    splits.save_to_disk(tmp_path / "saved")

    found, judge = open_images(f"hf:{tmp_path / 'saved'}"), open_images(folder)

    assert found.classes == judge.classes
    assert found.labels_for(3) == judge.labels_for(3)
    for split, count in COUNTS.items():
        ours, theirs = found.split(split), judge.split(split)
        assert len(ours) == len(theirs) == count
        for (image, label), (same, expected) in zip(ours, theirs, strict=True):
            assert label == expected
            assert np.array_equal(np.asarray(image), np.asarray(same))


def test_pictures_can_be_read_in_other_processes(splits: Any) -> None:
    split = images_of(splits).split("train")

    again = pickle.loads(pickle.dumps(split))

    assert [label for _, label in again] == [label for _, label in split]
    assert np.array_equal(np.asarray(again[3][0]), np.asarray(split[3][0]))


def test_a_data_set_with_a_format_of_its_own_gives_the_same(splits: Any) -> None:
    formatted = images_of(splits.with_format("numpy")).split("test")

    for (image, label), (same, expected) in zip(
        formatted, images_of(splits).split("test"), strict=True
    ):
        assert (type(label), label) == (int, expected)
        assert np.array_equal(np.asarray(image), np.asarray(same))


def test_the_validation_split_is_val_and_others_are_left_out(splits: Any) -> None:
    named = {"train": splits["train"], "validation": splits["test"], "extra": splits["test"]}

    assert set(images_of(named).pictures) == {"train", "val"}


def test_a_split_without_labels_is_left_out(splits: Any) -> None:
    hidden = splits["test"].map(lambda _: {"kind": -1})

    assert set(images_of({"train": splits["train"], "test": hidden}).pictures) == {"train"}


def test_a_split_with_labels_in_some_rows_only_is_refused(splits: Any) -> None:
    kinds = [*splits["test"]["kind"][:-1], -1]
    partly = splits["test"].map(lambda _, row: {"kind": kinds[row]}, with_indices=True)

    with pytest.raises(
        DataError, match=rf"in 1 of {len(kinds)} rows, the first is row {len(kinds) - 1}"
    ):
        images_of({"train": splits["train"], "test": partly})


def test_of_several_label_columns_one_has_to_be_named() -> None:
    coarse = datasets.ClassLabel(names=["flies", "does not"])
    both = {"train": rows("train", 3, {**COLUMNS, "can": coarse}, can=[1, 0, 1])}

    with pytest.raises(DataError, match=r"2 columns of ClassLabel, .* name one by label="):
        images_of(both)
    assert images_of(both, label="can").classes == ("flies", "does not")
    with pytest.raises(DataError, match="no column 'age' of type ClassLabel"):
        images_of(both, label="age")


def test_labels_that_are_mere_numbers_have_to_be_cast_first() -> None:
    numbers = {**COLUMNS, "kind": datasets.Value("int64")}

    with pytest.raises(
        DataError, match=r"0 columns of ClassLabel.*cast one to datasets.ClassLabel"
    ):
        images_of({"train": rows("train", 3, numbers)})


def test_splits_with_other_classes_are_refused(splits: Any) -> None:
    renamed = {**COLUMNS, "kind": datasets.ClassLabel(names=["a", "b", "c"])}

    with pytest.raises(DataError, match="the split test has other columns or classes"):
        images_of({"train": splits["train"], "test": rows("test", 4, renamed)})


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("hf:{}/nothing", "cannot be loaded"),
        ("hf:{}/nothing,split=train", r"split: after the name it takes config=, image=, label="),
    ],
)
def test_what_cannot_be_loaded_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)

    with pytest.raises(DataError, match=said):
        open_images(address.format(tmp_path))


def test_a_data_set_without_splits_to_use_is_refused(splits: Any) -> None:
    with pytest.raises(DataError, match="found extra"):
        images_of({"extra": splits["test"]})
