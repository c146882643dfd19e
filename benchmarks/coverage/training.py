"""One step of training: does the cut network run in training mode, and do gradients reach it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from benchmarks.coverage.networks import Task


def trains(model: nn.Module, example: torch.Tensor, task: Task) -> bool:
    """Run forward and backward in training mode.

    Args:
        model: Is left with gradients, in training mode.
        example: An input, [batch, ...].
        task: Detectors are given one box per image, and return their losses.

    Returns:
        Whether some parameters got gradients, and all of those are finite and of the right shape.
    """
    model.train()
    output = model(list(example), _boxes(example)) if task == "detection" else model(example)
    losses = [leaf.float().mean() for leaf in tree_leaves(output) if _differentiable(leaf)]
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    reached = [(p, p.grad) for p in model.parameters() if p.grad is not None]
    return bool(reached) and all(
        gradient.shape == parameter.shape and bool(gradient.isfinite().all())
        for parameter, gradient in reached
    )


def _differentiable(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.requires_grad


def _boxes(images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """One box per image, over the middle half of it."""
    low, high = images.shape[-1] / 4, images.shape[-1] * 3 / 4
    box = {"boxes": torch.tensor([[low, low, high, high]]), "labels": torch.tensor([1])}
    return [box for _ in images]
