"""Layers with weights, and norms: they read the labels on one side and write those on the other."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from latprune.graph.layers import LayerShape
from latprune.graph.recording import SeenLayer
from latprune.graph.rules.moving import same_positions

if TYPE_CHECKING:
    from latprune.graph.classes import IntArray
    from latprune.graph.groups import Role
    from latprune.graph.labels import AxisLabels, Call, LabelMode


def convolution(mode: LabelMode, call: Call) -> None:
    """Read the weight's input side, write its output side; grouped ones couple channels."""
    x, weight, bias = call.args[0], call.args[1], call.argument(2, "bias")
    transposed, groups = bool(call.args[6]), int(call.args[8])
    run_along = _run_along(mode, call)
    inner, outer = (0, 1) if transposed else (1, 0)
    reads, into, out = mode.on(x, 1), mode.on(weight, inner), mode.on(weight, outer)
    follow = groups > 1 and groups >= len(reads) // groups
    if groups == 1:
        _contracted(mode, reads, into, out, groups)
    elif follow and transposed:
        mode.freeze(out, "whole groups are cut instead")
        out = _whole_groups_transposed(mode, reads, into, len(out), groups)
    elif follow:
        out = _whole_groups(mode, weight, reads, out, groups)
        mode.freeze(into, "whole groups are cut instead")
    elif transposed:
        same_positions(mode, reads, groups, "the groups of a convolution")
        mode.join(reads, into, "meets a constant weight")
        mode.mark(into, "reads")
        mode.mark(out, "writes")
        out = np.tile(out, groups)
    else:
        _contracted(mode, reads, into, out, groups)
    if bias is not None:
        mode.join(out, mode.on(bias, 0), "meets a constant bias")
        mode.mark(mode.on(bias, 0), "through" if follow else "writes")
    samples = mode.of(x).get(0)  # channels that were moved into the batch
    moved = {} if samples is None else {0: samples}
    mode.put(call.outputs[0], {**moved, 1: out, **run_along})
    shape = LayerShape(
        kind="conv",
        in_channels=x.shape[1],
        out_channels=call.outputs[0].shape[1],
        size=tuple(x.shape[2:]),
        kernel=tuple(weight.shape[2:]),
        stride=tuple(call.args[3]),
        padding=tuple(call.args[4]),
        dilation=tuple(call.args[5]),
        groups=groups,
        transposed=transposed,
        bias=bias is not None,
        rectified=mode.signs.rectified(x),
    )
    if shape.is_depthwise:
        mode.seen.feed_depthwise(x)
    if samples is not None or run_along:
        place = "along channels" if run_along else "of channels in the batch"
        mode.seen.leave_unpriced(f"convolution {place}")
        return
    name = mode.layer_of(weight)
    mode.seen.add(SeenLayer(name, shape, reads, out, follow), call.outputs[0])


def _run_along(mode: LabelMode, call: Call) -> AxisLabels:
    """Give the labels that a convolution runs along and has in their places afterwards.

    As efficient channel attention does: each channel is weighed by itself and its neighbours, and
    after a cut by other neighbours.
    """
    x, weight = call.args[0], call.args[1]
    along = set(range(2, x.dim()))
    found: AxisLabels = {}
    for tensor in (x, weight):
        for axis, labels in mode.of(tensor, whole=along).items():
            if axis not in along:
                continue
            if tensor is x and _keeps_places(call, axis - 2):
                found[axis] = labels
            else:
                mode.freeze(labels, "a convolution runs along it")
    for axis, labels in found.items():
        if weight.shape[axis] > 1:
            mode.approximate(call, labels, "a convolution runs along it, past other neighbours")
    return found


def _keeps_places(call: Call, axis: int) -> bool:
    """Whether the middle of the kernel reads for each output what stands in its place."""
    stride, padding, dilation = (call.args[at][axis] for at in (3, 4, 5))
    reach = dilation * (call.args[1].shape[2 + axis] - 1)
    return not call.args[6] and stride == 1 and 2 * padding == reach and reach % (2 * dilation) == 0


