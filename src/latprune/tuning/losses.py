"""What a network is taught by: labels, and a teacher's outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from latprune.distances import distillation
from latprune.errors import DataError
from latprune.outputs import heads

if TYPE_CHECKING:
    from collections.abc import Callable

    from latprune.distances import Distil

    Loss = Callable[[Any, Any], Tensor]
    """Of (outputs, labels), a scalar."""

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

    Raises:
        DataError: If the labels are anything else.

    Source:
        Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, for the auxiliary heads;
        "Rethinking the Inception Architecture", CVPR 2016, for label smoothing.
    """
    check_labels(labels)
    main, *auxiliary = (
        F.cross_entropy(head.float(), labels, label_smoothing=label_smoothing)
        for head in heads(outputs)
    )
    return main + AUXILIARY_WEIGHT * sum(auxiliary)


def check_labels(labels: Any) -> None:
    """Make sure that labels are what `cross_entropy` takes.

    Raises:
        DataError: If they are none.
    """
    if isinstance(labels, Tensor):
        return
    found = "none" if labels is None else f"a {type(labels).__name__}"
    raise DataError(
        f"the default loss, cross entropy, compares logits with a tensor of class numbers, and the "
        f"labels of a batch are {found}. Let the loader give (images, class numbers), or pass a "
        f"loss= of your own, of (outputs, labels); without labels a network can learn from the "
        f"dense one alone (distillation=1.0)"
    )


def distil_beside(loss: Loss, distil: Distil | None = None) -> Distil | None:
    """Give what compares outputs where none was chosen: `distillation` beside the default loss."""
    return distillation if distil is None and loss is cross_entropy else distil
