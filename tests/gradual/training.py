"""A small network in a small loop, as a user would write it, with latencies by formula."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import latprune as lp
from tests.networks import ConvNorm, Head
from tests.synthetic import Synthetic

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

EXAMPLE = torch.zeros(1, 3, 12, 12)
CLASSES = 5


class Network(nn.Module):
    """A trunk that two layers write, a branch of its own width, a depthwise and a last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = ConvNorm(3, 24), ConvNorm(24, 32)
        self.outer, self.norm = nn.Conv2d(32, 24, 1), nn.BatchNorm2d(24)
        self.depth, self.last = ConvNorm(24, 24, groups=24), nn.Conv2d(24, 40, 1)
        self.head = Head(40, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.norm(self.outer(self.inner(x)))
        return self.head(F.relu(self.last(self.depth(x))))  # type: ignore[no-any-return]


def network() -> Network:
    torch.manual_seed(3)
    return Network()


def measured(model: nn.Module, folder: Path) -> tuple[lp.PruningGraph, lp.LatencyTable]:
    """Trace and measure by `Synthetic`'s formula."""
    modes = model.training
    with pytest.MonkeyPatch.context() as patch:
        Synthetic(rest_ms=0.01).install(patch)
        graph = lp.trace(model.eval(), EXAMPLE)
        target = lp.Target.here("synthetic")
        table = lp.measure(model, graph, EXAMPLE, target, folder=folder)
    model.train(modes)
    return graph, table


def batch(number: int, size: int = 6) -> tuple[Tensor, Tensor]:
    """Give the same batch for the same number."""
    generator = torch.Generator().manual_seed(number)
    labels = torch.randint(0, CLASSES, (size,), generator=generator)
    images = torch.randn(size, *EXAMPLE.shape[1:], generator=generator)
    return images + labels.view(-1, 1, 1, 1), labels


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    pruning: lp.GradualPruning,
    numbers: Iterable[int],
) -> list[lp.Plan]:
    """Train as the README shows it; give the plans."""
    plans = []
    for number in numbers:
        images, labels = batch(number)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        plan = pruning.step()
        if plan is not None:
            plans.append(plan)
    return plans


def begun(folder: Path, budget: Any = 0.5, **options: Any) -> tuple[nn.Module, Any, Any]:
    """Give a network, its optimizer and its pruning, three cuts after two steps each."""
    model = network()
    graph, table = measured(model, folder)
    make = options.pop("optimizer", lambda ps: torch.optim.SGD(ps, lr=0.05, momentum=0.9))
    optimizer = make(model.parameters())
    options = {"every": 2, "steps": 3, **options}
    return (
        model,
        optimizer,
        lp.prune_in_steps(model, graph, table, budget, optimizer=optimizer, **options),
    )
