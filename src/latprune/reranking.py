"""Of several plans, find the one whose network does best, as it was cut or after a short tuning.

A criterion only predicts what a cut costs, and which one predicts best differs from network to
network. To cut a plan, re-estimate its batch norms and look at a few hundred images takes seconds.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

import latprune.tuning as tuning
from latprune.errors import DataError, NotFinite
from latprune.modes import device_of, evaluating, moved
from latprune.progress import Quiet
from latprune.samples import outputs_of, pairs, samples_of
from latprune.surgery import cut
from latprune.tuning import cross_entropy, recalibrate
from latprune.tuning.replay import own_chance, replayed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor, nn

    from latprune.graph.groups import PruningGraph
    from latprune.planning import Plan
    from latprune.progress import Progress
    from latprune.tuning.replay import Batches

    Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A plan that was tried.

    Attributes:
        plan: What was cut.
        model: The small network, its layers reconstructed and its batch norms re-estimated, and
            tuned where a `tuner` was given.
        loss: Of that, on images that did not score; `inf` if it is nan or infinite.
    """

    plan: Plan
    model: nn.Module
    loss: float


@own_chance(on_gpus=True)
def rerank(
    model: nn.Module,
    graph: PruningGraph,
    plans: Sequence[Plan],
    *,
    calibration: Batches,
    held_out: Iterable[Any],
    loss: Loss = cross_entropy,
    images: int = 1024,
    tuner: Callable[[nn.Module], object] | None = None,
    reconstruct: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Candidate]:
    """Cut every plan, fit its layers and batch norms, and sort by the loss on held-out images.

    Who is ahead after a cut need not be after tuning: with a `tuner`, networks are judged after
    what it does to them.

    Args:
        model: The dense network that `graph` was traced from; it stays as it is.
        graph: Where the channels lie.
        plans: Of similar latency: made by several criteria or solvers.
        calibration: Batches of (images, labels) to reconstruct layers and to re-estimate batch
            norms with; the same ones for every plan.
        held_out: Batches of training images, better not those that scored. Never test images:
            that would be choosing by the answer.
        loss: Gives a scalar for (outputs, labels), the mean over the batch. The cross entropy
            tells networks apart on fewer images than the accuracy does.
        images: To re-estimate batch norms with.
        tuner: Called with every small network, to train it in place, better not on `held_out`:
            `lambda small: lp.tune(small, loader, recipe=short)`.
        reconstruct: Whether layers of the small networks get weights by which they give what they
            gave in the dense one (`latprune.reconstruct`).
        seed: Of the order of `calibration`.
        progress: Is told of every plan.

    Returns:
        All plans, the best first; equals in the order given.

    Raises:
        ValueError: If there are no plans.
        DataError: If there are no batches.
        NotFinite: If no network has a finite loss.
        ModelMismatch: If a plan is another network's.
    """
    if not plans:
        raise ValueError("there is nothing to rank: give at least one plan")
    progress, names = progress or Quiet(), names_of(plans)
    batches, repeated = list(held_out), replayed(calibration, seed=seed)
    tried: list[Candidate] = []
    for done, plan in enumerate(plans, start=1):
        known = next((other for other in tried if other.plan.kept == plan.kept), None)
        if known is None:
            small = cut(model, graph, plan)
            if reconstruct:
                tuning.reconstruct(small, model, graph, plan, repeated.epoch(0))
            with suppress(NotFinite):  # its loss will say so
                recalibrate(small, repeated.epoch(0), images=images)
            if tuner is not None:
                tuner(small)
            known = Candidate(plan, small, mean_loss(small, batches, loss))
        tried.append(Candidate(plan, known.model, known.loss))
        progress.step(done, len(plans), f"{names[done - 1]} has a loss of {known.loss:.3f}")
    if all(math.isinf(candidate.loss) for candidate in tried):
        raise NotFinite(
            f"none of {len(plans)} networks has a finite loss on the held-out images: check the "
            "inputs, the weights and the loss"
        )
    return sorted(tried, key=lambda candidate: candidate.loss)


def names_of(plans: Sequence[Plan]) -> list[str]:
    """Name plans by their criteria, and by their solvers where these differ, too."""
    if len({plan.solver for plan in plans}) <= 1:
        return [plan.criterion for plan in plans]
    return [f"{plan.criterion}, {plan.solver}" for plan in plans]


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Iterable[Any], loss: Loss) -> float:
    """Average a network's loss over samples, in evaluation mode.

    Returns:
        The mean; `inf` if it is nan or infinite.

    Raises:
        DataError: If there are no batches.
    """
    device = device_of(model)
    total, count = 0.0, 0
    with evaluating(model):
        for inputs, labels in pairs(batches):
            value = loss(outputs_of(model, inputs, device), moved(labels, device))
            samples = samples_of(inputs)
            total, count = total + samples * float(value), count + samples
    if not count:
        raise DataError("there is nothing to judge networks on: no batch was held out")
    return total / count if math.isfinite(total) else math.inf
