"""A width is worth what was measured to be lost without the other channels.

Scores of single channels do not say what many of them do together. So the network is run with a
group masked to a few of its widths, and the loss that this adds, or how far it moves the outputs,
is the value that the knapsack trades for milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from latprune.progress import Quiet
from latprune.saliency.fisher import fisher
from latprune.saliency.masking import MaskedTrial
from latprune.saliency.scores import Saliency
from latprune.samples import at_most, samples_of, several

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor, nn

    from latprune.graph.groups import ChannelGroup, PruningGraph
    from latprune.progress import Progress
    from latprune.saliency.masking import Batch

SHARES = (0.25, 0.5, 0.75)
"""The widths that groups are masked to, beside 0, by default."""


def probe(
    model: nn.Module,
    graph: PruningGraph,
    batches: Iterable[Any],
    loss: Callable[[Any, Any], Tensor],
    *,
    order: Saliency | None = None,
    shares: Sequence[float] = SHARES,
    images: int = 128,
    by: Literal["loss", "outputs"] = "loss",
    progress: Progress | None = None,
) -> Saliency:
    """Measure, group by group, what fewer channels cost.

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
        images: At most so many samples are used, and kept in memory; whole batches where labels
            cannot be taken apart.
        by: Whether to measure the loss that is added, or the mean squared difference from the
            outputs [n, …] of the whole network, which few samples suffice for, and which hardly
            ever falls with fewer channels.
        progress: Is told of every width.

    Returns:
        The scores of `order`, with curves in units of the loss, or of the outputs squared. It takes
        (1 + number of shares) forward passes over the images for every group.

    Raises:
        NotFinite: If the loss is nan or infinite, or too many batches of `order` are.
        ModelMismatch: If `graph` was traced from another model.
        ValueError: If there are no batches, a share is not between 0 and 1, or
            there is no such `by`.
    """
    if not all(0 < share < 1 for share in shares):
        raise ValueError(f"groups are masked to shares between 0 and 1, not to {list(shares)}")
    if by not in ("loss", "outputs"):
        raise ValueError(f"widths are probed by 'loss' or by 'outputs', not by {by!r}")
    progress = progress or Quiet()
    samples = _first(batches, images)
    order = fisher(model, graph, samples, loss) if order is None else order
    order.check(graph)
    trial = MaskedTrial.of(model, samples, loss)
    trial = trial if by == "loss" else trial.against_itself()
    dense = trial.loss("the dense network") if graph.groups else 0.0
    total = sum(len(_widths(group, shares)) for group in graph.groups)
    curves: dict[str, np.ndarray] = {}
    done = 0
    for group in graph.groups:
        ranked, added = order.ranked(group.name), {group.channels: 0.0}
        for width in _widths(group, shares):
            with trial.masked([group], {group.name: ranked[:width].tolist()}):
                masked = trial.loss(f"{group.name} masked to {width} of {group.channels} channels")
            added[width] = masked - dense
            done += 1
            progress.step(done, total, "widths probed")
        curves[group.name] = _curve(added, order.values(group.name))
    return Saliency(order.scores, criterion="probe", curves=curves)


def _first(batches: Iterable[Batch], images: int) -> list[Batch]:
    """Take the first samples; lone ones are joined."""
    samples: list[Batch] = []
    left = images
    for batch in several(batches):
        inputs, labels = at_most(batch, left)
        is_cut_to_one = samples_of(inputs) == 1 < samples_of(batch[0])
        if not (samples and is_cut_to_one):
            samples.append((inputs, labels))
        left -= samples_of(inputs)
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
