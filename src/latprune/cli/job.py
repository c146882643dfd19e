"""What the options of the command line lead to: a network, its input, its data, a target."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from latprune.batches import inputs_of_first
from latprune.cli.shown import complain
from latprune.errors import DataError, DoesNotRun, ModelMismatch
from latprune.outputs import main_output
from latprune.states import leave_out_subnormals
from latprune.surgery import load_notes
from latprune.tasks.classification import evaluate
from latprune.tasks.data import HUGGING_FACE, listed, open_images
from latprune.tasks.models import load_model, load_weights
from latprune.tasks.preprocessing import Preprocessing, preprocessing_for
from latprune.tuning.losses import cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from latprune.distances import Distil
    from latprune.tasks.detection import Detector
    from latprune.tuning.losses import Loss

JUDGED = ("test", "val")
Splits = tuple[str | None, str | None]
NO_SPLITS: Splits = (None, None)


@dataclass(frozen=True)
class Source:
    """Where the dense network comes from.

    Attributes:
        model: `timm:NAME`, `torchvision:NAME` or `PATH.py:FACTORY`.
        weights: A file of weights, or None.
        pretrained: Whether to fetch the library's published weights.
        classes: Outputs, or None for the model's own number.
        input: Channels, height and width, or None for what the model expects.
        crop_pct: Share of a resized picture that evaluation keeps, or None for the model's.
        task: `classification` or `detection`.
    """

    model: str
    weights: Path | None = None
    pretrained: bool = False
    classes: int | None = None
    input: tuple[int, int, int] | None = None
    crop_pct: float | None = None
    task: str = "classification"

    def resolved(self) -> Source:
        """Give the same, with paths that mean the same file from every folder."""
        file, colon, factory = self.model.rpartition(":")
        is_file = file.endswith(".py")
        return replace(
            self,
            model=f"{Path(file).resolve()}{colon}{factory}" if is_file else self.model,
            weights=None if self.weights is None else self.weights.resolve(),
        )

    @property
    def is_trained(self) -> bool:
        """Whether the network's accuracy says anything; a factory may have loaded weights."""
        return self.weights is not None or self.pretrained or ".py:" in self.model

    def open(self) -> Network:
        """Build the network and load its weights; without any, it is the same one every time.

        Warns:
            SubnormalWeights: If they hold numbers that CPUs are slow with; these are set to zero.

        Raises:
            UnknownModel: If the model cannot be built.
            DamagedFile: If the weights cannot be read.
            ModelMismatch: If they belong to another model.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            is_detector = self.task == "detection"
            network = self._open_detector() if is_detector else self._open_classifier()
        leave_out_subnormals(network.model)
        return network

    def for_pruned(self, file: Path) -> Source:
        """Give the same with the outputs and the input of a pruned network, where none are given.

        Raises:
            DamagedFile: If the pruned network's file cannot be read.
        """
        notes = load_notes(file)
        source = replace(self, classes=self.classes or notes.get("classes"))
        noted = notes.get("input")
        if noted is None or self.task == "detection":
            return source
        channels, height, width = map(int, noted)
        planned = channels, height, width
        if self.input is not None and self.input != planned:
            complain(f"planned for an input of {_size(planned)}; this is {_size(self.input)}")
            return source
        return replace(source, input=planned)

    def _open_classifier(self) -> Network:
        model = load_model(self.model, pretrained=self.pretrained, num_classes=self.classes)
        if self.weights is not None:
            load_weights(model, self.weights)
        preprocessing = preprocessing_for(self.model, model, pretrained=self.pretrained)
        channels = len(preprocessing.mean)
        if self.input is not None:
            channels, height, width = self.input
            preprocessing = replace(preprocessing, size=(height, width))
            if channels == 1:
                preprocessing = preprocessing.in_grey()
        if self.crop_pct is not None:
            preprocessing = replace(preprocessing, crop_pct=self.crop_pct)
        return Network(model.eval(), preprocessing, channels)

    def _open_detector(self) -> Network:
        from latprune.tasks.detection import load_detector

        detector = load_detector(self.model, pretrained=self.pretrained, num_classes=self.classes)
        if self.weights is not None:
            load_weights(detector.network, self.weights)
        preprocessing = Preprocessing(size=detector.size, mean=detector.mean, std=detector.std)
        return Network(detector.network.eval(), preprocessing, len(detector.mean), detector)


@dataclass(frozen=True, eq=False)
class Network:
    """The dense network and what its input looks like; for detection, `model` is the detector's."""

    model: nn.Module
    preprocessing: Preprocessing
    channels: int
    detector: Detector | None = None

    def example(self, batch: int) -> Tensor:
        """Give an input of `batch` samples of noise, always the same.

        Raises:
            DataError: If it does not fit into memory.
        """
        random = torch.Generator().manual_seed(0)
        try:
            return torch.randn(batch, *self.input, generator=random)
        except (RuntimeError, TypeError) as error:  # torch's own, for sizes beyond 64 bits
            raise DataError(
                f"an input of {batch} x {_size(self.input)} does not fit into memory: give a "
                f"smaller --input or --batch"
            ) from error

    @property
    def input(self) -> tuple[int, int, int]:
        """Channels, height and width of a sample."""
        height, width = self.preprocessing.size
        return self.channels, height, width

    @torch.no_grad()
    def outputs(self) -> int:
        """Count the model's outputs.

        Raises:
            DoesNotRun: If the model fails.
        """
        example = self.example(1)
        try:
            return int(main_output(self.model(example)).shape[-1])
        except Exception as error:  # whatever a stranger's forward raises
            raise DoesNotRun([tuple(example.shape)], error) from error