def _contracted(
    mode: LabelMode, reads: IntArray, into: IntArray, out: IntArray, groups: int
) -> None:
    """Every group loses the same positions of what it reads, and of what it writes."""
    same_positions(mode, reads, groups, "the groups of a convolution")
    same_positions(mode, out, groups, "the groups of a convolution")
    mode.join(reads.reshape(groups, -1)[0], into, "meets a constant weight")
    mode.mark(into, "reads")
    mode.mark(out, "writes")


def deformable(mode: LabelMode, call: Call) -> None:
    """`deform_conv2d`: a convolution whose places are told; those that tell them stay."""
    x, weight, *told, bias = call.args[:5]
    groups, offset_groups = int(call.args[11]), int(call.args[12])
    for tensor in told:
        for shadow in mode.shadows(tensor):
            mode.freeze(shadow, f"{call.name} takes places from it")
    for tensor in (x, weight):
        for axis, labels in mode.of(tensor, whole=(2, 3)).items():
            if axis > 1:
                mode.freeze(labels, "a convolution runs along it")
    reads, into, out = mode.on(x, 1), mode.on(weight, 1), mode.on(weight, 0)
    same_positions(mode, reads, offset_groups, "channels with the same places")
    _contracted(mode, reads, into, out, groups)
    mode.join(out, mode.on(bias, 0), "meets a constant bias")
    mode.mark(mode.on(bias, 0), "writes")
    mode.put(call.outputs[0], {1: out})
    mode.seen.leave_unpriced(call.name)


def _whole_groups(
    mode: LabelMode, weight: torch.Tensor, reads: IntArray, out: IntArray, groups: int
) -> IntArray:
    """A convolution that loses whole groups, as a depthwise one does: give what it writes."""
    if len(out) == len(reads):
        told = mode.numbers.follow(weight, 0, reads, 0)
        if told or weight.stride(0) == 0:
            out = reads  # one filter, repeated for all channels, brings nothing of its own
    blocks = np.concatenate([reads.reshape(groups, -1), out.reshape(groups, -1)], axis=1)
    mode.join(blocks, blocks[:, :1], "a group of a grouped convolution")
    mode.mark(out, "through")
    for number in mode.numbers.current:
        if number == groups:
            mode.numbers.count(number, reads.reshape(groups, -1)[:, 0])
    return out


def _whole_groups_transposed(
    mode: LabelMode, reads: IntArray, into: IntArray, per_group: int, groups: int
) -> IntArray:
    """The same for a transposed one, whose weight has no axis for what it writes in all."""
    blocks = np.concatenate([reads.reshape(groups, -1), into.reshape(groups, -1)], axis=1)
    mode.join(blocks, blocks[:, :1], "a group of a grouped convolution")
    mode.mark(into, "through")
    mode.read(reads)
    return np.repeat(into.reshape(groups, -1)[:, 0], per_group)


def weight_norm(mode: LabelMode, call: Call) -> None:
    """`weight_norm`: a gain for each entry of one axis, norms over the others.

    The gain stands for the weight, whose size it says; see `reparametrised` for the norms.
    """
    direction, gain, axis = call.args[0], call.args[1], int(call.argument(2, "dim", 0))
    gains = mode.on(gain, axis)
    mode.join(mode.on(direction, axis), gains, "meets a constant gain")
    mode.put(call.outputs[0], {**mode.of(direction), axis % direction.dim(): gains})


def one_number(mode: LabelMode, call: Call) -> None:
    """`dot`: one number of all, as `spectral_norm` divides a weight by."""
    for tensor in call.inputs:
        for shadow in mode.shadows(tensor):
            mode.freeze(
                shadow,
                f"{call.name} makes one number of them; if that is spectral_norm's, remove it "
                "before tracing",
            )


