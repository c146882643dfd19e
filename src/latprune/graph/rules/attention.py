"""Products of activations with activations: attention is cut by whole heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from latprune.graph.numbers import DIVIDED_BY_ROOT
from latprune.graph.rules.pointwise import is_constant_along, join_all
from latprune.graph.shadows import along_axis, varying

if TYPE_CHECKING:
    from latprune.graph.labels import AxisLabels, Call, LabelMode


def batched_product(mode: LabelMode, call: Call) -> None:
    """`bmm` and `baddbmm`: factors are cut alike along the batch and where they are contracted."""
    bias, left, right = call.args[:3] if call.name == "baddbmm" else (None, *call.args)
    # Heads lie in the batch: a factor that was split into heads is cut by these.
    a, b = mode.of(left, whole=(1, 2)), mode.of(right, whole=(1, 2))
    if 0 in a or 0 in b:
        mode.join(mode.on(left, 0), mode.on(right, 0), "meets a constant in a batched product")
    if 2 in a or 1 in b:
        into = mode.on(right, 1)
        mode.join(mode.on(left, 2), into, "meets a constant in a batched product")
        mode.mark(into, "reads")
    passed: AxisLabels = {0: a[0]} if 0 in a else {}
    if 1 in a:
        passed[1] = a[1]
    if 2 in b:
        passed[2] = b[2]
        mode.mark(b[2], "writes")
    output = call.outputs[0]
    mode.put(output, passed)
    if bias is not None:
        joined = join_all(mode, (output, bias), 3, "meets a constant bias")
        mode.put_shadows(output, joined)
    mode.seen.leave_unpriced("batched product")


def vector_product(mode: LabelMode, call: Call) -> None:
    """`mv`: a matrix times a vector."""
    left, right = call.args
    mode.join(mode.on(left, 1), mode.on(right, 0), "meets a constant in a product")
    mode.mark(mode.on(right, 0), "reads")
    mode.put(call.outputs[0], {0: mode.on(left, 0)})
    mode.seen.leave_unpriced("matrix product")


def attention(mode: LabelMode, call: Call) -> None:
    """Scaled dot-product attention: heads go together in queries, keys and values."""
    query, key, value = call.args[:3]
    last = query.dim() - 1
    tokens = last - 1
    found = [mode.of(t, whole=(tokens, last)) for t in (query, key, value)]
    for labels in found[1:]:
        if tokens in labels:
            mode.freeze(labels[tokens], "attention runs along it")
    for axis in range(tokens):
        _together(mode, (query, key, value), axis)
    if last in found[0] or last in found[1]:
        mode.join(mode.on(query, last), mode.on(key, last), "meets a constant in attention")
        mode.read(mode.on(query, last))
        if call.kwargs.get("scale") is None:
            width = mode.on(query, last)
            mode.approximate(call, width, DIVIDED_BY_ROOT)
    passed = {axis: labels for axis, labels in found[0].items() if axis < last}
    if last in found[2]:
        passed[last] = found[2][last]
    mode.put(call.outputs[0], passed)
    mask = call.kwargs.get("attn_mask", call.args[3] if len(call.args) > 3 else None)
    if isinstance(mask, torch.Tensor):
        _join_mask(mode, mask, call)
    mode.seen.leave_unpriced("attention")


def _together(mode: LabelMode, tensors: tuple[torch.Tensor, ...], axis: int) -> None:
    """Cut an axis of queries, keys and values alike; it stays where they have different sizes."""
    sides = [mode.on(tensor, axis) for tensor in tensors]
    for side in sides[1:]:
        if len(side) == len(sides[0]):
            mode.join(sides[0], side, "meets a constant in attention")
        else:
            for labels in (side, sides[0]):
                mode.freeze(labels, "heads share keys and values")


def _join_mask(mode: LabelMode, mask: torch.Tensor, call: Call) -> None:
    """A mask may hold numbers of every head; tokens stay."""
    output = call.outputs[0]
    for axis, labels in mode.of(output).items():
        at, shadow = axis - output.dim() + mask.dim(), along_axis(labels, axis, output.dim())
        if axis >= output.dim() - 2 or at < 0 or mask.shape[at] == 1:
            continue
        if mode.on(mask, at).any() or is_constant_along(mode, mask, axis, shadow):
            mode.join(labels, mode.on(mask, at), "meets a constant mask")
    for shadow in mode.shadows(mask):
        if set(varying(shadow)) & {mask.dim() - 1, mask.dim() - 2}:
            mode.freeze(shadow, "attention runs along it")
