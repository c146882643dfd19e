"""How far what a detector says of its anchors lies from what another says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from latprune.distances import random_signs, softmax_slopes

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from latprune.tasks.detection.detector import Outputs


class DetectorDistillation:
    """The distance of a single-shot detector's classes and boxes.

    An anchor counts by the probability that the teacher sees an object there, so that thousands
    of anchors of background do not drown the others: they are left to the labels.
    """

    def __call__(self, outputs: Outputs, taught: Outputs, *, temperature: float) -> Tensor:
        """Compare what a network says of the anchors with what its teacher says.

        Classes are compared by T² KL(teacher ‖ network) at temperature T, offsets by smooth L1.

        Args:
            outputs: Logits [n, anchors, classes] and offsets [n, anchors, 4].
            taught: The teacher's, of the same shapes.
            temperature: T.

        Returns:
            The weighted mean over anchors, a scalar.

        Source:
            After Chen et al., "Learning Efficient Object Detection Models with Knowledge
            Distillation", NeurIPS 2017, which weighs classes where this weighs anchors.
        """
        logits, offsets = (part.float() for part in outputs)
        wise_logits, wise_offsets = (part.float() for part in taught)
        divergence = F.kl_div(
            F.log_softmax(logits / temperature, dim=-1),
            F.log_softmax(wise_logits / temperature, dim=-1),
            reduction="none",
            log_target=True,
        ).sum(-1)
        shifted = F.smooth_l1_loss(offsets, wise_offsets, reduction="none").sum(-1)
        each = divergence * temperature**2 + shifted
        return (_weights(wise_logits) * each).sum()

    def sampled(self, outputs: Outputs, *, temperature: float, generator: Generator) -> Tensor:
        """Give a scalar with random slopes: see `latprune.distances.Curved`.

        Where offsets are equal the Hessian of smooth L1 is the identity.
        """
        logits, offsets = (part.float() for part in outputs)
        roots = _weights(logits.detach()).sqrt()
        slopes = softmax_slopes(logits, temperature=temperature, generator=generator, dim=-1)
        of_classes = (slopes * logits).sum(-1)
        of_boxes = (random_signs(offsets, generator) * offsets).sum(-1)
        return (roots * (of_classes + of_boxes)).sum()


distillation = DetectorDistillation()


def _weights(logits: Tensor) -> Tensor:
    """Give what each anchor counts, [n, anchors], about 1 in all, where there are objects."""
    seen = 1 - logits.softmax(-1)[..., 0]
    return seen / seen.sum().clamp(min=1)
