"""Whether a network's answers can be scored, asked with one batch before anything is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from latprune.distances import Curved, distillation
from latprune.errors import DataError
from latprune.modes import device_of, evaluating, moved
from latprune.outputs import one_number
from latprune.saliency.named import BY_ANSWERS, BY_LOSS, absolute
from latprune.samples import described, outputs_of
from latprune.tuning.replay import own_chance

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from latprune.distances import Distil
    from latprune.tuning.losses import Loss
    from latprune.tuning.replay import Batch


def ask_once(
    model: nn.Module,
    batch: Batch,
    criteria: Iterable[object],
    *,
    loss: Loss,
    distil: Distil | None,
) -> None:
    """Ask about a batch what criteria will ask about every one.

    Args:
        model: Answers in evaluation mode, as for scores.
        batch: Of (inputs, labels).
        criteria: Names, or functions, of which nothing is known.
        loss: Of (outputs, labels); asked if a criterion scores by it.
        distil: Asked if a criterion scores by answers, and it is `Curved`.

    Raises:
        DataError: If the loss fails, or gives more than a number.
        ValueError: If answers cannot be compared.
    """
    names = {absolute(one) for one in criteria if isinstance(one, str)}
    if not names & {BY_ANSWERS, *BY_LOSS}:
        return
    inputs, labels = batch
    device = device_of(model)
    with own_chance(), evaluating(model):
        with torch.no_grad():
            outputs = outputs_of(model, inputs, device)
        if BY_ANSWERS in names:
            curved = distil if isinstance(distil, Curved) else distillation
            curved.sampled(outputs, temperature=1.0, generator=torch.Generator().manual_seed(0))
        if names & set(BY_LOSS):
            _ask(loss, outputs, moved(labels, device))


def _ask(loss: Loss, outputs: Any, labels: Any) -> None:
    try:
        one_number(loss(outputs, labels))
    except DataError:
        raise
    except Exception as error:
        given, remedy = described(labels), ""
        if labels is None:
            given = "nothing"
            remedy = (
                ", for the loader gives inputs alone: let it give (inputs, labels), such as (x, x) "
                "to a loss that compares with the inputs"
            )
        raise DataError(
            f"the loss cannot be asked about the loader's first batch: {type(error).__name__}: "
            f"{error}. It was given {described(outputs)} as the network's outputs, in evaluation "
            f"mode, and {given} as labels{remedy}"
        ) from error
