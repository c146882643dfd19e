"""Pictures change, and boxes stay on their objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import pytest
import torch
from torchvision.transforms.v2.functional import to_dtype, to_image

from latprune.tasks.detection import (
    Detector,
    collate,
    evaluation_transform,
    open_voc,
    training_transform,
)
from latprune.tasks.detection.augmentation import Augmentation
from tests.detectors import SIZE, Thing, tiny_ssd, write_picture, write_split

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from latprune.tasks.detection.voc import VocSplit

PLAIN: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@pytest.fixture
def split(tmp_path: Path) -> VocSplit:
    things = [Thing("disc", (3, 5, 22, 24)), Thing("square", (27, 20, 44, 45), difficult=1)]
    for name in ("a", "b"):
        write_picture(tmp_path, name, things)
    write_split(tmp_path, "trainval", ["a"])
    write_split(tmp_path, "test", ["b"])
    data = open_voc(tmp_path)
    return data.split(data.train)


def inside(picture: Tensor, box: Tensor) -> Tensor:
    """The pixels well within a box, [3, pixels]."""
    left, top, right, bottom = box.round().int().tolist()
    return picture[:, top + 2 : bottom - 2, left + 2 : right - 2].flatten(1)


@pytest.mark.parametrize("augmentation", get_args(Augmentation))
def test_boxes_stay_on_their_objects_whatever_is_done_to_the_picture(
    split: VocSplit, augmentation: Augmentation
) -> None:
    transform = training_transform((96, 96), **PLAIN, augmentation=augmentation)
    kinds: set[int] = set()
    for seed in range(60):
        torch.manual_seed(seed)
        picture, target = transform(*split[0])
        for box, label, difficult in zip(
            target["boxes"], target["labels"], target["difficult"], strict=True
        ):
            pixels = inside(picture, box)
            spread = (pixels - pixels.mean(dim=1, keepdim=True)).abs()
            # An object is of one colour, whichever it became: its box holds little else.
            assert pixels.numel() == 0 or (spread < 0.2).float().mean() > 0.9
            assert bool(difficult) == (int(label) == 2)
            kinds.add(int(label))
        assert picture.shape == (3, 96, 96)
        assert (target["boxes"] >= 0).all()
        assert (target["boxes"] <= 96).all()
    assert kinds == {1, 2}


def test_through_a_microscope_objects_keep_about_their_size(split: VocSplit) -> None:
    whole = {
        int(n): box for n, box in zip(split[0][1]["labels"], split[0][1]["boxes"], strict=True)
    }
    width, height = split[0][0].size
    transform = training_transform((96, 96), **PLAIN, augmentation="microscope")
    for seed in range(30):
        torch.manual_seed(seed)
        _, target = transform(*split[0])
        for box, label in zip(target["boxes"], target["labels"], strict=True):
            left, top, right, bottom = whole[int(label)].tolist()
            # A crop keeps 0.7 of a side at least; half of an object may be beyond it.
            sizes = (96 * (right - left) / width, 96 * (bottom - top) / height)
            for size, was in zip((box[2] - box[0], box[3] - box[1]), sizes, strict=True):
                assert 0.45 * was <= float(size) <= was / 0.7 + 1.5


def test_an_augmentation_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="microscope"):
        training_transform((32, 32), **PLAIN, augmentation="telescope")  # type: ignore[arg-type]


def test_training_shows_a_picture_differently_each_time(split: VocSplit) -> None:
    transform = training_transform((32, 32), **PLAIN)
    first, second = (transform(*split[0])[0] for _ in range(2))

    assert not torch.equal(first, second)


def test_judging_prepares_pictures_as_torchvisions_detectors_do(split: VocSplit) -> None:
    detector = Detector.of(tiny_ssd())
    transform = evaluation_transform(detector.size, mean=detector.mean, std=detector.std)
    picture, target = split[0]
    (ours,), (boxes,) = collate([transform(picture, target)])
    image = to_dtype(to_image(picture), torch.float32, scale=True)
    theirs, targets = detector.ssd.get_submodule("transform")([image], [dict(target)])

    # A value of 8 bits is rounded where torchvision goes on with fractions.
    assert (ours - theirs.tensors[0]).abs().max() <= 1 / 255 / min(detector.std)
    torch.testing.assert_close(boxes["boxes"], targets[0]["boxes"].as_subclass(torch.Tensor))
    assert ours.shape == (3, SIZE, SIZE)
