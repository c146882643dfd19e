"""`latprune prune`: a smaller network."""

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
    Calibration,
    Classes,
    Criterion,
    CropPct,
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
    criteria_of,
    solver_of,
    source_of,
    target_of,
    usage,
)
from latprune.cli.shown import conclude

if TYPE_CHECKING:
    from latprune.cli.job import Data


def prune_command(
    context: typer.Context,
    model: Model,
    budget: BudgetText,
    out: Annotated[Path, typer.Option("--out", help="Folder for the result.")],
    weights: Weights = None,
    pretrained: Pretrained = False,
    task: Task = "classification",
    classes: Classes = None,
    input: Input = None,
    crop_pct: CropPct = None,
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
    epochs: Annotated[int, typer.Option("--epochs", min=0, help="Of tuning.")] = 5,
    lr: Annotated[float, typer.Option("--lr", help="Highest learning rate of tuning.")] = 0.01,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of tuning.")] = 0,
    train_batch: TrainBatch = 32,
    workers: Workers = 0,
    calibration: Calibration = 8,
    on: On = None,
    table: TableFile = None,
    pack: Pack = None,
    as_json: AsJson = False,
) -> None:
    """Prune a network to a budget and tune it.

    Without --data, channels are scored by magnitude and nothing is tuned. The folder --out gets
    pruned.safetensors, report.json and report.txt. After Ctrl-C the same command goes on.
    """
    from latprune.cli.folder import RunFolder
    from latprune.cli.live import working
    from latprune.pipeline import prune
    from latprune.report.text import to_text
    from latprune.tuning import Recipe, cross_entropy

    source = source_of(model, weights, pretrained, classes, input, crop_pct, task)
    allowed = budget_of(budget)
    chosen, by = criteria_of(criterion, data), solver_of(solver)
    with usage("--lr"):
        recipe = Recipe(epochs=epochs, lr=lr, seed=seed) if epochs and data else None
    needs_table(table, pack)
    with chosen_device(context, on, table, pack) as device, working() as progress:
        target = target_of(device, runtime, precision=precision, batch=batch, threads=threads)
        arguments = {
            **vars(source),
            "data": data,
            "target": target.to_json(),
            "budget": allowed.to_json(),
            "criterion": ",".join(chosen),
            "solver": solver,
            "keep": keep or [],
            "branches": branches,
            "epochs": epochs if data else 0,
            "lr": lr,
            "seed": seed,
            "train_batch": train_batch,
            "splits": [train_split, test_split],
        }
        network = source.open()
        found: Data | None = None
        if data is not None:
            found = opened(data, network, train_batch, workers, (train_split, test_split))
        with usage("--out"):
            folder = RunFolder.claim(out, "prune", arguments)
        pruned = prune(
            network.model,
            network.example(batch),
            allowed,
            loader=found.train if found else None,
            loss=found.loss if found else cross_entropy,
            distil=found.distil if found else None,
            evaluate=found.judge if found and source.is_trained else None,
            target=target,
            keep=tuple(keep or ()),
            branches=branches,
            criterion=chosen,
            solver=by,
            recipe=recipe,
            calibration_batches=calibration,
            checkpoint=folder.checkpoint,
            progress=progress,
            device=device,
        )
        facts = {
            **pruned.report.to_json(),
            "before_tuning": dict(pruned.before_tuning),
            "reranked": dict(pruned.reranked),
        }
        folder.keep(pruned, facts=facts, text=to_text(pruned.report))
    conclude(pruned.report, facts if as_json else None)
