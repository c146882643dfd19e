"""A width is worth the loss that was measured without the other channels.

Scores of single channels add up to a poor forecast of what many of them do together. So the
network is run with a group masked to a few of its widths, and the loss that this adds is the
value that the knapsack trades for milliseconds.
"""

from __future__ import annotations

import copy
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from latprune.errors import NotFinite
from latprune.graph.slicing import TOUCHING, tensor_of, zero_channels
from latprune.modes import moved
from latprune.progress import Quiet
from latprune.saliency.fisher import fisher
from latprune.saliency.scores import Saliency

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor, nn

    from latprune.graph.groups import ChannelGroup, PruningGraph
    from latprune.progress import Progress

    Batch = tuple[Tensor, Any]
    Loss = Callable[[Any, Any], Tensor]

SHARES = (0.25, 0.5, 0.75)
"""The widths that groups are masked to, beside 0, by default."""


def probe(
    model: nn.Module,
    graph: PruningGraph,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    order: Saliency | None = None,
    shares: Sequence[float] = SHARES,
    images: int = 128,
    progress: Progress | None = None,
) -> Saliency:
    """Measure, group by group, the loss that fewer channels add.

    A group is masked where it is written and read: the network then computes what it would compute
    cut. Batch norms use the statistics of the batch, as they would once re-estimated after the cut.
    Between the widths that were tried the loss follows the scores of the channels lost; where it
    falls with fewer channels, it counts as level.

    Args:
        model: As for `taylor`; it stays as it is.
        graph: The channel groups.
        batches: Pairs (inputs, labels) on any device, of at least about 32 samples each where
            the network has batch norms.
        loss: Gives a scalar for (outputs, labels), the mean over the batch.
        order: Says which channels go first; by default `fisher` on the same samples.
        shares: Of a group's channels, to mask it to beside none at all; in (0, 1).
        images: At most so many samples are used, and kept in memory.
        progress: Is told of every width.

    Returns:
        The scores of `order`, with curves in units of the loss. It takes (1 + number of shares)
        forward passes over the images for every group.

    Raises:
        NotFinite: If the loss is nan or infinite, or too many batches of `order` are.
        ModelMismatch: If `graph` was traced from another model.
        ValueError: If there are no batches, or a share is not between 0 and 1.
    """
    if not all(0 < share < 1 for share in shares):
        raise ValueError(f"groups are masked to shares between 0 and 1, not to {list(shares)}")
    progress = progress or Quiet()
    samples = _first(batches, images)
    order = fisher(model, graph, samples, loss) if order is None else order
    order.check(graph)
    trial = _Trial.of(model, samples, loss)
    dense = trial.loss("the dense network") if graph.groups else 0.0
    total = sum(len(_widths(group, shares)) for group in graph.groups)
    curves: dict[str, np.ndarray] = {}
    done = 0
    for group in graph.groups:
        ranked, added = order.ranked(group.name), {group.channels: 0.0}
        for width in _widths(group, shares):
            with _masked(trial.model, group, ranked[:width]):
                masked = trial.loss(f"{group.name} masked to {width} of {group.channels} channels")
            added[width] = masked - dense
            done += 1
            progress.step(done, total, "widths probed")
        curves[group.name] = _curve(added, order.values(group.name))
    return Saliency(order.scores, criterion="probe", curves=curves)


@dataclass(frozen=True, eq=False)
class _Trial:
    """A copy of the network to mask, and what to judge it on."""

    model: nn.Module
    samples: Sequence[Batch]
    judge: Loss

    @classmethod
    def of(cls, model: nn.Module, samples: Sequence[Batch], judge: Loss) -> _Trial:
        trial = copy.deepcopy(model).eval()
        for module in trial.modules():
            if isinstance(module, _BatchNorm):
                module.training = True
        return cls(trial, samples, judge)

    @torch.no_grad()
    def loss(self, what: str) -> float:
        """Give the mean over all samples."""
        device = next(self.model.parameters()).device
        total, count = 0.0, 0
        for inputs, labels in self.samples:
            value = self.judge(self.model(inputs.to(device)), moved(labels, device))
            total, count = total + len(inputs) * float(value), count + len(inputs)
        if not math.isfinite(total):
            raise NotFinite(f"{what} has a loss of {total / count}: check inputs, weights and loss")
        return total / count


@contextmanager
def _masked(model: nn.Module, group: ChannelGroup, kept: np.ndarray) -> Iterator[None]:
    """Mask a group's other channels where they are written and read, for as long as it takes."""
    touched = {m.parameter: tensor_of(model, m.parameter) for m in group.with_role(*TOUCHING)}
    before = {name: tensor.detach().clone() for name, tensor in touched.items()}
    zero_channels(model, [group], {group.name: kept.tolist()})
    try:
        yield
    finally:
        for name, tensor in touched.items():
            tensor.data.copy_(before[name])


def _first(batches: Iterable[Batch], images: int) -> list[Batch]:
    """Take the first samples; a lone one only if there is no other."""
    samples: list[Batch] = []
    left = images
    for inputs, labels in batches:
        if len(inputs[:left]) > 1 or not samples:
            samples.append((inputs[:left], labels[:left]))
        left -= len(inputs)
        if left <= 0:
            break
    if not samples:
        raise ValueError("probe needs at least one batch to measure with, and was given none")
    return samples


def _widths(group: ChannelGroup, shares: Sequence[float]) -> list[int]:
    """Give the widths to mask a group to, from wide to narrow."""
    steps = group.channels // group.multiple
    some = {round(share * steps) * group.multiple for share in shares}
    return sorted({0, *some} - {group.channels}, reverse=True)


def _curve(added: dict[int, float], worth: np.ndarray) -> np.ndarray:
    """Give what every width is worth, [channels + 1].

    Args:
        added: The loss that some widths add, among them 0 and all channels.
        worth: What every width is worth by the scores alone; says how the loss moves in between.
    """
    widths = sorted(added)
    # What a wider mask adds, a narrower one adds at least.
    least = np.maximum.accumulate([max(added[width], 0.0) for width in reversed(widths)])[::-1]
    curve = np.empty(len(worth))
    for low, high, loss, less in zip(widths, widths[1:], least, least[1:], strict=False):
        inner = worth[low : high + 1]
        rise = inner[-1] - inner[0]
        share = (inner - inner[0]) / rise if rise > 0 else np.linspace(0, 1, high - low + 1)
        curve[low : high + 1] = loss - share * (loss - less)
    return np.maximum.accumulate(curve[0] - curve)
