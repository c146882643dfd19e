"""A channel is worth how far the network's own answers move without it, to second order.

Labels tell little of a network that is sure of the pictures that score it: the loss of most is next
to flat, and the few that it errs on decide. What it answers, it answers for every picture.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from latprune.distances import Curved, distillation
from latprune.saliency.first_order import first_order

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from latprune.graph.groups import PruningGraph
    from latprune.progress import Progress
    from latprune.saliency.scores import Saliency

TEMPERATURE = 2.0  # as branches are priced


def gauss_newton(
    model: nn.Module,
    graph: PruningGraph,
    batches: Iterable[Any],
    *,
    distil: Curved = distillation,
    temperature: float = TEMPERATURE,
    seed: int = 0,
    max_skips: int = 3,
    progress: Progress | None = None,
) -> Saliency:
    """Score channels by what the network's answers move by without them, to second order.

    Of a classifier what moves is T² KL(whole ‖ without) between answers at temperature T. It is
    least, 0, at the whole network, and its Hessian by the logits there is H = diag(p) - p pᵀ, of
    the answers p at that temperature. So without a channel it is ½ sᵀHs, s being the slope of the
    logits by a gate on the channel: of `fisher`'s form, with labels that the network gives itself.
    One pass backward per sample estimates that for all channels: H = B Bᵀ with
    B = diag(√p) - p √pᵀ, and (ξᵀBᵀs)² has the mean sᵀHs for ξ of random signs. Other networks have
    other distances, and those another H: `distil` draws slopes from it.

    Args:
        model: See `taylor`. By default a classifier; its logits [n, classes, ...] are its outputs,
            the first of a tuple, or `logits` in a dict; where there are further axes, as in a
            segmenter, every position counts.
        graph: See `taylor`.
        batches: Pairs (inputs, labels); labels are not looked at. How they are cut does not matter.
        distil: How far outputs lie from others, and how that curves: such as
            `latprune.tasks.detection.distillation` for detectors.
        temperature: T; 1 for the answers as they are.
        seed: Of the random slopes.
        max_skips: How many samples may give answers or gradients that are nan or infinite.
        progress: Is told of every batch.

    Returns:
        Scores in what `distil` gives; nats, by default.

    Raises:
        NotFinite: If more than `max_skips` samples are not finite, or all are.
        ModelMismatch: If `graph` was traced from another model.
        ValueError: If there are no batches, or the outputs are no logits of two classes or more, or
            the temperature is not above 0.

    Source:
        The Gauss-Newton matrix of the softmax is its Fisher information: Martens, "New Insights
        and Perspectives on the Natural Gradient Method", JMLR 2020; what labels give in its place:
        Kunstner et al., "Limitations of the Empirical Fisher Approximation", NeurIPS 2019; random
        signs: Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix", 1990.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is above 0 and finite, not {temperature}")
    generator = torch.Generator().manual_seed(seed)

    def slopes(outputs: Any, _: Any) -> Tensor:
        return distil.sampled(outputs, temperature=temperature, generator=generator)

    return first_order(
        model,
        graph,
        batches,
        slopes,
        criterion="gauss_newton",
        fold=lambda term: term.square() / 2,
        per_sample=True,
        labelled=False,
        max_skips=max_skips,
        progress=progress,
    )
