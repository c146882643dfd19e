"""`latprune prune`: a smaller network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latprune.cli.config import Config
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
from latprune.cli.teaching import (
    AutoAugment,
    ClipNorm,
    Distillation,
    Ema,
    Epochs,
    Every,
    LabelSmoothing,
    Lr,
    Momentum,
    Optimizer,
    Seed,
    Soft,
    Steps,
    WarmupEpochs,
    WeightDecay,
    augmentation_of,
    recipe_of,
    refuse_steps,
)

if TYPE_CHECKING:
    from latprune.cli.job import Data


def prune_command(
    context: typer.Context,
    model: Model,
    budget: BudgetText,
    out: Annotated[Path, typer.Option("--out", help="Folder for the result.")],
    config: Config = None,
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
    steps: Steps = None,
    every: Every = 40,
    soft: Soft = False,
    epochs: Epochs = 5,
    lr: Lr = 0.01,
    optimizer: Optimizer = "sgd",
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 1e-4,
    warmup_epochs: WarmupEpochs = 0.5,
    label_smoothing: LabelSmoothing = 0.0,
    distillation: Distillation = 0.5,
    ema: Ema = None,
    clip_norm: ClipNorm = None,
    auto_augment: AutoAugment = None,
    seed: Seed = 0,
    train_batch: TrainBatch = 32,
    workers: Workers = 0,
    calibration: Calibration = 8,
    on: On = None,
    table: TableFile = None,
    pack: Pack = None,
    as_json: AsJson = False,
) -> None:
    """Prune a network to a budget and tune it; with --steps, prune it while it is trained.

    Without --data, channels are scored by magnitude and nothing is tuned. The folder --out gets
    pruned.safetensors, report.json and report.txt. After Ctrl-C the same command goes on. With
    --steps it may be started by `accelerate launch -m`, in as many processes as there are GPUs.
    """
    from latprune.cli.folder import RunFolder
    from latprune.cli.live import working
    from latprune.gradual.processes import meet, rank, shared
    from latprune.gradually import check_room, prune_gradually
    from latprune.pipeline import prune
    from latprune.report.text import to_text
    from latprune.tuning import cross_entropy

    del config  # its values are the other arguments' by now
    source = source_of(model, weights, pretrained, classes, input, crop_pct, task)
    allowed = budget_of(budget)
    chosen, by = criteria_of(criterion, data), solver_of(solver)
    recipe = None
    if epochs and data:
        recipe = recipe_of(
            task,
            epochs=epochs,
            lr=lr,
            optimizer=optimizer,
            momentum=momentum,
            weight_decay=weight_decay,
            warmup_epochs=warmup_epochs,
            label_smoothing=label_smoothing,
            distillation=distillation,
            ema=ema,
            clip_norm=clip_norm,
            seed=seed,
        )
    refuse_steps(
        steps,
        trains=recipe is not None,
        criterion=criterion,
        branches=branches,
        carried=table or pack,
    )
    augmentation = augmentation_of(task, auto_augment)
    needs_table(table, pack)
    meet()
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
            "steps": steps,
            "every": every if steps else None,
            "soft": soft,
            **({"epochs": 0} if recipe is None else recipe.to_json()),
            "auto_augment": auto_augment,
            "train_batch": train_batch,
            "splits": [train_split, test_split],
        }
        network = source.open()
        found: Data | None = None
        if data is not None:
            splits = (train_split, test_split)
            found = opened(data, network, train_batch, workers, splits, auto_augment=augmentation)
        with usage("--out"):
            folder = shared(lambda: RunFolder.claim(out, "prune", arguments))
        common: dict[str, Any] = {
            "loss": found.loss if found else cross_entropy,
            "distil": found.distil if found else None,
            "evaluate": found.judge if found and source.is_trained else None,
            "target": target,
            "keep": tuple(keep or ()),
            "solver": by,
            "calibration_batches": calibration,
            "checkpoint": folder.checkpoint,
            "progress": progress,
            "device": device,
        }
        example = network.example(batch)
        if steps is not None and found is not None and recipe is not None:
            with usage("--every"):
                check_room(found.train, recipe, steps=steps, every=every)
            pruned = prune_gradually(
                network.model,
                example,
                allowed,
                loader=found.train,
                recipe=recipe,
                steps=steps,
                every=every,
                soft=soft,
                **common,
            )
        else:
            pruned = prune(
                network.model,
                example,
                allowed,
                loader=found.train if found else None,
                branches=branches,
                criterion=chosen,
                recipe=recipe,
                **common,
            )
        facts = {
            **pruned.report.to_json(),
            "before_tuning": dict(pruned.before_tuning),
            "reranked": dict(pruned.reranked),
        }
        if rank():
            return  # the first process speaks and writes for all
        folder.keep(pruned, facts=facts, text=to_text(pruned.report))
    conclude(pruned.report, facts if as_json else None)
