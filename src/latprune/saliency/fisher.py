"""A channel is worth what the loss rises by without it, to second order, near a minimum.

There the first-order terms cancel over the samples, and the Hessian of a gate on the channel is
near the mean of their squares, the empirical Fisher information.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from latprune.saliency.first_order import first_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor, nn

    from latprune.graph.groups import PruningGraph
    from latprune.progress import Progress
    from latprune.saliency.scores import Saliency


def fisher(
    model: nn.Module,
    graph: PruningGraph,
    batches: Iterable[Any],
    loss: Callable[[Any, Any], Tensor],
    *,
    max_skips: int = 3,
    progress: Progress | None = None,
) -> Saliency:
    """Score channels by ½ the mean over samples of (Σ w ∂L/∂w)².

    Arguments and the terms of the sum are those of `taylor`, except that every sample is passed
    forward and backward by itself: on a CPU that takes about as long as whole batches, on a GPU
    many times longer.

    Args:
        model: See `taylor`.
        graph: See `taylor`.
        batches: See `taylor`; how they are cut does not matter.
        loss: Gives a scalar for the (outputs, labels) of one sample.
        max_skips: How many samples may give a loss or gradient that is nan or infinite.
        progress: Is told of every batch.

    Returns:
        Scores in units of the loss.

    Raises:
        NotFinite: If more than `max_skips` samples are not finite, or all are.
        ModelMismatch: If `graph` was traced from another model.
        ValueError: If there are no batches, or nothing says which labels belong to which sample, as
            where the boxes of all lie in one tensor: give batches of one sample then. Tensors of
            all samples may lie in dicts, lists and tuples; a list may hold an entry per sample.

    Source:
        Theis et al., "Faster gaze prediction with dense networks and Fisher pruning",
        arXiv 1801.05787, 2018; for channels that go together, Liu et al., "Group Fisher Pruning
        for Practical Network Compression", ICML 2021.
    """
    return first_order(
        model,
        graph,
        batches,
        loss,
        criterion="fisher",
        fold=lambda term: term.square() / 2,
        per_sample=True,
        max_skips=max_skips,
        progress=progress,
    )
