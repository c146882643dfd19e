"""Pruning in steps within the tuning: as many pictures and the same schedule as in one shot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

import latprune as lp
from latprune.gradual.course import GRADUAL_DEFAULT
from latprune.tuning.replay import replayed
from latprune.tuning.schedule import build_optimizer, learning_rate
from studies.accuracy.lessons import batches, loss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from studies.accuracy.bench import Bench


def train(
    model: nn.Module,
    bench: Bench,
    settings: Mapping[str, Any],
    *,
    budget: str,
    recipe: lp.Recipe,
) -> tuple[float, int]:
    """Tune the dense network and narrow it meanwhile, in place.

    Returns:
        The mean loss, and how many cuts were made.
    """
    loader = replayed(
        batches(bench.lessons, batch_size=bench.config["batch_size"]), seed=recipe.seed
    )
    optimizer = build_optimizer(model, recipe)
    pruning = lp.prune_in_steps(
        model,
        bench.graph,
        bench.table,
        budget,
        optimizer=optimizer,
        every=settings["every"],
        steps=settings["steps"],
        soft=settings.get("soft", False),
        aim=settings["aim"],
        criterion=settings.get("criterion", GRADUAL_DEFAULT),
    )
    total = 0.0
    model.train()
    for step, (images, taught) in enumerate(loader.epoch(0)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step, steps_per_epoch=loader.steps)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            outputs = model(images.contiguous(memory_format=torch.channels_last))
        value = loss(outputs.float(), taught, recipe=recipe)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]  # torch's own omission
        optimizer.step()
        pruning.step()
        total += float(value.detach())
    model.eval()
    return total / loader.steps, pruning.taken
