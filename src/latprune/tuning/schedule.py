"""The learning rate climbs in a line and falls along half a cosine; norms are not decayed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
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


def check_trained(model: nn.Module) -> None:
    """Refuse a network that training would leave as it is.

    Raises:
        ValueError: If none of its parameters takes gradients.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "no parameter of the network takes gradients, so there is nothing to tune: let those "
            "that tuning may change, with requires_grad_(), or leave the recipe out"
        )


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Give the recipe's optimizer over the parameters that take gradients.

    Biases, norms and whatever else is one number per channel, as the constants of removed branches
    and the gains of `weight_norm`, are not decayed.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = _weights(model)
    groups = [
        {
            "params": [p for p in trained if (id(p) in weights or _is_more(p)) == is_decayed],
            "weight_decay": recipe.weight_decay if is_decayed else 0.0,
        }
        for is_decayed in (True, False)
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov)


def _weights(model: nn.Module) -> set[int]:
    """Give the ids of what layers multiply by; with a single input it is one number per channel."""
    layers = (m for m in model.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd))
    return {id(layer._parameters.get("weight")) for layer in layers}


def _is_more(parameter: nn.Parameter) -> bool:
    """Whether a parameter is more than one number per channel, its first axis."""
    return parameter.dim() > 1 and parameter.numel() > len(parameter)
