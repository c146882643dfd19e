"""Operators that work element by element: what meets at one place goes together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from latprune.graph.shadows import aligned, along_axis, varying

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    if call.name == "copy" and call.in_place:
        _overwritten(mode, call)
        return
    if call.name == "add" and isinstance(mode.module, nn.Linear) and mode.module.bias is not None:
        mode.mark(mode.on(mode.module.bias, 0), "writes")
    had = {a for shadow in mode.shadows(output) for a in varying(shadow)}
    joined = join_all(mode, call.inputs, output.dim(), f"meets a constant in {call.name}")
    joined = [beside_constants(mode, shadow, call) for shadow in joined]
    for shadow in joined:
        if call.in_place and output._is_view() and not set(varying(shadow)) <= had:
            mode.freeze(shadow, f"is written into a slice by {call.name}")
    for tensor in call.outputs:
        if tensor.shape == output.shape:
            mode.put_shadows(tensor, joined)
    _follow_layer(mode, call)


def _overwritten(mode: LabelMode, call: Call) -> None:
    """`copy_`: what was there before does not matter, and a slice's labels are its tensor's, too.

    So circular padding is written, side by side, into a tensor that holds nothing yet.
    """
    output, source = call.args[0], call.args[1]
    joined = join_all(mode, (output, source), output.dim(), "meets a constant in copy")
    for shadow in joined:
        if any(is_constant_along(mode, source, axis, shadow) for axis in varying(shadow)):
            mode.freeze(shadow, "meets a constant in copy")
    mode.put_shadows(output, joined)
    whole = output._base
    if whole is None:
        return
    for shadow in joined:
        if whole.dim() == output.dim() and all(_is_whole(output, a) for a in varying(shadow)):
            found = [*mode.shadows(whole), shadow]
            mode.put_shadows(whole, join_shadows(mode, found, "meets another in copy"))
        else:
            mode.freeze(shadow, "is written into a slice by copy")


def _is_whole(view: torch.Tensor, axis: int) -> bool:
    """Whether a view shows all of an axis of the tensor that it is of."""
    whole = view._base
    assert whole is not None
    return view.shape[axis] == whole.shape[axis] and view.stride(axis) == whole.stride(axis)


def join_all(
    mode: LabelMode, tensors: tuple[torch.Tensor, ...], axes: int, why: str
) -> list[IntArray]:
    """Join the shadows of tensors that are broadcast together; those on other axes stay apart."""
    found = [aligned(shadow, axes) for tensor in tensors for shadow in mode.shadows(tensor)]
    return join_shadows(mode, found, why)


def join_shadows(mode: LabelMode, found: Sequence[IntArray], why: str) -> list[IntArray]:
    """Join shadows of one tensor that share an axis."""
    joined: list[IntArray] = []
    for one in found:
        shadow, apart = one, []
        for other in joined:
            if set(varying(other)) & set(varying(shadow)):
                mode.join(other, shadow, why)
                shadow = max(other, shadow, key=lambda s: (len(varying(s)), s is other))
            else:
                apart.append(other)
        joined = [*apart, shadow]
    return joined


def beside_constants(mode: LabelMode, shadow: IntArray, call: Call) -> IntArray:
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
