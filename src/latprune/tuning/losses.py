"""What a network is taught by: labels, and a teacher's outputs. Here are a classifier's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F

from latprune.outputs import heads, main_output

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Loss = Callable[[Any, Any], Tensor]
    """Of (outputs, labels), a scalar."""
    Distil = Callable[..., Tensor]
    """Of (outputs, the teacher's outputs, temperature=), a scalar."""

AUXILIARY_WEIGHT = 0.3  # Szegedy et al., "Going Deeper with Convolutions", CVPR 2015


def cross_entropy(outputs: Any, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Compare logits with labels.

    Args:
        outputs: Logits [n, classes], alone or as `logits` in a dict (transformers' networks), or,
            from networks with auxiliary heads in training (GoogLeNet, Inception), a tuple of them
            with the main head first; each of the others counts 0.3.
        labels: Class numbers [n], or probabilities [n, classes].
        label_smoothing: Share of the target spread evenly over all classes.

    Returns:
        The mean over the batch, a scalar in nats, float32.

    Source:
        Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, for the auxiliary heads;
        "Rethinking the Inception Architecture", CVPR 2016, for label smoothing.
    """
    main, *auxiliary = (
        F.cross_entropy(head.float(), labels, label_smoothing=label_smoothing)
        for head in heads(outputs)
    )
    return main + AUXILIARY_WEIGHT * sum(auxiliary)


def distil_beside(loss: Loss, distil: Distil | None = None) -> Distil | None:
    """Give what compares outputs where none was chosen: `distillation` beside the default loss."""
    return distillation if distil is None and loss is cross_entropy else distil


def distillation(outputs: Any, taught: Any, *, temperature: float) -> Tensor:
    """Compare logits with a teacher's: T² KL(teacher ‖ network) at temperature T.

    Args:
        outputs: Logits [n, classes], alone, as `logits` in a dict, or in a tuple with the main
            head first; only that is compared.
        taught: The teacher's, of the same shape.
        temperature: T; the factor T² keeps the gradients' size independent of it.

    Returns:
        The mean over the batch, a scalar in nats, float32.

    Raises:
        ValueError: If teacher and network do not have the same outputs.

    Source:
        Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.
    """
    learnt, taught = main_output(outputs), main_output(taught)
    if learnt.shape != taught.shape:
        raise ValueError(
            f"the teacher gives {list(taught.shape)} where the network gives "
            f"{list(learnt.shape)}: they need the same outputs"
        )
    divergence = F.kl_div(
        F.log_softmax(learnt.float() / temperature, dim=1),
        F.log_softmax(taught.float() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * temperature**2
