"""`latprune check`: a pruned network, measured again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from latprune.cli.elsewhere import chosen_device
from latprune.cli.opening import opened
from latprune.cli.options import (
    AsJson,
    Calibration,
    Classes,
    CropPct,
    DataPath,
    Input,
    Model,
    On,
    Pretrained,
    PrunedFile,
    Task,
    TestSplit,
    TrainBatch,
    TrainSplit,
    Weights,
    Workers,
    source_of,
    target_of,
)
from latprune.cli.shown import complain, conclude

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn


def check_command(
    context: typer.Context,
    model: Model,
    pruned: PrunedFile,
    weights: Weights = None,
    pretrained: Pretrained = False,
    task: Task = "classification",
    classes: Classes = None,
    input: Input = None,
    crop_pct: CropPct = None,
    data: DataPath = None,
    train_split: TrainSplit = None,
    test_split: TestSplit = None,
    train_batch: TrainBatch = 32,
    workers: Workers = 0,
    calibration: Calibration = 8,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Measure a pruned network again.

    It is timed beside the dense one, and with --data both are judged, as torch runs them in fp32
    and, if the plan was made for int8, as they ship. Without the dense network's weights only the
    pruned one's accuracy is shown.
    """
    from latprune.cli.live import working
    from latprune.graph.tracing import trace
    from latprune.report import check
    from latprune.surgery import load, load_plan

    source = source_of(model, weights, pretrained, classes, input, crop_pct, task)
    stored = load_plan(pruned)
    was = stored.target
    with chosen_device(context, on) as device, working() as progress:
        here = target_of(
            device, was.runtime, precision=was.precision, batch=was.batch, threads=was.threads
        )
        if here != was:
            complain(f"planned for {was.describe()}; measured on {here.describe()}")
        in_int8 = here.precision == "int8"
        network = source.open()
        small = load(pruned, network.model)
        example = network.example(here.batch)
        found = None
        if data is not None:
            found = opened(data, network, train_batch, workers, (train_split, test_split))

        def judge(judged: nn.Module) -> Mapping[str, float]:
            known = judged is not network.model or source.is_trained
            return found.judge(judged) if found and known else {}

        progress.stage("trace")
        graph = trace(network.model, example)
        progress.stage("check")
        report = check(
            network.model,
            small,
            replace(stored, target=here),
            example,
            graph=graph,
            evaluate=judge,
            calibration=found.calibration(calibration) if found and in_int8 else None,
            device=device,
        )
    conclude(report, report.to_json() if as_json else None)
