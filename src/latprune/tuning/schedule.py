"""The learning rate climbs in a line and falls along half a cosine; norms are not decayed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

    from latprune.tuning.recipe import Recipe


def learning_rate(recipe: Recipe, step: int, *, steps_per_epoch: int) -> float:
    """Give the learning rate of one step.

    Args:
        recipe: Its `lr` is the peak.
        step: Counted from 0 over the whole run.
        steps_per_epoch: Of one process.

    Source:
        Loshchilov and Hutter, "SGDR", ICLR 2017 (one cycle); Goyal et al., "Accurate, Large
        Minibatch SGD", 2017 (warm-up).
    """
    steps = recipe.epochs * steps_per_epoch
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), steps - 1)
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    fallen = (step - warmup) / (steps - warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * fallen))


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Give the recipe's optimizer over the parameters that take gradients."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov)
