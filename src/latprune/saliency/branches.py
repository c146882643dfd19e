"""What it costs that a residual branch is gone as a whole is measured.

No score tells. In one network a branch is as strong as the trunk that it adds to, in another the
trunk hardly feels it, and the scores inside are alike. But there are few branches, and to run a
network without one takes a forward pass.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from latprune.progress import Quiet
from latprune.saliency.masking import MaskedTrial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from latprune.graph.groups import Branch, ChannelGroup, PruningGraph
    from latprune.progress import Progress
    from latprune.saliency.masking import Batch, Distil
    from latprune.saliency.scores import Saliency

IMAGES = 128
TEMPERATURE = 2.0  # by itself few sure answers would decide
CHANCE = 0.5  # of the mean of all branches, what the loss may be wrong by
MOST_COMPARED = 8  # groups, drawn: what is evenly spread may all be of a kind


def price_branches(
    saliency: Saliency,
    model: nn.Module,
    graph: PruningGraph,
    batches: Iterable[tuple[Tensor, Any]],
    loss: Callable[[Any, Any], Tensor],
    *,
    distil: Distil | None = None,
    images: int = IMAGES,
    progress: Progress | None = None,
) -> Saliency:
    """Measure what it costs that residual branches are gone, in what widths are valued in.

    Branches that can go are masked, one at a time, batch norms using the statistics of the batch,
    as they would once re-estimated. A branch costs what that does to the network. Groups outside
    branches, masked to half of their scores, say what that is in values: the geometric mean of what
    it does, over what the values say.

    What masking does is how far the network's answers move, where `distil` can say so: for a
    classifier by T² KL at temperature T = 2, which few images suffice for. Else it is what the loss
    rises by; much of what tells branches apart is chance then, so each costs half of the mean of
    all besides.

    Args:
        saliency: Values the widths of all groups, `relative`ly or not.
        model: As for `taylor`; it stays as it is.
        graph: Says which branches can go.
        batches: Pairs (inputs, labels) on any device, better of at least 32 samples where the
            network has batch norms; as many whole ones are used as hold `images`.
        loss: Gives a scalar for (outputs, labels), the mean over the batch.
        distil: Of (outputs, the whole network's outputs, temperature=), a scalar that is 0 for
            equal ones: `distillation` for a classifier. None: the loss decides.
        images: About how many samples to judge on.
        progress: Is told of every network that was run. There is one per branch, and at most
            eight more.

    Returns:
        The same values, with what is left of a group's where its branch is `gone`: never less than
        of one narrowed to nothing. They stay as they are if there are no branches that can go, or
        no narrower group makes the network worse.

    Raises:
        NotFinite: If the loss, or what `distil` gives, is nan or infinite for the whole network in
            every batch (others are left out), or for a masked one.
        ModelMismatch: If `graph` was traced from another model.
        ValueError: If there are no batches.
    """
    saliency.check(graph)
    if not graph.branches:
        return saliency
    progress = progress or Quiet()
    trial = MaskedTrial.of(model, enough(batches, images), loss)
    if distil is not None:
        trial = trial.against_itself(partial(distil, temperature=TEMPERATURE))
    trial, whole = trial.on_finite()
    compared = _compared(graph)
    tried = len(compared) + len(graph.branches)
    rises, costs = [], []
    for done, group in enumerate(compared, start=1):
        width = _half(saliency, group)
        kept = {group.name: saliency.ranked(group.name)[:width].tolist()}
        with trial.masked([group], kept):
            rises.append(trial.loss(f"{group.name} masked to {width} channels") - whole)
        values = saliency.values(group.name)
        costs.append(float(values[-1] - values[width]))
        progress.step(done, tried, "widths and branches masked")
    added = {}
    by_name = {group.name: group for group in graph.groups}
    for done, branch in enumerate(graph.branches, start=len(compared) + 1):
        inside = [by_name[name] for name in branch.groups]
        with trial.masked(inside, {name: [] for name in branch.groups}):
            added[branch] = max(trial.loss(f"the network without {branch.name}") - whole, 0.0)
        progress.step(done, tried, "widths and branches masked")
    unit = _unit(rises, costs)
    if unit is None:
        return saliency
    chance = CHANCE * float(np.mean(list(added.values()))) if distil is None else 0.0
    prices = {branch: (rise + chance) / unit for branch, rise in added.items()}
    return replace(saliency, gone=dict(_left(saliency, prices)))


def enough(batches: Iterable[tuple[Tensor, Any]], images: int) -> list[Batch]:
    """Take the first batches, until they hold so many samples.

    Raises:
        ValueError: If there are none.
    """
    samples: list[Batch] = []
    for batch in batches:
        samples.append(batch)
        if sum(len(inputs) for inputs, _ in samples) >= images:
            break
    if not samples:
        raise ValueError("branches are priced on at least one batch, and there was none")
    return samples


def _compared(graph: PruningGraph) -> Sequence[ChannelGroup]:
    """Give groups outside of branches, or any if there are none; of many some, always the same."""
    outside = [group for group in graph.groups if group.name not in graph.in_branches]
    groups = outside or graph.groups
    drawn = np.random.default_rng(0).permutation(len(groups))[:MOST_COMPARED]
    return [groups[number] for number in sorted(drawn)]


def _half(saliency: Saliency, group: ChannelGroup) -> int:
    """Give the least width that keeps half of a group's scores, but not all of its channels."""
    ranked = saliency.scores[group.name][saliency.ranked(group.name)]
    kept = np.cumsum(ranked)
    steps = np.searchsorted(kept, kept[-1] / 2) // group.multiple + 1
    return int(min(steps * group.multiple, group.channels - group.multiple))


def _unit(rises: Sequence[float], costs: Sequence[float]) -> float | None:
    """Give what a value is in what was measured; None if nothing narrower was worse."""
    ratios = [rise / cost for rise, cost in zip(rises, costs, strict=True) if min(rise, cost) > 0]
    return float(np.exp(np.mean(np.log(ratios)))) if ratios else None


def _left(saliency: Saliency, prices: Mapping[Branch, float]) -> Iterator[tuple[str, float]]:
    """Give what is left of groups' values where their branches are gone.

    The groups of a branch share its price by their values.
    """
    for branch, price in prices.items():
        values = {name: float(saliency.values(name)[-1]) for name in branch.groups}
        total = sum(values.values())
        for name, value in values.items():
            yield name, value * max(1 - price / total, 0.0) if total else 0.0