def matrix_product(mode: LabelMode, call: Call) -> None:
    """`mm` and `addmm`: the contracted labels join, the outer ones pass."""
    bias, left, right = call.args if call.name == "addmm" else (None, *call.args)
    _linear(mode, call.outputs[0], left, right, bias)


def distances(mode: LabelMode, call: Call) -> None:
    """`cdist`: features are compared number by number with centres; each of these is a channel.

    A gate on a feature is one on its difference from the centres', which they write as it does.
    """
    features, centres = call.args[:2]
    sides = mode.on(features, -1), mode.on(centres, -1)
    mode.join(*sides, "meets a constant in a distance")
    for tensor, labels in zip((features, centres), sides, strict=True):
        if mode.owner_of(tensor) is not None:
            mode.mark(mode.on(tensor, -2), "writes")
        # A buffer has no slopes that scores could be made of.
        mode.mark(labels, "reads" if mode.lie_on_buffer(labels) else "writes")
        mode.read(labels)
    output = call.outputs[0]
    found = {output.dim() - 2: mode.on(features, -2), output.dim() - 1: mode.on(centres, -2)}
    for axis in range(-output.dim(), -2):
        apart = [t for t in (features, centres) if t.dim() >= -axis and t.shape[axis] > 1]
        for one, other in itertools.pairwise(apart):
            mode.join(mode.on(one, axis), mode.on(other, axis), "meets a constant in a distance")
        for one in apart[:1]:
            found[output.dim() + axis] = mode.on(one, axis)
    mode.put(output, found)
    mode.seen.leave_unpriced("distances")


def linear(mode: LabelMode, call: Call) -> None:
    """`linear` where a backend keeps it whole: the weight lies [out, in]."""
    x, weight = call.args[0], call.args[1]
    transposed = weight.t()
    mode.put(transposed, {1 - axis: labels for axis, labels in mode.of(weight).items()})
    _linear(mode, call.outputs[0], x, transposed, call.argument(2, "bias"))


