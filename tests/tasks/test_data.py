"""Pictures by split and class, in folders and zips, against torchvision's own reader."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import to_tensor

from latprune.errors import DataError, ModelMismatch
from latprune.tasks.data import open_images

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = {"cat": 3, "ant": 2, "bee": 1}


def draw(path: Path, *, value: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 5), value if mode == "L" else (value, 0, 255 - value)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for split in ("train", "val"):
        for name, number in CLASSES.items():
            for i in range(number):
                draw(root / split / name / f"{i}.png", value=10 * i + len(split))
    (root / "train" / "cat" / "notes.txt").write_text("not a picture")
    return root


def zipped(folder: Path, *, inside: str = "") -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, inside + file.relative_to(folder).as_posix())
        archive.writestr("__MACOSX/train/cat/0.png", b"left by another system")
    return path


def test_a_split_holds_what_torchvision_finds_in_the_same_folder(folder: Path) -> None:
    judge = ImageFolder(str(folder / "train"))
    split = open_images(folder).split("train")

    assert open_images(folder).classes == tuple(judge.classes)
    assert len(split) == len(judge)
    for (ours, label), (theirs, their_label) in zip(split, judge, strict=True):
        assert label == their_label
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_links_are_followed_but_not_back_up(folder: Path) -> None:
    before = open_images(folder).pictures
    cats = folder / "train" / "cat"
    try:
        (cats / "up").symlink_to(folder, target_is_directory=True)
        (cats / "same").symlink_to(cats, target_is_directory=True)
        (folder / "val" / "linked").symlink_to(folder / "train" / "bee", target_is_directory=True)
    except OSError:
        pytest.skip("no links here")

    found = open_images(folder)

    assert found.pictures["train"] == before["train"]
    assert found.classes == (*sorted(CLASSES), "linked")
    assert len(found.pictures["val"]) == len(before["val"]) + CLASSES["bee"]


@pytest.mark.parametrize("inside", ["", "dataset/"])
def test_a_zip_reads_like_the_folder_it_was_made_from(folder: Path, inside: str) -> None:
    plain, packed = open_images(folder), open_images(zipped(folder, inside=inside))

    assert packed.classes == plain.classes
    for name in ("train", "val"):
        pairs = zip(packed.split(name), plain.split(name), strict=True)
        assert all(np.array_equal(a, b) and i == j for (a, i), (b, j) in pairs)


# Python 3.12 and later warn of any fork beside threads; these workers only decode.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_loader_workers_read_one_zip_at_the_same_time(folder: Path) -> None:
    split = open_images(zipped(folder)).split("train", transform=to_tensor)
    split[0]  # opens the archive here, before the workers start
    alone = list(DataLoader(split, batch_size=1))
    helped = list(DataLoader(split, batch_size=1, num_workers=2))

    assert len(helped) == sum(CLASSES.values())
    for (a, i), (b, j) in zip(alone, helped, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(i, j)


def test_grey_pictures_are_read_as_rgb(folder: Path) -> None:
    draw(folder / "train" / "ant" / "grey.png", value=7, mode="L")
    pictures = [picture for picture, _ in open_images(folder).split("train")]

    assert {picture.mode for picture in pictures} == {"RGB"}


@pytest.mark.parametrize(
    ("numbers", "file"),
    [
        (np.array([[0, 32768, 65535]], np.uint16), "0.png"),
        (np.array([[0, 32768, 65535]], np.uint16), "0.tif"),
        (np.array([[0, 0.5, 1]], np.float32), "0.tif"),
    ],
)
def test_the_middle_of_a_wide_range_is_grey(
    folder: Path, numbers: np.ndarray[Any, Any], file: str
) -> None:
    Image.fromarray(numbers).save(folder / "train" / "ant" / file)

    pictures = open_images(folder).split("train")
    picture, _ = pictures[[one.name for one in pictures.pictures].index(f"train/ant/{file}")]

    assert np.asarray(picture).tolist() == [[[0] * 3, [128] * 3, [255] * 3]]


@pytest.mark.parametrize(
    "numbers", [np.array([[0, 255]], np.int32), np.array([[0, 255]], np.float32)]
)
def test_numbers_of_which_none_is_known_to_be_white_are_refused(
    folder: Path, numbers: np.ndarray[Any, Any]
) -> None:
    Image.fromarray(numbers).save(folder / "train" / "ant" / "0.tif")

    with pytest.raises(DataError, match=r"train/ant/0.tif cannot be read .* from 0 to 255"):
        list(open_images(folder).split("train"))


def test_a_class_that_one_split_lacks_keeps_its_number_in_the_others(folder: Path) -> None:
    draw(folder / "val" / "aardvark" / "0.png", value=1)
    data = open_images(folder)

    assert data.classes == ("aardvark", "ant", "bee", "cat")
    assert {label for _, label in data.split("train")} == {1, 2, 3}


def test_wordnet_ids_stand_for_imagenet_classes(tmp_path: Path) -> None:
    for name in ("n02102040", "n01440764", "n03888257"):
        draw(tmp_path / "val" / name / "0.png", value=1)
    data = open_images(tmp_path)

    assert data.labels_for(1000) == (0, 217, 701)
    assert data.labels_for(3) == (0, 1, 2)
    labels = [label for _, label in data.split("val", labels=data.labels_for(1000))]
    assert labels == [0, 217, 701]


@pytest.mark.parametrize("outputs", [2, 4, 1000])
def test_classes_that_do_not_fit_the_outputs_are_refused(folder: Path, outputs: int) -> None:
    with pytest.raises(ModelMismatch, match=f"{outputs} outputs .* 3 classes.*--classes 3"):
        open_images(folder).labels_for(outputs)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder or zip .*nowhere"):
        open_images(tmp_path / "nowhere")


def test_a_file_that_is_no_zip_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("no")
    with pytest.raises(DataError, match=r"neither a folder nor a zip"):
        open_images(tmp_path / "a.zip")


def test_a_folder_without_splits_says_what_it_found(tmp_path: Path) -> None:
    draw(tmp_path / "cats" / "0.png", value=1)
    draw(tmp_path / "dogs" / "0.png", value=1)
    with pytest.raises(DataError, match=r"no folder train/.* found cats, dogs"):
        open_images(tmp_path)


def test_pictures_outside_class_folders_are_no_classes(tmp_path: Path) -> None:
    draw(tmp_path / "train" / "0.png", value=1)
    with pytest.raises(DataError, match=r"no classes.*1 files directly in train/"):
        open_images(tmp_path)


def test_a_class_without_pictures_is_named(folder: Path) -> None:
    (folder / "val" / "cow").mkdir()
    with pytest.raises(DataError, match="val/cow has no pictures"):
        open_images(folder)


def test_a_split_that_is_not_there_is_named_with_those_that_are(folder: Path) -> None:
    with pytest.raises(DataError, match="no split 'test', only train, val"):
        open_images(folder).split("test")


def test_a_picture_that_cannot_be_decoded_is_named(folder: Path) -> None:
    (folder / "train" / "ant" / "0.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"train/ant/0\.png cannot be read"):
        open_images(folder).split("train")[0]


def test_real_pictures_are_found_in_their_zip(shared_data: Path) -> None:
    data = open_images(shared_data / "imagenette224" / "imagenette224-s.zip")
    sizes = {name: len(data.split(name)) for name in ("train", "val", "test")}

    assert sizes == {"train": 2000, "val": 500, "test": 500}
    assert data.labels_for(1000) == (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)
    picture, label = data.split("test")[499]
    assert (picture.size, label) == ((224, 224), 9)
