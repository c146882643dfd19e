"""Where the logits are in what a network gives, and what a loss of them has to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


def main_output(outputs: Any) -> Tensor:
    """Give the logits of the main head.

    Raises:
        ValueError: If a dict of outputs has no `logits`.
    """
    return heads(outputs)[0]


def heads(outputs: Any) -> Sequence[Tensor]:
    """Give the logits of every head that is on, the main one's first.

    Args:
        outputs: Logits, alone or as `logits` in a dict (transformers' networks), or a tuple of them
            (GoogLeNet, Inception in training).

    Raises:
        ValueError: If a dict of outputs has no `logits`.
    """
    if isinstance(outputs, Tensor):
        return (outputs,)
    if isinstance(outputs, Mapping):
        return (_logits(outputs),)
    # A head that was switched off is None.
    return tuple(head for head in outputs if head is not None)


def _logits(outputs: Mapping[str, Tensor]) -> Tensor:
    if "logits" not in outputs:
        raise ValueError(
            f"the network gives a dict of {', '.join(outputs)} without logits: what to compare in "
            f"it, a loss= of your own has to say"
        )
    return outputs["logits"]


def one_number(loss: Any) -> Tensor:
    """Give a loss back, if it is one number that can have gradients.

    Args:
        loss: What a loss function gave for a batch.

    Raises:
        ValueError: If it is no tensor of one element; says what to change.
    """
    if not isinstance(loss, Tensor):
        remedy = "leave out .item(), float() and the like"
        if isinstance(loss, Mapping):
            remedy = "add up its parts, as by sum(losses.values())"
        elif isinstance(loss, tuple | list):
            remedy = "add up its parts, as by sum(losses)"
        raise ValueError(
            f"the loss gave a {type(loss).__name__}, no tensor, and so nothing that has a "
            f"gradient: {remedy}"
        )
    if loss.numel() != 1:
        raise ValueError(
            f"the loss gave a tensor {list(loss.shape)}, not one number for the batch: end it "
            f"with .mean()"
        )
    return loss


def as_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Give what an `evaluate` said as plain numbers: it may say tensors, or numbers of NumPy."""
    return {name: float(value) for name, value in metrics.items()}
