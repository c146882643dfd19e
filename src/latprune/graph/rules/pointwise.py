"""Operators that work element by element: what meets at one place goes together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from latprune.graph.shadows import aligned, along_axis, varying

if TYPE_CHECKING:
    from latprune.graph.classes import IntArray
    from latprune.graph.labels import Call, LabelMode

ACTIVATIONS = frozenset(
    {
        *("relu", "relu6", "hardtanh", "clamp", "clamp_min", "silu", "hardswish", "hardsigmoid"),
        *("sigmoid", "tanh", "gelu", "elu", "leaky_relu", "mish", "softplus"),
    }
)


def elementwise(mode: LabelMode, call: Call) -> None:
    """Join, position by position, the labels of all inputs."""
    output = call.outputs[0]
    if call.name == "add" and isinstance(mode.module, nn.Linear) and mode.module.bias is not None:
        mode.mark(mode.on(mode.module.bias, 0), "writes")
    had = {a for shadow in mode.shadows(output) for a in varying(shadow)}
    joined = join_all(mode, call.inputs, output.dim(), f"meets a constant in {call.name}")
    joined = [_beside_constants(mode, shadow, call) for shadow in joined]
    for shadow in joined:
        if call.in_place and output._is_view() and not set(varying(shadow)) <= had:
            mode.freeze(shadow, f"is written into a slice by {call.name}")
    for tensor in call.outputs:
        if tensor.shape == output.shape:
            mode.put_shadows(tensor, joined)
    _follow_layer(mode, call)


def join_all(
    mode: LabelMode, tensors: tuple[torch.Tensor, ...], axes: int, why: str
) -> list[IntArray]:
    """Join the shadows of tensors that are broadcast together; those on other axes stay apart."""
    joined: list[IntArray] = []
    for tensor in tensors:
        for found in mode.shadows(tensor):
            shadow = aligned(found, axes)
            apart = []
            for other in joined:
                if set(varying(other)) & set(varying(shadow)):
                    mode.join(other, shadow, why)
                    shadow = max(other, shadow, key=lambda s: (len(varying(s)), s is other))
                else:
                    apart.append(other)
            joined = [*apart, shadow]
    return joined


def _beside_constants(mode: LabelMode, shadow: IntArray, call: Call) -> IntArray:
    """An axis with constants of its own stays whole: another one must be cut, or none."""
    constant = {
        axis
        for axis in varying(shadow)
        if any(is_constant_along(mode, tensor, axis, shadow) for tensor in call.inputs)
    }
    if not constant:
        return shadow
    if not set(varying(shadow)) - constant:
        mode.freeze(shadow, f"meets a constant in {call.name}")
        return shadow
    axis, labels = mode.settle(shadow, constant, f"meets a constant in {call.name}")
    return along_axis(labels, axis, shadow.ndim)


def is_constant_along(mode: LabelMode, tensor: torch.Tensor, axis: int, shadow: IntArray) -> bool:
    """Whether a tensor brings unlabelled entries of its own to a labelled axis of a shadow."""
    own = axis - shadow.ndim + tensor.dim()
    if own < 0 or tensor.shape[own] == 1 or tensor.stride(own) == 0:
        return False
    if any(found.shape[own] > 1 for found in mode.shadows(tensor)):
        return False
    return not (mode.numbers.follow(tensor, own, shadow, axis) or mode.is_drawn(tensor))


def _follow_layer(mode: LabelMode, call: Call) -> None:
    """Make an operator part of the layer before it, or one of its own."""
    x, output, seen = call.inputs[0], call.outputs[0], mode.seen
    if len({id(tensor) for tensor in call.inputs}) == 1:
        if call.name in ACTIVATIONS and not seen.absorb_activation(x, output, call.name):
            seen.add_operator("activation", x, output, activation=call.name)
        return
    shapes = {tensor.shape for tensor in call.inputs}
    if len(call.inputs) == 2 and call.name in ("add", "sub") and shapes == {output.shape}:
        if not seen.absorb_sum(call):
            seen.add_operator("add", output, output)
    elif len(call.inputs) == 2 and call.name == "mul" and shapes == {output.shape}:
        seen.add_operator("mul", output, output)
    elif len(call.inputs) == 2 and call.name == "mul" and shapes == {output.shape, _gate(output)}:
        seen.add_operator("gate", output, output)
    else:
        seen.leave_unpriced(call.name)


def _gate(x: torch.Tensor) -> torch.Size:
    """The shape of one number per sample and channel, where channels come first."""
    return torch.Size([*x.shape[:2], *(1 for _ in x.shape[2:])])
