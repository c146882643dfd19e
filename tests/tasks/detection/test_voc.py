"""Pictures and boxes in VOC's layout, against torchvision's own reader of it."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torchvision.datasets import VOCDetection
from torchvision.tv_tensors import BoundingBoxes

from latprune.errors import DataError
from latprune.tasks.detection import collate, evaluation_transform, open_voc, told_dropped
from latprune.tasks.detection.voc import VOC_CLASSES
from tests.detectors import Thing, write_picture, write_split, write_things

if TYPE_CHECKING:
    from pathlib import Path

DISC = Thing("disc", (5, 6, 20, 30))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_things(tmp_path / "things")


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """Two years: 2007 with a test, 2012 without."""
    kit = tmp_path / "VOCdevkit"
    for year, splits in (("2007", {"trainval": 3, "test": 2}), ("2012", {"trainval": 4})):
        for split, count in splits.items():
            names = [f"{year}_{split}{number}" for number in range(count)]
            for name in names:
                write_picture(kit / f"VOC{year}", name, [Thing("dog", (1, 1, 9, 9))])
            write_split(kit / f"VOC{year}", split, names)
        # VOC also lists every class by itself, with flags.
        write_split(kit / f"VOC{year}", "dog_trainval", ["2007_trainval0  1"])
    return kit


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, f"{folder.name}/{file.relative_to(folder).as_posix()}")
    return path


def test_boxes_and_pictures_are_those_torchvision_reads(root: Path, tmp_path: Path) -> None:
    year = tmp_path / "judge" / "VOCdevkit" / "VOC2012"
    shutil.copytree(root, year)
    for picture in (year / "JPEGImages").iterdir():
        picture.rename(picture.with_suffix(".jpg"))  # a name is all that torchvision looks at
    judge = VOCDetection(str(tmp_path / "judge"), year="2012", image_set="trainval")
    data = open_voc(root)
    split = data.split(data.train)

    assert len(split) == len(judge)
    for (picture, target), (theirs, written) in zip(split, judge, strict=True):
        objects = written["annotation"]["object"]
        edges = [[int(o["bndbox"][e]) for e in ("xmin", "ymin", "xmax", "ymax")] for o in objects]
        assert np.array_equal(np.asarray(picture), np.asarray(theirs))
        assert (target["boxes"] + torch.tensor([1, 1, 0, 0])).tolist() == edges
        assert [data.classes[n - 1] for n in target["labels"]] == [o["name"] for o in objects]


def test_a_box_holds_exactly_the_pixels_of_its_object(tmp_path: Path) -> None:
    write_picture(tmp_path, "one", [DISC])
    write_split(tmp_path, "trainval", ["one"])
    write_picture(tmp_path, "two", [DISC])
    write_split(tmp_path, "test", ["two"])
    data = open_voc(tmp_path)
    picture, target = data.split(data.train)[0]
    left, top, right, bottom = target["boxes"][0].int().tolist()
    red = np.asarray(picture)[..., 0] > 200

    assert red[top:bottom, left:right].all()
    assert red.sum() == (right - left) * (bottom - top)


def test_a_zip_reads_like_the_folder_it_was_made_from(root: Path) -> None:
    plain, packed = open_voc(root), open_voc(zipped(root))
    pairs = zip(packed.split(packed.train), plain.split(plain.train), strict=True)

    assert packed.classes == plain.classes == ("disc", "square")
    for (picture, target), (same, others) in pairs:
        assert np.array_equal(np.asarray(picture), np.asarray(same))
        assert all(torch.equal(target[name], others[name]) for name in target)


def test_years_are_joined_and_the_test_is_left_to_judge_with(devkit: Path) -> None:
    data = open_voc(devkit)

    assert (data.train_name, data.judged_name) == ("2007+2012:trainval", "2007:test")
    assert (len(data.train), len(data.judged)) == (7, 2)
    assert data.classes == VOC_CLASSES
    assert data.split(data.train)[0][1]["labels"].tolist() == [VOC_CLASSES.index("dog") + 1]


def test_years_and_splits_can_be_named(devkit: Path) -> None:
    data = open_voc(devkit, train="2012:trainval", judged="2007:trainval")

    assert (len(data.train), len(data.judged)) == (4, 3)


def test_a_class_has_one_label_whichever_splits_are_used(tmp_path: Path) -> None:
    for split, name in (("train", "disc"), ("val", "square"), ("extra", "bolt")):
        write_picture(tmp_path, split, [Thing(name, (5, 6, 20, 30))])
        write_split(tmp_path, split, [split])
    (tmp_path / "Annotations" / "damaged.xml").write_text("<annotation>")
    # Boxes without area are no objects, neither of pictures that are used nor of others.
    write_picture(tmp_path, "unused", [Thing("nut", (9, 5, 9, 20))])
    some = open_voc(tmp_path, train="train", judged="val")
    others = open_voc(tmp_path, train="train", judged="extra")

    assert some.classes == others.classes == ("bolt", "disc", "square")


def test_a_list_may_begin_with_a_byte_order_mark(root: Path) -> None:
    path = root / "ImageSets" / "Main" / "test.txt"
    listed = path.read_text()
    before = open_voc(root).judged
    path.write_text("\ufeff" + listed, encoding="utf-8")

    assert open_voc(root).judged == before


def test_two_roots_of_one_year_are_refused(devkit: Path) -> None:
    shutil.copytree(devkit / "VOC2012", devkit / "copy" / "VOC2012")

    with pytest.raises(DataError, match=r"two roots of one name, .*VOC2012/ and .*VOC2012/"):
        open_voc(devkit)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("2012:test", r"no split 'test' of 2012: 2007 has .*test"),
        ("2009:trainval", r"no split 'trainval' of 2009"),
        ("2007:test", r"2 pictures .* both in 2007:test"),
    ],
)
def test_splits_that_cannot_be_used_are_refused(devkit: Path, train: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_voc(devkit, train=train, judged="2007:test")


def test_without_a_test_the_validation_judges_and_train_trains(tmp_path: Path) -> None:
    for split, names in (("train", ["a"]), ("val", ["b"]), ("trainval", ["a", "b"])):
        for name in names:
            write_picture(tmp_path, name, [DISC])
        write_split(tmp_path, split, names)
    data = open_voc(tmp_path)

    assert (data.train_name, data.judged_name) == ("train", "val")


def test_boxes_without_area_are_dropped_and_counted(root: Path) -> None:
    flat, upright = Thing("disc", (9, 5, 9, 20)), Thing("square", (5, 20, 15, 12))
    write_picture(root, "trainval0", [flat, DISC, upright])
    data = open_voc(root)

    assert len(data.split(data.train)[0][1]["boxes"]) == 1
    assert told_dropped(data.dropped) == "2 boxes without area dropped (trainval0.png)"
    assert told_dropped([]) == ""


def test_difficult_objects_are_marked(root: Path) -> None:
    write_picture(root, "test0", [DISC, Thing("square", (30, 3, 40, 9), difficult=1)])
    data = open_voc(root)

    assert data.split(data.judged)[0][1]["difficult"].tolist() == [False, True]


def test_a_picture_without_objects_has_a_target_without_boxes(root: Path) -> None:
    write_picture(root, "trainval0", [])
    data = open_voc(root)
    picture, target = data.split(data.train)[0]
    transform = evaluation_transform((32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    images, targets = collate([transform(picture, target)])

    assert images.shape == (1, 3, 32, 32)
    assert targets[0]["boxes"].shape == (0, 4)
    assert type(targets[0]["boxes"]) is torch.Tensor


def test_targets_carry_boxes_that_transforms_know(root: Path) -> None:
    data = open_voc(root)
    boxes = pickle.loads(pickle.dumps(data.split(data.train)))[0][1]["boxes"]

    assert isinstance(boxes, BoundingBoxes)
    assert boxes.canvas_size == (48, 48)


def test_what_is_missing_or_broken_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="ImageSets/Main"):
        open_voc(tmp_path / "empty")
    (root / "JPEGImages" / "trainval3.png").unlink()
    with pytest.raises(DataError, match="trainval3 of trainval has no picture"):
        open_voc(root)
    write_picture(root, "trainval3", [DISC])
    (root / "Annotations" / "test1.xml").write_text("<annotation><object></annotation>")
    with pytest.raises(DataError, match=r"Annotations/test1\.xml is no annotation"):
        open_voc(root)
    write_split(root, "test", [])
    with pytest.raises(DataError, match="list test is empty"):
        open_voc(root)
