"""How often a classifier is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from latprune.errors import DataError, import_extra
from latprune.modes import evaluating
from latprune.outputs import main_output
from latprune.samples import outputs_of, pairs
from latprune.tuning.losses import cross_entropy

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor, nn

__all__ = ["cross_entropy", "evaluate"]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    classes: Sequence[int] | None = None,
) -> dict[str, float]:
    """Measure a classifier's accuracy.

    Args:
        model: Images [n, 3, height, width] to logits [n, outputs]. Judged in eval mode; every
            module's mode is put back.
        loader: Batches of (images, labels [n]); moved to the model's device.
        classes: Outputs that occur in the data, for networks that know more classes.

    Returns:
        Shares in [0, 1]: `top1`; `top5` if there are more than five outputs; with `classes`,
        `top1_restricted`, where the answer is the largest logit among `classes`.

    Raises:
        DataError: If the loader gives nothing.
    """
    device = next(model.parameters()).device
    metrics: dict[str, Any] = {}
    allowed = None if classes is None else torch.tensor(sorted(classes), device=device)
    with evaluating(model):
        for images, on_host in pairs(loader):
            logits = main_output(outputs_of(model, images, device)).float()
            labels = on_host.to(device)
            metrics = metrics or _metrics(logits.shape[1], device, restricted=allowed is not None)
            for name in metrics.keys() & {"top1", "top5"}:
                metrics[name].update(logits, labels)
            if allowed is not None:
                metrics["top1_restricted"].update(allowed[logits[:, allowed].argmax(1)], labels)
    if not metrics:
        raise DataError("there is nothing to evaluate on: the loader gave no batch")
    # The metrics are float32: more digits than these are noise.
    return {name: round(float(metric.compute()), 6) for name, metric in metrics.items()}


def _metrics(outputs: int, device: torch.device, *, restricted: bool) -> dict[str, Any]:
    accuracy = import_extra("torchmetrics.classification", "train").MulticlassAccuracy
    top = {"top1": 1} | ({"top5": 5} if outputs > 5 else {})
    top |= {"top1_restricted": 1} if restricted else {}
    # Whoever judges sees all pictures: processes that are elsewhere must not be waited for.
    options = {"num_classes": outputs, "average": "micro", "sync_on_compute": False}
    return {name: accuracy(top_k=k, **options).to(device) for name, k in top.items()}
