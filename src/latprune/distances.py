"""How far a network's answers lie from another's, and how that curves where they are equal.

The first is what a teacher would miss: networks are tuned by it, and judged by it where parts of
them are masked. The second says what a small change of answers costs: channels are scored by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F

from latprune.outputs import main_output

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator, Tensor

    Distil = Callable[..., Tensor]
    """Of (outputs, the teacher's outputs, temperature=), a scalar: 0 for equal ones."""


@runtime_checkable
class Curved(Protocol):
    """A distance whose curvature can be sampled: `gauss_newton` scores by such ones."""

    def __call__(self, outputs: Any, taught: Any, /, *, temperature: float) -> Tensor:
        """Give the distance of outputs from a teacher's, a scalar."""
        ...

    def sampled(self, outputs: Any, /, *, temperature: float, generator: Generator) -> Tensor:
        """Give a scalar whose slopes v by the outputs are random.

        The mean of v vᵀ is the Hessian, by the outputs, of their distance from themselves.

        Args:
            outputs: Of one sample.
            temperature: As for the distance.
            generator: Draws, on the CPU.
        """
        ...


class Distillation:
    """The distance of a classifier's logits, or a segmenter's."""

    def __call__(self, outputs: Any, taught: Any, *, temperature: float) -> Tensor:
        """Compare logits with a teacher's: T² KL(teacher ‖ network) at temperature T.

        Args:
            outputs: Logits [n, classes], or [n, classes, ...] where every position is a sample,
                alone, as `logits` in a dict, or in a tuple with the main head first; only that is
                compared.
            taught: The teacher's, of the same shape.
            temperature: T; the factor T² keeps the gradients' size independent of it.

        Returns:
            The mean over batch and positions, a scalar in nats, float32.

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
            reduction="sum",
            log_target=True,
        )
        return divergence * temperature**2 / (learnt.numel() / learnt.shape[1])

    def sampled(self, outputs: Any, *, temperature: float, generator: Generator) -> Tensor:
        """Give a scalar with random slopes: see `Curved`.

        Raises:
            ValueError: If the outputs are no logits of two classes or more.
        """
        logits = _logits(outputs)
        slopes = softmax_slopes(logits, temperature=temperature, generator=generator, dim=1)
        positions = logits.numel() / logits.shape[1]
        total: Tensor = (slopes * logits).sum() / positions**0.5
        return total


distillation = Distillation()


@torch.no_grad()
def softmax_slopes(logits: Tensor, *, temperature: float, generator: Generator, dim: int) -> Tensor:
    """Draw v, the mean of v vᵀ being the Hessian of T² KL(softmax(z/T) ‖ softmax(logits/T)) at z.

    That is H = diag(p) - p pᵀ, with p = softmax(z/T): the Fisher information of the softmax. With
    B = diag(√p) - p √pᵀ, H = B Bᵀ, and v = B ξ with ξ of random signs.

    Args:
        logits: z; [..., classes, ...].
        temperature: T.
        generator: Of the signs, on the CPU.
        dim: The axis of the classes; everything else are samples.
    """
    answers = (logits / temperature).softmax(dim=dim)
    drawn = answers.sqrt() * random_signs(logits, generator)
    return drawn - answers * drawn.sum(dim=dim, keepdim=True)


def random_signs(like: Tensor, generator: Generator) -> Tensor:
    """Draw -1 or 1 for every number, on the tensor's device and in its type."""
    return torch.randint(2, like.shape, generator=generator).to(like) * 2 - 1


def _logits(outputs: Any) -> Tensor:
    """Give a classifier's logits [n, classes, ...].

    Raises:
        ValueError: If there are none.
    """
    try:
        found = main_output(outputs)
        if found.ndim > 1 and found.shape[1] > 1:
            return found.float()
        given = str(list(found.shape))
    except (ValueError, AttributeError):  # a dict of other things, or lists
        given = f"a {type(outputs).__name__} without them"
    raise ValueError(
        f"gauss_newton needs the logits of two classes or more, [n, classes], and the network "
        f"gives {given}: take fisher, with the loss= that the network is trained with (to `prune` "
        f"give that loss alone), or give a distil= that is `Curved`"
    )
