"""Whether a network's answers can be scored and learnt from, asked before anything is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from latprune.distances import Curved, distillation
from latprune.errors import DataError
from latprune.modes import copied, device_of, evaluating, moved
from latprune.outputs import one_number
from latprune.saliency.named import BY_ANSWERS, BY_LOSS, absolute
from latprune.samples import described, outputs_of
from latprune.tuning.precision import Precision
from latprune.tuning.replay import own_chance
from latprune.tuning.training import Lesson

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from latprune.distances import Distil
    from latprune.tuning.losses import Loss
    from latprune.tuning.recipe import Recipe
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
            _ask(loss, outputs, moved(labels, device), mode="evaluation")


def ask_in_training(model: nn.Module, batch: Batch, recipe: Recipe, *, loss: Loss) -> None:
    """Ask the loss about a batch what every step of tuning will ask it.

    Args:
        model: Answers in training mode; a copy does, for batch norms remember what they saw.
        batch: Of (inputs, labels).
        recipe: How the model will be trained.
        loss: Of (outputs, labels).

    Raises:
        DataError: If the loss fails, or a batch norm cannot take statistics of the batch.
        ValueError: If the loss gives more than a number.
    """
    device = device_of(model)
    lesson = Lesson(
        recipe,
        Precision("no", "only the loss is asked for"),
        teacher=None,
        device=device,
        labelled=lambda outputs, labels: _ask(loss, outputs, labels, mode="training"),
        distilled=distillation,
    )
    pupil = copied(model)
    pupil.train()
    with own_chance():
        lesson.loss(pupil, *batch)


def _ask(loss: Loss, outputs: Any, labels: Any, *, mode: str) -> Tensor:
    try:
        return one_number(loss(outputs, labels))
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
            f"{error}. It was given {described(outputs)} as the network's outputs, in {mode} mode, "
            f"and {given} as labels{remedy}"
        ) from error
