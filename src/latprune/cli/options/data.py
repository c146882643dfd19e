"""Options that say where labelled pictures are, and how they are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from latprune.cli.shown import complain

if TYPE_CHECKING:
    from latprune.cli.job import Data, Network

DataPath = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Pictures as train/CLASS/*, test/CLASS/* (or val/), in a folder or a zip. Folders "
        "named by WordNet id are ImageNet's classes. For detection, VOC's layout. Or hf:NAME, of "
        "Hugging Face's data sets, with the name on the hub or a folder.",
    ),
]
TrainSplit = Annotated[
    str | None,
    typer.Option(
        "--train-split",
        metavar="[YEARS:]SPLIT",
        help="For detection, what to learn from: 2007+2012:trainval.",
    ),
]
TestSplit = Annotated[
    str | None,
    typer.Option(
        "--test-split",
        metavar="[YEARS:]SPLIT",
        help="For detection, what to judge with: 2007:test.",
    ),
]
TrainBatch = Annotated[
    int, typer.Option("--train-batch", min=2, help="Pictures in a batch of scoring and tuning.")
]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Processes that load pictures.")]
Calibration = Annotated[
    int,
    typer.Option("--calibration", min=1, help="Batches of --data that set the scales of int8."),
]


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Labelled pictures, if there are any."""

    heading: ClassVar[str] = "Its data"

    data: DataPath = None
    train_split: TrainSplit = None
    test_split: TestSplit = None
    train_batch: TrainBatch = 32
    workers: Workers = 0

    @property
    def splits(self) -> tuple[str | None, str | None]:
        """What a detector learns from, and what it is judged with."""
        return self.train_split, self.test_split

    @property
    def place(self) -> Path | None:
        """Where the pictures are, as a path that means the same from every folder."""
        from latprune.tasks.data import HUGGING_FACE

        if self.data is None or str(self.data).startswith(HUGGING_FACE):
            return self.data
        return self.data.resolve()

    def check_splits(self, task: str) -> None:
        """See that splits are named only where that says something.

        Raises:
            BadParameter: If not.
        """
        for option, given in (("--train-split", 0), ("--test-split", 1)):
            if self.splits[given] is None:
                continue
            if task != "detection":
                sentence = (
                    "it is for --task detection; a classifier learns from train/ of --data and is "
                    "judged on test/, or else val/"
                )
                raise typer.BadParameter(sentence, param_hint=option)
            if self.data is None:
                raise typer.BadParameter("a split of what? give --data", param_hint=option)

    def open(self, network: Network, *, auto_augment: str | None = None) -> Data | None:
        """Open the pictures for a network, and say what somebody should know of them."""
        from latprune.cli.job import open_data

        self.check_splits("classification" if network.detector is None else "detection")
        if self.data is None:
            return None
        found = open_data(
            self.data,
            network,
            batch=self.train_batch,
            workers=self.workers,
            splits=self.splits,
            auto_augment=auto_augment,
        )
        if found.remark:
            complain(found.remark)
        return found


@dataclass(frozen=True, kw_only=True)
class Calibrating(Labelled):
    """Labelled pictures, some of which calibrate int8."""

    calibration: Calibration = 8
