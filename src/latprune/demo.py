"""The whole line on real data, offline, in a few minutes on two cores: `latprune demo`."""

from __future__ import annotations

import shlex
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from latprune.pipeline import prune
from latprune.progress import Quiet
from latprune.tasks import digits as task
from latprune.tasks.classification import evaluate
from latprune.tuning import Recipe, tune
from latprune.tuning.telling import tuning_steps

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from latprune.latency.target import Target
    from latprune.pipeline import Pruned
    from latprune.planning import Budget
    from latprune.progress import Progress

# fp32 is quick enough on every machine, and asks for no trial.
DENSE = Recipe(
    epochs=8, lr=0.05, weight_decay=5e-4, warmup_epochs=1.0, label_smoothing=0.1, precision="no"
)
SMALL = Recipe(epochs=5, lr=0.02, weight_decay=5e-4, warmup_epochs=0.5, precision="no")
TRAIN_BATCH, TEST_BATCH = 64, 256

Loader = DataLoader[Any]


def run(
    folder: Path,
    budget: Budget | str,
    *,
    dense: Recipe = DENSE,
    small: Recipe = SMALL,
    target: Target | None = None,
    progress: Progress | None = None,
) -> Pruned:
    """Train a compact residual network on handwritten digits, prune and tune it.

    Args:
        folder: Keeps `dense.safetensors` (weights) and what an interrupted run needs to go on.
        budget: What the pruned network may take.
        dense: How the network is trained.
        small: How the pruned network is tuned.
        target: Where it will run; by default ONNX Runtime here, one picture on one thread.
        progress: Is told of every stage.

    Raises:
        MissingExtra: If a library of the extra `demo` is not installed.
    """
    progress = progress or Quiet()
    train, test = _loaders()
    judge = partial(evaluate, loader=test)
    model = _trained(train, dense, folder, progress)
    return prune(
        model,
        torch.zeros(1, 1, task.SIZE, task.SIZE),
        budget,
        target=target,
        loader=train,
        recipe=small,
        evaluate=judge,
        checkpoint=folder / "checkpoint",
        progress=progress,
    )


def next_commands(folder: Path, *, program: str = "latprune") -> list[str]:
    """Give what to type after the demonstration, the shell finding the command as `program`."""
    model = ("--model", f"{task.__file__}:network", "--input", f"1x{task.SIZE}x{task.SIZE}")
    pruned = ("--pruned", str(folder / "pruned.safetensors"))
    commands = [
        (program, "check", *model, *pruned),
        (program, "export", *model, *pruned, "--to", str(folder / "pruned.onnx")),
        (program, "prune", "--help"),
    ]
    return [*map(shlex.join, commands)]


def _trained(train: Loader, recipe: Recipe, folder: Path, progress: Progress) -> nn.Module:
    """Train the dense network, or finish what was begun in the folder."""
    progress.stage("train the dense network")
    torch.manual_seed(recipe.seed)
    tuned = tune(
        task.network(),
        train,
        recipe=recipe,
        checkpoint=folder / "dense",
        progress=tuning_steps(progress),
    )
    save_file(tuned.model.state_dict(), folder / "dense.safetensors")
    return tuned.model


def _loaders() -> tuple[Loader, Loader]:
    digits = task.digits()
    train: Loader = DataLoader(digits.train, batch_size=TRAIN_BATCH, shuffle=True, drop_last=True)
    test: Loader = DataLoader(digits.test, batch_size=TEST_BATCH)
    return train, test
