"""What it costs that a residual branch is gone as a whole is measured.

No score tells. In one network a branch is as strong as the trunk that it adds to, in another the
trunk hardly feels it, and the scores inside are alike; and many that go together can cost several
times what each costs by itself. But there are few branches, and to run a network without some takes
a forward pass.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from latprune.errors import NotFinite
from latprune.progress import Quiet
from latprune.saliency.masking import MaskedTrial
from latprune.samples import samples_of, several

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from latprune.distances import Distil
    from latprune.graph.groups import Branch, ChannelGroup, PruningGraph
    from latprune.progress import Progress
    from latprune.saliency.masking import Batch
    from latprune.saliency.scores import Saliency

IMAGES = 128
TEMPERATURE = 2.0  # by itself few sure answers would decide
CHANCE = 0.5  # of the mean of all branches, what the loss may be wrong by
FEW = 4  # times fewer images say what branches do together, where answers are compared
SLACK = 0.1  # of what a branch adds: another may add so much less than the one that goes
MOST_COMPARED = 8  # groups, drawn: what is evenly spread may all be of a kind


def price_branches(
    saliency: Saliency,
    model: nn.Module,
    graph: PruningGraph,
    batches: Iterable[Any],
    loss: Callable[[Any, Any], Tensor],
    *,
    distil: Distil | None = None,
    images: int = IMAGES,
    progress: Progress | None = None,
) -> Saliency:
    """Measure what it costs that residual branches are gone, in what widths are valued in.

    Branches that can go are masked, batch norms using the statistics of the batch, as they would
    once re-estimated. A branch costs what that does to the network: by itself, and what it does
    more of once others are gone, which is most of it where many go. For that they are masked one
    after the other, always one that adds least. None costs less than those that went before it.

    Groups outside branches, masked to half of their scores, say what that is in values: the
    geometric mean of what it does, over what the values say.

    What masking does is how far the network's answers move, where `distil` can say so: for a
    classifier by T² KL at temperature T = 2, which few images suffice for, and a quarter of them
    for what branches do together. Else it is what the loss rises by; much of what tells branches
    apart is chance then, so each costs half of the mean of all, by themselves, besides.

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
        progress: Is told of every group and every branch that was masked by itself, and of every
            branch that is gone for good, which takes about two networks to run.

    Returns:
        The same values, with what is left of a group's where its branch is `gone`: never less than
        of one narrowed to nothing. They stay as they are if there are no branches that can go, or
        no narrower group makes the network worse.

    Raises:
        NotFinite: If the loss, or what `distil` gives, is nan or infinite for the whole network in
            every batch (others are left out), or for one with a group or a branch masked.
        ModelMismatch: If `graph` was traced from another model.
        ValueError: If there are no batches.
        DataError: If a batch norm needs more than one sample and the batches hold one each.
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
    steps = len(compared) + 2 * len(graph.branches)
    done = itertools.count(1)

    def step() -> None:
        progress.step(next(done), steps, "widths and branches masked")

    unit = _unit(saliency, compared, trial, whole, step)
    if unit is None:
        return saliency
    singly = {}
    for branch in graph.branches:
        singly[branch] = loss_without([branch], graph, trial)
        step()
    alone = {branch: max(loss - whole, 0.0) for branch, loss in singly.items()}
    if distil is None:
        chance = CHANCE * float(np.mean(list(alone.values())))
    else:
        chance, trial = 0.0, trial.on(enough(trial.samples, images // FEW))
        whole = trial.loss("the whole network")
        singly = {branch: loss_without([branch], graph, trial) for branch in alone}
    prices, least = {}, 0.0
    for branch, more in in_turn(graph, trial, whole, singly):
        least = max(least, alone[branch] + more)
        prices[branch] = (least + chance) / unit
        step()
    return replace(saliency, gone=dict(_left(saliency, prices)))


def enough(batches: Iterable[Any], images: int) -> list[Batch]:
    """Take the first batches, until they hold so many samples; lone ones are joined.

    Raises:
        ValueError: If there are none.
    """
    samples: list[Batch] = []
    left = images
    for batch in several(batches):
        samples.append(batch)
        left -= samples_of(batch[0])
        if left <= 0:
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


def _unit(
    saliency: Saliency,
    compared: Sequence[ChannelGroup],
    trial: MaskedTrial,
    whole: float,
    step: Callable[[], None],
) -> float | None:
    """Give what a value is in what is measured; None if nothing narrower is worse."""
    ratios = []
    for group in compared:
        width = _half(saliency, group)
        kept = {group.name: saliency.ranked(group.name)[:width].tolist()}
        with trial.masked([group], kept):
            rise = trial.loss(f"{group.name} masked to {width} channels") - whole
        values = saliency.values(group.name)
        cost = float(values[-1] - values[width])
        if min(rise, cost) > 0:
            ratios.append(rise / cost)
        step()
    return float(np.exp(np.mean(np.log(ratios)))) if ratios else None


def loss_without(branches: Sequence[Branch], graph: PruningGraph, trial: MaskedTrial) -> float:
    """Give the loss of the network that branches are gone from."""
    inside = {name for branch in branches for name in branch.groups}
    gone = [group for group in graph.groups if group.name in inside]
    others = f" and {len(branches) - 1} others" if len(branches) > 1 else ""
    with trial.masked(gone, {group.name: [] for group in gone}):
        return trial.loss(f"the network without {branches[-1].name}{others}")


def in_turn(
    graph: PruningGraph, trial: MaskedTrial, whole: float, singly: Mapping[Branch, float]
) -> Iterator[tuple[Branch, float]]:
    """Let one branch go after the other, always one that adds least to the loss.

    What a branch adds mostly grows as others go. So what it added before is a bound, and one that
    adds least when measured anew need not be compared with all (lazy greedy: Minoux 1978).

    Args:
        graph: Has the branches' groups.
        trial: Judges.
        whole: The whole network's loss.
        singly: The loss without each branch.

    Yields:
        Every branch, in the order in which they go, and what it adds more than by itself, at
        least 0; infinity where the loss is not finite without them.
    """
    adds = {branch: loss - whole for branch, loss in singly.items()}
    gone: list[Branch] = []
    before, without = whole, dict(singly)  # those gone; those gone and another

    def reckoned(branch: Branch) -> tuple[float, bool]:
        measured = branch in without
        return adds[branch] * (1 - measured * SLACK), not measured

    while adds:
        branch = min(adds, key=reckoned)
        if branch not in without:
            try:
                without[branch] = loss_without([*gone, branch], graph, trial)
            except NotFinite:  # alone it is finite: it cannot go beside these
                without[branch] = math.inf
            adds[branch] = without[branch] - before
            continue
        if math.isinf(adds[branch]):
            yield from ((left, math.inf) for left in adds)
            return
        yield branch, max(adds.pop(branch) - (singly[branch] - whole), 0.0)
        gone.append(branch)
        before, without = without[branch], {}


def _left(saliency: Saliency, prices: Mapping[Branch, float]) -> Iterator[tuple[str, float]]:
    """Give what is left of groups' values where their branches are gone.

    The groups of a branch share its price by their values.
    """
    for branch, price in prices.items():
        values = {name: float(saliency.values(name)[-1]) for name in branch.groups}
        total = sum(values.values())
        for name, value in values.items():
            yield name, value * max(1 - price / total, 0.0) if total else 0.0
