"""`latprune plan` and `latprune frontier`: what a budget would do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latprune.cli.elsewhere import chosen_device, needs_table
from latprune.cli.opening import opened
from latprune.cli.options import (
    AsJson,
    Batch,
    Branches,
    BudgetText,
    Classes,
    Criterion,
    DataPath,
    Input,
    Keep,
    Model,
    On,
    Pack,
    Precision,
    Pretrained,
    Runtime,
    SolverName,
    TableFile,
    Task,
    TestSplit,
    Threads,
    TrainBatch,
    TrainSplit,
    Weights,
    Workers,
    budget_of,
    criterion_of,
    solver_of,
    source_of,
    target_of,
    usage,
)
from latprune.cli.shown import show

if TYPE_CHECKING:
    from latprune.cli.job import Source, Splits
    from latprune.cli.planned import Known
    from latprune.latency.devices import Device
    from latprune.latency.target import Target
    from latprune.progress import Progress


def plan_command(
    context: typer.Context,
    model: Model,
    budget: BudgetText,
    weights: Weights = None,
    pretrained: Pretrained = False,
    task: Task = "classification",
    classes: Classes = None,
    input: Input = None,
    data: DataPath = None,
    train_split: TrainSplit = None,
    test_split: TestSplit = None,
    runtime: Runtime = "onnxruntime",
    precision: Precision = "fp32",
    batch: Batch = 1,
    threads: Threads = 1,
    criterion: Criterion = None,
    solver: SolverName = "joint",
    keep: Keep = None,
    branches: Branches = False,
    train_batch: TrainBatch = 32,
    workers: Workers = 0,
    on: On = None,
    table: TableFile = None,
    pack: Pack = None,
    as_json: AsJson = False,
) -> None:
    """Show what a budget would do; cut nothing.

    Without --data, channels are scored by magnitude.
    """
    from latprune.cli.live import working
    from latprune.cli.planned import choose

    source = source_of(
        model, weights, pretrained=pretrained, classes=classes, input=input, task=task
    )
    allowed = budget_of(budget)
    chosen, by = criterion_of(criterion, data), solver_of(solver)
    needs_table(table, pack)
    with chosen_device(context, on, table, pack) as device, working() as progress:
        target = target_of(device, runtime, precision=precision, batch=batch, threads=threads)
        known = _known(
            source,
            target,
            chosen,
            data,
            (train_split, test_split),
            train_batch,
            workers,
            keep,
            branches,
            progress,
            device,
        )
        planned = choose(known, allowed, solver=by, progress=progress)
    show(planned.to_json() if as_json else planned.render())


def frontier_command(
    context: typer.Context,
    model: Model,
    weights: Weights = None,
    pretrained: Pretrained = False,
    task: Task = "classification",
    classes: Classes = None,
    input: Input = None,
    data: DataPath = None,
    train_split: TrainSplit = None,
    test_split: TestSplit = None,
    runtime: Runtime = "onnxruntime",
    precision: Precision = "fp32",
    batch: Batch = 1,
    threads: Threads = 1,
    criterion: Criterion = None,
    keep: Keep = None,
    branches: Branches = False,
    train_batch: TrainBatch = 32,
    workers: Workers = 0,
    on: On = None,
    table: TableFile = None,
    pack: Pack = None,
    points: Annotated[int, typer.Option("--points", min=2, help="To show, about.")] = 12,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw to this picture (.png, .svg, .pdf).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what could be kept at every latency; cut nothing.

    Without --data, channels are scored by magnitude.
    """
    from latprune.cli.drawn import draw
    from latprune.cli.live import working

    source = source_of(
        model, weights, pretrained=pretrained, classes=classes, input=input, task=task
    )
    chosen = criterion_of(criterion, data)
    needs_table(table, pack)
    with chosen_device(context, on, table, pack) as device, working() as progress:
        target = target_of(device, runtime, precision=precision, batch=batch, threads=threads)
        known = _known(
            source,
            target,
            chosen,
            data,
            (train_split, test_split),
            train_batch,
            workers,
            keep,
            branches,
            progress,
            device,
        )
        drawn = draw(known, points=points, progress=progress)
    if plot is not None:
        with usage("--plot"):
            drawn.plot(plot)
    show(drawn.to_json() if as_json else drawn.render())


def _known(
    source: Source,
    target: Target,
    criterion: str,
    data: Path | None,
    splits: Splits,
    train_batch: int,
    workers: int,
    keep: list[str] | None,
    branches: bool,
    progress: Progress,
    device: Device,
) -> Known:
    """Open the network, and its data if they are to score with; trace, measure and score."""
    from latprune.cli.planned import look
    from latprune.tuning import cross_entropy

    network = source.open()
    found = None
    if data is not None and criterion != "magnitude":
        found = opened(data, network, train_batch, workers, splits)
    return look(
        network,
        target,
        criterion=criterion,
        loader=found.train if found else None,
        loss=found.loss if found else cross_entropy,
        keep=tuple(keep or ()),
        branches=branches,
        progress=progress,
        device=device,
    )
