"""A channel is worth the square of what the loss is expected to change by when the channel goes.

Against plain `taylor` the few channels that matter much outweigh the many that matter little.
"""

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


def taylor_squared(
    model: nn.Module,
    graph: PruningGraph,
    batches: Iterable[Any],
    loss: Callable[[Any, Any], Tensor],
    *,
    max_skips: int = 3,
    progress: Progress | None = None,
) -> Saliency:
    """Score channels by the mean over batches of (Σ w ∂L/∂w)².

    Arguments, errors and the terms of the sum are those of `taylor`.

    Returns:
        Scores in units of the loss squared. They depend on the size of the batches: what samples
        disagree about cancels in a large one. `fisher` does not.

    Source:
        Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019,
        equation 8, on the gate of a channel.
    """
    return first_order(
        model,
        graph,
        batches,
        loss,
        criterion="taylor_squared",
        fold=torch.square,
        max_skips=max_skips,
        progress=progress,
    )
