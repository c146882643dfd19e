"""A channel is worth what the loss is expected to change by when the channel goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from latprune.saliency.first_order import first_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor, nn

    from latprune.graph.groups import PruningGraph
    from latprune.progress import Progress
    from latprune.saliency.scores import Saliency


def taylor(
    model: nn.Module,
    graph: PruningGraph,
    batches: Iterable[Any],
    loss: Callable[[Any, Any], Tensor],
    *,
    max_skips: int = 3,
    progress: Progress | None = None,
) -> Saliency:
    """Score channels by the first-order Taylor expansion of the loss, as HALP does.

    Per batch a channel's score is |Σ w ∂L/∂w| over the weights w that read it: the derivative of
    the loss by a gate on the channel. The sum comes before the absolute value, for the channel goes
    from all of them at once. In a network of ReLUs whose norms do not follow each other that is the
    paper's |Σ γ ∂L/∂γ + β ∂L/∂β| over the scales γ and shifts β of the norms on its group. Scores
    are averaged over batches.

    The model scores in evaluation mode, and stays as it is.

    Args:
        model: Holds the parameters that `graph` names, on one device.
        graph: The channel groups.
        batches: Pairs (inputs, labels), the labels as `loss` takes them: a tensor, or tensors in
            lists and dicts. Moved to the model's device. Each counts the same.
        loss: Gives a scalar for (outputs, labels).
        max_skips: How many batches may give a loss or gradient that is nan or infinite.
        progress: Is told of every batch.

    Returns:
        Scores in units of the loss.

    Raises:
        NotFinite: If more than `max_skips` batches are not finite, or all are; it names the
            first layer at which that shows.
        ModelMismatch: If `graph` was traced from another model.
        ValueError: If there are no batches.

    Source:
        Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019; Shen et
        al., "Structural Pruning via Latency-Saliency Knapsack", NeurIPS 2022.
    """
    return first_order(
        model,
        graph,
        batches,
        loss,
        criterion="taylor",
        fold=torch.abs,
        max_skips=max_skips,
        progress=progress,
    )
