"""Options that say which network it is, and how it is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from latprune.cli.folder import PRUNED
from latprune.cli.options.usage import usage
from latprune.errors import or_meant

if TYPE_CHECKING:
    from latprune.cli.job import Source

TASKS = ("classification", "detection")

_MODEL = typer.Option(
    "--model",
    metavar="SPEC",
    help="timm:NAME, torchvision:NAME or PATH.py:FACTORY (a function that returns a module; "
    "the file is executed); detectors also latprune:ssd512_resnet50.",
)
Model = Annotated[str, _MODEL]
OptionalModel = Annotated[str | None, _MODEL]
Task = Annotated[
    str,
    typer.Option(
        "--task",
        help="classification or detection: what the network does, and how --data is laid out.",
    ),
]
Classes = Annotated[
    int | None, typer.Option("--classes", min=1, help="The model's outputs, if not its default.")
]
Input = Annotated[
    str | None, typer.Option("--input", metavar="CxHxW", help="The input's size: 3x224x224.")
]
Weights = Annotated[
    Path | None, typer.Option("--weights", help="The dense network's weights (.safetensors, .pt).")
]
Pretrained = Annotated[
    bool,
    typer.Option("--pretrained/--no-pretrained", help="Fetch the library's published weights."),
]
CropPct = Annotated[
    float | None,
    typer.Option("--crop-pct", help="Share of a resized picture that evaluation keeps."),
]


def within(path: Path) -> Path:
    """Give the network in a folder that `prune --out` wrote, where the folder is named.

    Raises:
        BadParameter: If there is none.
    """
    if not path.is_dir():
        return path
    if not (path / PRUNED).is_file():
        raise typer.BadParameter(
            f"{path} is a folder without {PRUNED}: name the file, or what prune was given as --out "
            f"once it is done"
        )
    return path / PRUNED


PrunedFile = Annotated[
    Path,
    typer.Option(
        "--pruned",
        callback=within,
        help="What `latprune prune` wrote: pruned.safetensors, or the folder that it is in.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a network is built."""

    heading: ClassVar[str] = "The network"

    task: Task = "classification"
    classes: Classes = None
    input: Input = None


@dataclass(frozen=True, kw_only=True)
class Architecture(Form):
    """A network, whatever its weights."""

    model: Model

    def source(self) -> Source:
        """Read where the network comes from.

        Raises:
            BadParameter: If the task or the input's size cannot be read.
        """
        from latprune.cli.job import Source, input_size

        if self.task not in TASKS:
            sentence = f"{self.task} is none of {', '.join(TASKS)}{or_meant(self.task, TASKS)}"
            raise typer.BadParameter(sentence, param_hint="--task")
        if self.task == "detection" and self.input is not None:
            raise typer.BadParameter("a detector has a size of its own", param_hint="--input")
        with usage("--input"):
            size = None if self.input is None else input_size(self.input)
        return Source(**{**vars(self), "input": size})


@dataclass(frozen=True, kw_only=True)
class Dense(Architecture):
    """A network with its weights."""

    weights: Weights = None
    pretrained: Pretrained = False


@dataclass(frozen=True, kw_only=True)
class Judged(Dense):
    """A network whose accuracy is measured."""

    crop_pct: CropPct = None

    def source(self) -> Source:
        """Read where the network comes from, and how pictures are cropped for it.

        Raises:
            BadParameter: As `Architecture.source`, if a detector's pictures shall be cropped, or if
                the crop is no share.
        """
        if self.task == "detection" and self.crop_pct is not None:
            raise typer.BadParameter("a detector has a size of its own", param_hint="--crop-pct")
        if self.crop_pct is not None:
            from latprune.tasks.preprocessing import Preprocessing

            with usage("--crop-pct"):
                Preprocessing(crop_pct=self.crop_pct)
        return super().source()
