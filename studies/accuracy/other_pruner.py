"""Torch-Pruning's own pruner: global Taylor importance, dependency graph, channels in multiples.

Source:
    Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023; the package torch-pruning.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch

import latprune as lp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    Batches = Iterable[tuple[Tensor, Tensor]]

RATIOS = [step / 20 for step in range(1, 20)]
MOST_RATIOS = (
    1.0,
    0.5,
)  # of one layer: left to itself the pruner skips layers that rounding empties


@dataclass(frozen=True)
class Candidate:
    """A network that the pruner gives.

    Attributes:
        model: The network.
        ratio: The share of channels that it was told to remove.
        most: The largest share that it was allowed to remove of one layer.
    """

    model: nn.Module
    ratio: float
    most: float


def candidates(
    model: nn.Module, example: Tensor, batches: Batches, *, round_to: int
) -> list[Candidate]:
    """Prune to every ratio, in one step each; networks that are alike once."""
    scored = _with_gradients(model, batches)
    found: dict[tuple[Any, ...], Candidate] = {}
    for most, ratio in product(MOST_RATIOS, RATIOS):
        small = _pruned(scored, example, ratio, most=most, round_to=round_to)
        shapes = tuple(tuple(tensor.shape) for tensor in small.state_dict().values())
        found.setdefault(shapes, Candidate(small, ratio, most))
    return list(found.values())


def _with_gradients(model: nn.Module, batches: Batches) -> nn.Module:
    """Give a copy that holds the gradient of the loss over all batches, as the pruner expects."""
    scored = copy.deepcopy(model).eval()
    scored.zero_grad()
    for images, labels in batches:
        loss = lp.cross_entropy(scored(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own omission
    return scored


def _pruned(
    scored: nn.Module, example: Tensor, ratio: float, *, most: float, round_to: int
) -> nn.Module:
    import torch_pruning  # of this study alone

    small = copy.deepcopy(scored)
    for copied, original in zip(small.parameters(), scored.parameters(), strict=True):
        copied.grad = None if original.grad is None else original.grad.clone()
    pruner = torch_pruning.pruner.BasePruner(
        small,
        example,
        importance=torch_pruning.importance.GroupTaylorImportance(),
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=most,
        round_to=round_to,
        ignored_layers=[m for m in small.modules() if isinstance(m, torch.nn.Linear)],
    )
    pruner.step()
    small.zero_grad()
    return small.eval()
