"""How a picture becomes a network's input: the same numbers the network was trained with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from latprune.errors import import_extra

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


PUBLISHED = "DEFAULT"
"""torchvision's name for those of a model's published weights that are fetched."""


@dataclass(frozen=True)
class Preprocessing:
    """What happens between an RGB picture and the network; the defaults are ImageNet's.

    Attributes:
        size: Height and width of the input.
        mean: Per channel, of values in [0, 1]; one for a network that reads pictures in grey.
        std: As `mean`.
        crop_pct: The share of the resized picture's side that evaluation keeps. 1 for pictures
            that already have the network's size.
        interpolation: `bilinear` or `bicubic`.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop_pct: float = 0.875
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise ValueError(f"a picture has at least one pixel, not {self.size}")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct is a share above 0 and up to 1, not {self.crop_pct}")
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} need a value for each channel")

    def in_grey(self) -> Preprocessing:
        """Give the same for a network of one channel."""
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return replace(self, mean=(mean,), std=(std,))

    def training(
        self, *, scale: tuple[float, float] = (0.08, 1.0), auto_augment: str | None = None
    ) -> Callable[[Any], Tensor]:
        """Give the transform for training: a random crop, resized, mirrored every other time.

        Args:
            scale: The least and the most of the picture's area that a crop keeps.
            auto_augment: timm's policy for more than that, such as `rand-m9-mstd0.5`.

        Raises:
            ValueError: If timm does not know the policy.
        """
        if auto_augment is not None:
            check_policy(auto_augment)
        return self._transform(
            is_training=True, scale=scale, color_jitter=None, auto_augment=auto_augment
        )

    def evaluation(self) -> Callable[[Any], Tensor]:
        """Give the transform for judging: resize, then cut out the centre."""
        return self._transform(is_training=False, crop_pct=self.crop_pct)

    def _transform(self, **options: Any) -> Callable[[Any], Tensor]:
        is_grey = len(self.mean) == 1
        transform: Callable[[Any], Tensor] = import_extra("timm.data", "train").create_transform(
            input_size=(3, *self.size),
            mean=3 * self.mean if is_grey else self.mean,
            std=3 * self.std if is_grey else self.std,
            interpolation=self.interpolation,
            **options,
        )
        return _InGrey(transform) if is_grey else transform


@dataclass(frozen=True)
class _InGrey:
    """A transform of pictures in grey, which are RGB on the way: augmentations know no others."""

    transform: Callable[[Any], Tensor]

    def __call__(self, picture: Any) -> Tensor:
        """Give the one channel, [1, height, width]."""
        return self.transform(picture.convert("L").convert("RGB"))[:1]


def check_policy(name: str) -> None:
    """Make sure that timm has an augmentation policy.

    Raises:
        ValueError: If it has not.
    """
    augment = import_extra("timm.data.auto_augment", "train")
    kind = name.partition("-")[0]
    makers = {"rand": augment.rand_augment_transform, "augmix": augment.augment_and_mix_transform}
    make = makers.get(kind, augment.auto_augment_transform)
    try:
        make(name, {})
    except (AssertionError, KeyError, ValueError) as error:
        raise ValueError(
            f"timm has no augmentation {name!r} ({error}): write rand-m9-mstd0.5, augmix-m3 or "
            f"original"
        ) from None


def preprocessing_for(spec: str, model: nn.Module, *, pretrained: bool = False) -> Preprocessing:
    """Give what a model's published weights expect.

    Args:
        spec: As given to `load_model`.
        model: What `load_model` gave.
        pretrained: As given to `load_model`.

    Returns:
        timm's data configuration for `timm:`; for `torchvision:` that of the weights that were
        fetched, or of the first published ones; ImageNet's usual numbers for anything else.
    """
    library, _, name = spec.partition(":")
    if library == "timm":
        return _of_timm(model)
    if library == "torchvision":
        return _of_torchvision(name, pretrained=pretrained)
    return Preprocessing()


def _of_timm(model: nn.Module) -> Preprocessing:
    config = import_extra("timm.data", "train").resolve_model_data_config(model)
    _, height, width = config["input_size"]
    return Preprocessing(
        size=(height, width),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        crop_pct=config["crop_pct"],
        interpolation=config["interpolation"],
    )


def _of_torchvision(name: str, *, pretrained: bool) -> Preprocessing:
    published = import_extra("torchvision.models", "train").get_model_weights(name)
    if not list(published):
        return Preprocessing()
    weights = published[PUBLISHED] if pretrained else next(iter(published))
    preset = weights.transforms()
    (size,), (resized,) = preset.crop_size, preset.resize_size
    return Preprocessing(
        size=(size, size),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        crop_pct=size / resized,
        interpolation=preset.interpolation.value,
    )