def _linear(
    mode: LabelMode,
    output: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    bias: torch.Tensor | None,
) -> None:
    reads, into, out = mode.on(left, -1), mode.on(right, 0), mode.on(right, 1)
    mode.join(reads, into, "meets a constant in a matrix product")
    mode.mark(into, "reads")
    mode.mark(out, "writes")
    labels = {a: entries for a, entries in mode.of(left).items() if a < left.dim() - 1}
    mode.put(output, {**labels, output.dim() - 1: out})
    if bias is not None:
        mode.join(out, mode.on(bias, -1), "meets a constant bias")
        mode.mark(mode.on(bias, -1), "writes")
    name = mode.layer_of(right)
    if not isinstance(mode.module, nn.Linear):
        owner = mode.owner_of(right)
        if owner is None:
            mode.seen.leave_unpriced("matrix product")
            return
        name = owner
    rows = math.prod(left.shape[:-1])
    shape = LayerShape(
        kind="linear",
        in_channels=left.shape[-1],
        out_channels=right.shape[1],
        size=(max(rows // mode.batch, 1),),
        bias=bias is not None,
        rectified=mode.signs.rectified(left),
    )
    mode.seen.add(SeenLayer(name, shape, reads, out, False), output)


def recurrent(mode: LabelMode, call: Call) -> None:
    """`mkldnn_rnn_layer`, one direction of an LSTM: all gates lose the positions of its state."""
    x, into, back, *biases, state, cell = call.args[:7]
    biases = biases if call.args[12] else []  # without, they are zeros
    rows, *others = (mode.on(tensor, 0) for tensor in (into, back, *biases))
    same_positions(mode, rows, 4, "the gates of a recurrent layer")
    for labels in others:
        mode.join(rows, labels, "meets a constant in a recurrent layer")
    out = rows[: len(rows) // 4]
    for begin in (mode.on(state, -1), mode.on(cell, -1), mode.on(back, 1)):
        mode.join(out, begin, "a recurrent layer begins with a constant state")
    mode.join(mode.on(x, -1), mode.on(into, 1), "meets a constant weight")
    for labels in (mode.on(into, 1), mode.on(back, 1)):
        mode.mark(labels, "reads")
    for labels in (rows, *others):
        mode.mark(labels, "writes")
    for output in call.outputs[:3]:
        mode.put(output, {output.dim() - 1: out})
    mode.seen.leave_unpriced("recurrent layer")


def batch_norm(mode: LabelMode, call: Call) -> None:
    """Scale, shift and statistics lie on the channel axis."""
    x, y = call.inputs[0], call.outputs[0]
    channels = mode.on(x, 1)
    standardises = call.argument(3, "running_mean") is None
    for axis, labels in mode.of(x).items():
        if axis != 1 and standardises:
            mode.approximate(call, labels, "statistics are taken over it")
        elif axis != 1:
            mode.freeze(labels, "a batch norm averages over it")
    roles: tuple[Role, ...] = ("scale", "shift", "statistic", "statistic")
    for tensor, role in zip(call.args[1:5], roles, strict=False):
        _join_vector(mode, channels, tensor, role)
    passed = mode.of(x) if standardises else {}
    mode.put(y, {**passed, 1: channels})
    if not mode.seen.absorb_norm(x, y):
        mode.seen.add_operator("norm", x, y, norm=True)


def layer_norm(mode: LabelMode, call: Call) -> None:
    """Layer and RMS norm: what remains of a cut axis is normalised by its own statistics."""
    x, sizes = call.args[0], call.args[1]
    axes = range(x.dim() - len(sizes), x.dim())
    found = mode.of(x, whole=axes)
    for axis in axes:
        if axis in found:
            mode.approximate(call, found[axis], "normalised over its channels")
    for tensor, role in zip(call.args[2:4], ("scale", "shift"), strict=False):
        if isinstance(tensor, torch.Tensor):
            for inner, axis in enumerate(axes):
                if x.shape[axis] > 1:
                    same = mode.on(tensor, inner)
                    mode.join(mode.on(x, axis), same, "normalised over an axis that stays")
                    mode.mark(same, role)  # type: ignore[arg-type]
    mode.put(call.outputs[0], found)
    mode.seen.leave_unpriced("layer norm")


def group_norm(mode: LabelMode, call: Call) -> None:
    """As many channels must stay as go evenly into the groups; a group each goes with its channel.

    Groups of one channel are an instance norm: what remains is normalised as before.
    """
    x, groups = call.args[0], int(call.args[6])
    channels = mode.on(x, 1)
    for axis, labels in mode.of(x).items():
        if axis > 1:
            mode.freeze(labels, "a group norm averages over it")
    if not (groups == x.shape[1] and _is_told_of_groups(mode, groups, channels)):
        mode.approximate(call, channels, "normalised in groups of channels")
        mode.classes.divide(channels, groups)
    _join_vector(mode, channels, call.args[1], "scale")
    _join_vector(mode, channels, call.args[2], "shift")
    mode.put(call.outputs[0], {1: channels})
    mode.seen.leave_unpriced("group norm")


def _is_told_of_groups(mode: LabelMode, groups: int, channels: IntArray) -> bool:
    """Whether a module's number says that there are as many groups as channels, and can follow."""
    module = mode.module
    if isinstance(module, nn.GroupNorm) and module.affine:
        return module.num_groups == groups  # which follows from its weight; see `slicing`
    told = [number for number in mode.numbers.current if number == groups]
    for number in told:
        mode.numbers.count(number, channels)
    return bool(told)


def _join_vector(mode: LabelMode, channels: IntArray, tensor: Any, role: Role) -> None:
    if isinstance(tensor, torch.Tensor):
        mode.join(channels, mode.on(tensor, 0), "meets constants in a norm")
        mode.mark(mode.on(tensor, 0), role)
