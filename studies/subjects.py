"""The networks of the studies and their pictures, with published weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from latprune.tasks import Preprocessing, load_weights, open_images, preprocessing_for
from studies import cifar_resnet18
from studies.cifar_resnet import resnet56
from studies.resnet50_v1 import resnet50_v1
from studies.shared_data import Cifar10, data_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Pictures = Dataset[Any]
LEAST_CROP = (0.35, 1.0)  # of a picture's area: a tuning is short


@dataclass(frozen=True)
class Subject:
    """A network, and its training pictures in three parts that do not overlap.

    `tuning` gives all training pictures, augmented, a different way each time; the others are not.
    """

    name: str
    model: nn.Module
    example: torch.Tensor
    scoring: DataLoader[Any]
    calibration: DataLoader[Any]
    held_out: DataLoader[Any]
    test: DataLoader[Any]
    tuning: Callable[[], Pictures]
    classes: tuple[int, ...] | None

    @torch.no_grad()
    def judge(self, model: nn.Module) -> dict[str, float]:
        """Accuracy and loss on the test pictures, in one pass."""
        passed = [(model.eval()(images), labels) for images, labels in self.test]
        logits, labels = (torch.cat(parts) for parts in zip(*passed, strict=True))
        judged = {
            "top1": _share(logits.argmax(dim=1) == labels),
            "test_loss": float(F.cross_entropy(logits, labels)),
        }
        if self.classes is not None:
            known = torch.tensor(sorted(self.classes))
            judged["top1_restricted"] = _share(known[logits[:, known].argmax(dim=1)] == labels)
        return judged


def _share(right: torch.Tensor) -> float:
    return float(right.double().mean())


def subject(name: str, settings: Mapping[str, Any], *, seed: int) -> Subject:
    model, example, train, test, tuning, classes = PARTS[name]()
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()  # type: ignore[arg-type]
    parts, first = [], 0
    for count in ("score_images", "calibration_images", "held_out_images"):
        parts.append(order[first : first + settings[count]])
        first += settings[count]
    assert first <= len(order), f"{name}: {first} training pictures asked for, {len(order)} there"
    batch = settings["batch_size"]
    scoring, calibration, held_out = (DataLoader(Subset(train, p), batch) for p in parts)
    judged = DataLoader(Subset(test, range(settings["test_images"])), 50)
    return Subject(
        name, model.eval(), example, scoring, calibration, held_out, judged, tuning, classes
    )


def to_score(name: str, *, images: int, batch_size: int, seed: int) -> Subject:
    """Give a network and pictures to score it on; of all others as few as can be."""
    few = {"calibration_images": 32, "held_out_images": 0, "test_images": 32}
    return subject(name, {"score_images": images, "batch_size": batch_size, **few}, seed=seed)


Parts = tuple[
    nn.Module, torch.Tensor, Pictures, Pictures, Callable[[], Pictures], tuple[int, ...] | None
]


def _imagenette(model: nn.Module, weights: str, prepared: Preprocessing) -> Parts:
    load_weights(model, data_folder() / "weights" / weights)
    images = open_images(data_folder() / "imagenette224" / "imagenette224-s.zip")
    labels = images.labels_for(1000)
    train, test = (
        images.split(split, transform=prepared.evaluation(), labels=labels)
        for split in ("train", "test")
    )
    augmented = prepared.training(scale=LEAST_CROP)

    def tuning() -> Pictures:
        return images.split("train", transform=augmented, labels=labels)

    return model, torch.randn(1, 3, 224, 224), train, test, tuning, labels


def _lite0() -> Parts:
    model = timm.create_model("tf_efficientnet_lite0")
    own = preprocessing_for("timm:tf_efficientnet_lite0", model)
    # the pictures already have the network's size
    prepared = Preprocessing(mean=own.mean, std=own.std, crop_pct=1.0, interpolation="bicubic")
    return _imagenette(model, "imagenet_tf_efficientnet_lite0.safetensors", prepared)


def _resnet50() -> Parts:
    prepared = Preprocessing(crop_pct=1.0)
    return _imagenette(resnet50_v1(), "imagenet_resnet50_v1.safetensors", prepared)


def _cifar(model: nn.Module, weights: Path) -> Parts:
    load_weights(model, weights)
    tuning = partial(Cifar10, "train", augment=True)
    return model, torch.randn(1, 3, 32, 32), Cifar10("train"), Cifar10("test"), tuning, None


def _resnet18() -> Parts:
    weights = cifar_resnet18.WEIGHTS
    if not weights.is_file():
        raise SystemExit(
            "This network has no published weights: train them with "
            "`python -m studies.cifar_resnet18` first. Nothing was run."
        )
    return _cifar(cifar_resnet18.resnet18(), weights)


def _resnet56() -> Parts:
    return _cifar(resnet56(), data_folder() / "weights" / "cifar10_resnet56.safetensors")


PARTS: Mapping[str, Callable[[], Parts]] = {
    "cifar_resnet18": _resnet18,
    "cifar_resnet56": _resnet56,
    "efficientnet_lite0": _lite0,
    "resnet50": _resnet50,
}
