"""How a picture with boxes becomes a detector's input: as in SSD to train on, plain to judge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from latprune.errors import import_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    Transform = Callable[[Any, dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]

Augmentation = Literal["ssd", "microscope"]
COLOURS = (0.2, 0.2, 0.2, 0.02)  # brightness, contrast, saturation, hue


def training_transform(
    size: tuple[int, int],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    augmentation: Augmentation = "ssd",
) -> Transform:
    """Give SSD's augmentation: zooming out, crops by overlap, mirroring, resizing, colours.

    Args:
        size: Height and width of the network's input.
        mean: Per channel, of values in [0, 1]; also fills what zooming out adds.
        std: As `mean`.
        augmentation: `ssd`, or `microscope` for pictures taken from above at one magnification:
            mirrored both ways, cropped to 0.7 of a side at least, colours changed a little.

    Returns:
        Of (PIL picture, target) to (float32 [3, height, width], target), with boxes in pixels of
        the result. Boxes that a crop leaves nothing of are dropped from the target.

    Raises:
        ValueError: If there is no such augmentation.

    Source:
        Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, sections 2.2 and 3.6.
    """
    if augmentation not in get_args(Augmentation):
        raise ValueError(f"augmentation is one of {get_args(Augmentation)}, not {augmentation!r}")
    v2 = import_extra("torchvision.transforms.v2", "train")
    augment = v2.Compose(
        [
            v2.ToImage(),
            *(_as_in_ssd(mean) if augmentation == "ssd" else _as_through_a_microscope()),
            # Colours come last, where a picture is smallest: they take most of the time.
            _resized(size),
            v2.RandomPhotometricDistort() if augmentation == "ssd" else v2.ColorJitter(*COLOURS),
            *_normalised(mean, std),
            v2.ClampBoundingBoxes(),
            v2.SanitizeBoundingBoxes(labels_getter=_beside_boxes),
        ]
    )
    transform: Transform = augment
    return transform


def evaluation_transform(
    size: tuple[int, int], *, mean: Sequence[float], std: Sequence[float]
) -> Transform:
    """Give the transform for judging: resizing, as torchvision's own detectors do it.

    Args:
        size: Height and width of the network's input; the picture's shape is not kept.
        mean: Per channel, of values in [0, 1].
        std: As `mean`.
    """
    v2 = import_extra("torchvision.transforms.v2", "train")
    transform: Transform = v2.Compose([v2.ToImage(), _resized(size), *_normalised(mean, std)])
    return transform


def _as_in_ssd(mean: Sequence[float]) -> list[Any]:
    v2 = import_extra("torchvision.transforms.v2", "train")
    fill = [round(255 * part) for part in mean]
    return [v2.RandomZoomOut(fill=fill), v2.RandomIoUCrop(), v2.RandomHorizontalFlip()]


def _as_through_a_microscope() -> list[Any]:
    v2 = import_extra("torchvision.transforms.v2", "train")
    # Every other picture is left whole (1.0); of the others any part will do that shows an object.
    crop = v2.RandomIoUCrop(min_scale=0.7, sampler_options=[0.0, 1.0])
    return [crop, v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]


def _resized(size: tuple[int, int]) -> Any:
    # torchvision's detectors resize without smoothing; what they learnt expects that.
    v2 = import_extra("torchvision.transforms.v2", "train")
    return v2.Resize(list(size), antialias=False)


def _normalised(mean: Sequence[float], std: Sequence[float]) -> list[Any]:
    v2 = import_extra("torchvision.transforms.v2", "train")
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]


def _beside_boxes(inputs: Any) -> tuple[Tensor, ...]:
    """Give what has to go with a box that goes."""
    target = inputs[1]
    return target["labels"], target["difficult"]