@dataclass(frozen=True, eq=False)
class Data:
    """Labelled pictures, ready for a network.

    Attributes:
        train: Batches to score and tune with.
        calibrating: The same pictures prepared as for judging, which set the scales of int8.
        judge: Gives a network's accuracy on the split `judged`.
        judged: The split's name.
        loss: Of (outputs, labels), to score and tune with.
        distil: How outputs are compared with the dense network's; None for the loss's own way.
        remark: What somebody should know of the data; empty for nothing.
    """

    train: DataLoader[Any]
    calibrating: DataLoader[Any]
    judge: Callable[[nn.Module], Mapping[str, float]]
    judged: str
    loss: Loss = cross_entropy
    distil: Distil | None = None
    remark: str = ""

    def calibration(self, batches: int) -> list[Tensor]:
        """Give the pictures that set the scales of int8, the same ones every time."""
        return inputs_of_first(self.calibrating, batches)


def open_data(
    path: Path,
    network: Network,
    *,
    batch: int,
    workers: int,
    splits: Splits = NO_SPLITS,
    auto_augment: str | None = None,
) -> Data:
    """Open `train`, and `test` or else `val`, of a folder or zip for a network.

    Args:
        path: As for `open_images`, for a detector as for `open_voc`.
        network: Decides how pictures are prepared and which outputs their classes are.
        batch: Pictures in a batch.
        workers: Processes that load pictures; 0 loads in this one.
        splits: What a detector learns from and is judged on, as for `open_voc`.
        auto_augment: timm's policy for a classifier's pictures.

    Raises:
        DataError: If a split is missing or empty, or pictures do not have the network's channels.
        DoesNotRun: If the network fails on its input.
        ModelMismatch: If the classes do not fit the network's outputs.
    """
    if network.detector is not None:
        return _open_voc(path, network.detector, batch=batch, workers=workers, splits=splits)
    if network.channels != len(network.preprocessing.mean):
        raise DataError(
            f"pictures have three channels, or one in grey, and the network reads "
            f"{network.channels}: prune it without --data, or in Python with a loader of its own"
        )
    images = open_images(path)
    outputs = network.outputs()
    labels = images.labels_for(outputs)
    judged = next((split for split in JUDGED if split in images.pictures), None)
    if judged is None:
        raise DataError(f"{path} has neither test/ nor val/ to judge networks on")
    training = network.preprocessing.training(auto_augment=auto_augment)
    evaluation = network.preprocessing.evaluation()
    train, plain = (
        images.split("train", transform=transform, labels=labels)
        for transform in (training, evaluation)
    )
    test = images.split(judged, transform=evaluation, labels=labels)
    options: dict[str, Any] = {"batch_size": batch, "num_workers": workers}
    shuffled = {"shuffle": True, "drop_last": len(train) >= batch, **options}
    return Data(
        train=DataLoader(train, **shuffled),
        calibrating=DataLoader(plain, **shuffled),
        judge=partial(
            evaluate,
            loader=DataLoader(test, **options),
            classes=labels if len(labels) < outputs else None,
        ),
        judged=judged,
    )


def _open_voc(path: Path, detector: Detector, *, batch: int, workers: int, splits: Splits) -> Data:
    from latprune.tasks import detection

    if str(path).startswith(HUGGING_FACE):
        raise DataError(
            f"{path}: of Hugging Face's data sets only pictures with classes are read, no boxes: "
            f"give a detector a folder in VOC's layout"
        )
    data = detection.open_voc(path, train=splits[0], judged=splits[1])
    outputs = detector.outputs()
    if outputs != len(data.classes) + 1:
        raise ModelMismatch(
            f"the detector tells {outputs} classes apart, the background among them, and {path} "
            f"has {len(data.classes)} ({listed(data.classes)}): build it with --classes "
            f"{len(data.classes) + 1}"
        )
    numbers: dict[str, Any] = {"mean": detector.mean, "std": detector.std}
    training = detection.training_transform(detector.size, **numbers)
    evaluation = detection.evaluation_transform(detector.size, **numbers)
    train, plain = (data.split(data.train, transform) for transform in (training, evaluation))
    judged = data.split(data.judged, evaluation)
    options: dict[str, Any] = {
        "batch_size": batch,
        "num_workers": workers,
        "collate_fn": detection.collate,
    }
    shuffled = {"shuffle": True, "drop_last": len(train) >= batch, **options}
    return Data(
        train=DataLoader(train, **shuffled),
        calibrating=DataLoader(plain, **shuffled),
        judge=partial(detection.evaluate, loader=DataLoader(judged, **options), detector=detector),
        judged=data.judged_name,
        loss=detector.loss,
        distil=detection.distillation,
        remark=detection.told_dropped(data.dropped),
    )


def _size(input: Sequence[int]) -> str:
    return "x".join(map(str, input))


def input_size(text: str) -> tuple[int, int, int]:
    """Read `3x224x224`.

    Raises:
        ValueError: If it reads otherwise.
    """
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", text):
        raise ValueError(f"an input reads like 3x224x224, not {text!r}")
    channels, height, width = map(int, text.split("x"))
    return channels, height, width
