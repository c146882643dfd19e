"""Where in a network the first number that is nan or infinite appears."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latprune.modes import device_of
from latprune.samples import is_finite, outputs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import nn


def culprit(
    model: nn.Module,
    batch: tuple[Tensor, Any],
    loss: Callable[[Any, Any], Tensor],
    parameters: Mapping[str, nn.Parameter],
) -> str:
    """Say where a batch's forward or backward pass stops being finite.

    Args:
        model: In the mode in which it failed.
        batch: The inputs and labels with which it failed.
        loss: Gives a scalar for (outputs, labels).
        parameters: The ones whose gradients were asked for, by name.

    Returns:
        Words that name the inputs, a parameter, a layer, or the loss.
    """
    inputs, labels = batch
    if not is_finite(inputs):
        return "the batch's inputs are not finite"
    for name, parameter in model.named_parameters():
        if not _finite(parameter):
            return f"the parameter {name} is not finite"
    outputs, layer = _forward(model, inputs)
    if layer is not None:
        return f"the output of {layer} is not finite"
    value = loss(outputs, labels)
    if not _finite(value):
        return "the loss is not finite, though the network's outputs are"
    # The backward pass runs from the last layer to the first.
    for name, parameter in reversed(list(parameters.items())):
        (gradient,) = torch.autograd.grad(value, parameter, retain_graph=True, allow_unused=True)
        if gradient is not None and not _finite(gradient * parameter):
            return f"the gradient of {name} is not finite"
    return "no layer shows it when the batch is repeated: the forward pass is not deterministic"


def _forward(model: nn.Module, inputs: Any) -> tuple[Any, str | None]:
    """Give the outputs, and the first layer to finish whose output is not finite."""
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not all(_finite(tensor) for tensor in _tensors(output)):
                found.append(name or "the network")

        return hook

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_hook(watch(name)).remove)
        outputs = outputs_of(model, inputs, device_of(model))
    return outputs, found[0] if found else None


def _tensors(output: Any) -> Iterable[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = tuple(output.values())
    return (
        [t for part in output for t in _tensors(part)] if isinstance(output, tuple | list) else []
    )


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.detach().isfinite().all())
