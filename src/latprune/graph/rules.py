"""What every operator does to channel labels.

Data movement is applied to the labels themselves, so no reshape needs a rule of its own.
Element-wise operators join what they meet. Convolutions and matrix products join the labels they
contract with their weight's, and write the weight's other side. An operator that mixes channels
without a weight, or that nobody has taught, freezes what it touches.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from latprune.graph.labels import AxisLabels, Call, LabelMode, SeenLayer
from latprune.graph.layers import LayerShape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from latprune.graph.classes import IntArray
    from latprune.graph.labels import Rule
    from latprune.graph.layers import Kind


# ------------------------------------------------------------------ layers with weights


def convolution(mode: LabelMode, call: Call) -> None:
    """Read the weight's input side, write its output side; grouped ones couple channels."""
    x, weight = call.args[0], call.args[1]
    bias = call.argument(2, "bias")
    transposed, groups = bool(call.args[6]), int(call.args[8])
    for axis, labels in mode.of(x).items():
        if axis != 1:
            mode.freeze(labels, "a convolution runs along it")
    reads = mode.on(x, 1)
    inner, outer = (0, 1) if transposed else (1, 0)
    into, out = mode.on(weight, inner), mode.on(weight, outer)
    follow = groups > 1 and groups >= len(reads) // groups
    if groups == 1:
        mode.join(reads, into, "meets a constant weight")
        mode.mark(into, "reads")
        mode.mark(out, "writes")
    elif transposed:
        for labels in (reads, into, out):
            mode.freeze(labels, "a grouped transposed convolution")
        out = np.tile(out, groups)
    elif follow:
        blocks = np.concatenate([reads.reshape(groups, -1), out.reshape(groups, -1)], axis=1)
        mode.join(blocks, blocks[:, :1], "a group of a grouped convolution")
        mode.freeze(into, "whole groups are cut instead")
        mode.mark(out, "through")
    else:
        _same_positions(mode, reads, groups, "the groups of a convolution")
        _same_positions(mode, out, groups, "the groups of a convolution")
        mode.join(reads.reshape(groups, -1)[0], into, "meets a constant weight")
        mode.mark(into, "reads")
        mode.mark(out, "writes")
    if bias is not None:
        mode.join(out, mode.on(bias, 0), "meets a constant bias")
        mode.mark(mode.on(bias, 0), "through" if follow else "writes")
    mode.put(call.outputs[0], {1: out})
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
    )
    name = mode.name_of(mode.module)
    mode.add_layer(SeenLayer(name, shape, reads, out, follow), call.outputs[0])


def matrix_product(mode: LabelMode, call: Call) -> None:
    """`mm` and `addmm`: the contracted labels join, the outer ones pass."""
    bias, left, right = call.args if call.name == "addmm" else (None, *call.args)
    _linear(mode, call.outputs[0], left, right, bias)


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
    if not isinstance(mode.module, nn.Linear):
        mode.leave_unpriced("matrix product")
        return
    rows = math.prod(left.shape[:-1])
    shape = LayerShape(
        kind="linear",
        in_channels=left.shape[-1],
        out_channels=right.shape[1],
        size=(max(rows // mode.batch, 1),),
        bias=bias is not None,
    )
    mode.add_layer(SeenLayer(mode.name_of(mode.module), shape, reads, out, False), output)


def batch_norm(mode: LabelMode, call: Call) -> None:
    """Scale, shift and statistics lie on the channel axis."""
    x, y = call.inputs[0], call.outputs[0]
    channels = mode.on(x, 1)
    for axis, labels in mode.of(x).items():
        if axis != 1:
            mode.freeze(labels, "a batch norm averages over it")
    roles = ("scale", "shift", "statistic", "statistic")
    for tensor, role in zip(call.args[1:5], roles, strict=False):
        if isinstance(tensor, torch.Tensor):
            mode.join(channels, mode.on(tensor, 0), "meets constants in a batch norm")
            mode.mark(mode.on(tensor, 0), role)  # type: ignore[arg-type]
    mode.put(y, {1: channels})
    if not mode.absorb_norm(x, y):
        mode.add_operator("norm", x, y, norm=True)


# ------------------------------------------------------------------ element by element


def elementwise(mode: LabelMode, call: Call) -> None:
    """Join, position by position, the labels of all inputs."""
    output = call.outputs[0]
    joined: AxisLabels = {}
    for tensor in call.inputs:
        for axis, labels in mode.of(tensor).items():
            at = axis + output.dim() - tensor.dim()
            if at in joined:
                mode.join(joined[at], labels, f"meets a constant in {call.name}")
            else:
                joined[at] = labels
    for axis, labels in joined.items():
        if any(_is_constant_along(mode, tensor, axis, output) for tensor in call.inputs):
            mode.freeze(labels, f"meets a constant in {call.name}")
        if call.in_place and output._is_view() and axis not in mode.of(output):
            mode.freeze(labels, f"is written into a slice by {call.name}")
    for tensor in call.outputs:
        if tensor.shape == output.shape:
            mode.put(tensor, joined)
    if joined:
        _follow_layer(mode, call)


def _is_constant_along(
    mode: LabelMode, tensor: torch.Tensor, axis: int, output: torch.Tensor
) -> bool:
    """Whether a tensor brings unlabelled entries of its own to a labelled axis."""
    axis -= output.dim() - tensor.dim()
    if axis < 0 or tensor.shape[axis] == 1 or tensor.stride(axis) == 0:
        return False
    return axis not in mode.of(tensor)


def _follow_layer(mode: LabelMode, call: Call) -> None:
    """Make an operator part of the layer before it, or one of its own."""
    x, output = call.inputs[0], call.outputs[0]
    if len({id(tensor) for tensor in call.inputs}) == 1:
        if call.name in ACTIVATIONS and not mode.absorb_activation(x, output, call.name):
            mode.add_operator("activation", x, output, activation=call.name)
        return
    shapes = {tensor.shape for tensor in call.inputs}
    if len(call.inputs) == 2 and call.name in ("add", "sub") and shapes == {output.shape}:
        if not mode.absorb_sum(call):
            mode.add_operator("add", output, output)
    elif len(call.inputs) == 2 and call.name == "mul" and shapes == {output.shape}:
        mode.add_operator("mul", output, output)
    elif len(call.inputs) == 2 and call.name == "mul" and shapes == {output.shape, _gate(output)}:
        mode.add_operator("gate", output, output)
    else:
        mode.leave_unpriced(call.name)


def _gate(x: torch.Tensor) -> torch.Size:
    """The shape of one number per sample and channel, where channels come first."""
    return torch.Size([*x.shape[:2], *(1 for _ in x.shape[2:])])


# ------------------------------------------------------------------ movement


def movement(mode: LabelMode, call: Call) -> None:
    """Move the labels as the operator moves the data."""
    x = call.inputs[0]
    layers: list[list[torch.Tensor]] = [[] for _ in call.outputs]
    for axis, labels in mode.of(x).items():
        shadow = _shadow(x, axis, labels)
        if call.name in RESHAPES:
            moved: object = shadow.reshape(call.outputs[0].shape)
        else:
            moved = call.func(shadow, *call.args[1:], **call.kwargs)
        parts = [moved] if isinstance(moved, torch.Tensor) else list(moved)  # type: ignore[call-overload]
        for found, part in zip(layers, parts, strict=True):
            found.append(part)
    for output, found in zip(call.outputs, layers, strict=True):
        _put_shadows(mode, output, found, call.name)


def sliced(mode: LabelMode, call: Call) -> None:
    """A slice of a labelled axis: equal blocks must stay equal, other slices are fixed in code."""
    x = call.inputs[0]
    axis = int(call.argument(2 if call.name.startswith(("split", "unsafe")) else 1, "dim", 0))
    axis %= x.dim()
    labels = mode.of(x).get(axis)
    if labels is not None and any(part.shape[axis] != x.shape[axis] for part in call.outputs):
        sizes = {part.shape[axis] for part in call.outputs}
        start = int(call.argument(2, "start") or 0) if call.name == "slice" else 0
        step = int(call.argument(4, "step") or 1) if call.name == "slice" else 1
        size = max(sizes)
        if len(sizes) == 1 and len(labels) % size == 0 and start % size == 0 and step == 1:
            _same_positions(mode, labels, len(labels) // size, f"equal blocks of a {call.name}")
        else:
            mode.freeze(labels, f"{call.name} at fixed positions")
    movement(mode, call)


def picked(mode: LabelMode, call: Call) -> None:
    """`select` and its like name entries by number: on a labelled axis these must all stay."""
    x = call.inputs[0]
    labels = mode.of(x).get(int(call.argument(1, "dim", 0)) % x.dim())
    if labels is not None:
        mode.freeze(labels, f"entries are picked by number in {call.name}")
    movement(mode, call)


def rearranged(mode: LabelMode, call: Call) -> None:
    """`roll`, `flip`, `unfold`: the order on a labelled axis depends on how long it is."""
    x, named = call.inputs[0], call.argument(2 if call.name == "roll" else 1, "dims", 0)
    for axis in {a % x.dim() for a in ([named] if isinstance(named, int) else named)}:
        if axis in mode.of(x):
            mode.freeze(mode.of(x)[axis], f"{call.name} rearranges it")
    movement(mode, call)


def channel_shuffle(mode: LabelMode, call: Call) -> None:
    """A shuffle keeps its order if every group loses the same positions."""
    x = call.inputs[0]
    if 1 in mode.of(x):
        _same_positions(mode, mode.of(x)[1], int(call.args[1]), "a channel shuffle")
    movement(mode, call)


def concatenation(mode: LabelMode, call: Call) -> None:
    """Labels stand behind each other along one axis and join along the others."""
    output, parts = call.outputs[0], [t for t in call.inputs if t.numel()]
    axis = int(call.argument(1, "dim", 0)) % output.dim()
    joined: AxisLabels = {axis: np.concatenate([mode.on(part, axis) for part in parts])}
    for other in {a for part in parts for a in mode.of(part)} - {axis}:
        first = mode.on(parts[0], other)
        for part in parts[1:]:
            mode.join(first, mode.on(part, other), "meets a constant in a concatenation")
        joined[other] = first
    mode.put(output, joined)
    if axis in mode.of(output):
        mode.add_operator("concat", output, output)
    else:
        mode.leave_unpriced("concatenation")


def padding(mode: LabelMode, call: Call) -> None:
    """Padded entries are constants; a crop is a slice at fixed positions."""
    x, amounts = call.inputs[0], [int(n) for n in call.args[1]]
    padded: AxisLabels = {}
    for axis, labels in mode.of(x).items():
        at = 2 * (x.dim() - 1 - axis)
        before, after = amounts[at : at + 2] if at < len(amounts) else (0, 0)
        if before < 0 or after < 0:
            mode.freeze(labels, "cropped at fixed positions")
        cropped = labels[max(-before, 0) : len(labels) - max(-after, 0)]
        padded[axis] = np.pad(cropped, (max(before, 0), max(after, 0)))
    mode.put(call.outputs[0], padded)


# ------------------------------------------------------------------ along an axis


def spatial(mode: LabelMode, call: Call) -> None:
    """Pooling and resampling work on the last axes, channel by channel."""
    x, axes = call.inputs[0], 1 if "1d" in call.name else 3 if "3d" in call.name else 2
    passed = {}
    for axis, labels in mode.of(x).items():
        if axis >= x.dim() - axes:
            mode.freeze(labels, f"{call.name} mixes it")
        else:
            passed[axis] = labels
    for output in call.outputs:
        mode.put(output, passed)
    if (kind := _POOLS.get(call.name)) is None:
        mode.leave_unpriced(call.name)
        return
    kernel = _pair(call.argument(1, "kernel_size"))
    stride = _pair(call.argument(2, "stride") or kernel)
    padding = _pair(call.argument(3, "padding", 0))
    mode.add_operator(kind, x, call.outputs[0], kernel=kernel, stride=stride, padding=padding)


def _pair(given: int | Sequence[int]) -> tuple[int, int]:
    """Give both numbers where one stands for both."""
    height, width = (given, given) if isinstance(given, int) else (given[0], given[-1])
    return height, width


def along(mode: LabelMode, call: Call) -> None:
    """Softmax and its like mix the entries of one axis and pass the others."""
    x, axis = call.inputs[0], call.argument(1, "dim", -1)
    mixed = {a % x.dim() for a in ([axis] if isinstance(axis, int) else axis)}
    for a in mixed & set(mode.of(x)):
        mode.freeze(mode.of(x)[a], f"{call.name} mixes it")
    for output in call.outputs:
        mode.put(output, mode.of(x))
    mode.leave_unpriced(call.name)


def reduction(mode: LabelMode, call: Call) -> None:
    """Sums, means and maxima: a reduced axis must keep its entries, the others pass."""
    x, output = call.inputs[0], call.outputs[0]
    named = call.argument(2 if "norm" in call.name else 1, "dim")
    axes = range(x.dim()) if not isinstance(named, int | list | tuple) or named == [] else named
    reduced = {a % x.dim() for a in ([axes] if isinstance(axes, int) else axes)}
    passed = {}
    for axis, labels in mode.of(x).items():
        if axis in reduced:
            mode.freeze(labels, f"{call.name} mixes it")
        else:
            gone = 0 if output.dim() == x.dim() else sum(a < axis for a in reduced)
            passed[axis - gone] = labels
    for tensor in call.outputs:
        mode.put(tensor, passed)
    if call.name == "mean" and reduced == set(range(2, x.dim())):
        mode.add_operator("mean", x, output)
    else:
        mode.leave_unpriced(call.name)


def unknown(mode: LabelMode, call: Call) -> None:
    """Element-wise by its tag, harmless without labels, or frozen."""
    if torch.Tag.pointwise in getattr(call.func, "tags", ()):
        elementwise(mode, call)
        return
    for tensor in call.inputs:
        for labels in mode.of(tensor).values():
            mode.freeze(labels, f"no rule for {call.name}")
    if any(mode.of(tensor) for tensor in call.inputs):
        mode.leave_unpriced(call.name)


# ------------------------------------------------------------------ helpers


def _same_positions(mode: LabelMode, labels: IntArray, blocks: int, why: str) -> None:
    rows = labels.reshape(blocks, -1)
    mode.join(rows, rows[:1], why)


def _shadow(tensor: torch.Tensor, axis: int, labels: IntArray) -> torch.Tensor:
    shape = [-1 if a == axis else 1 for a in range(tensor.dim())]
    return torch.from_numpy(labels.copy()).view(shape).expand(tensor.shape)


def _put_shadows(
    mode: LabelMode, output: torch.Tensor, shadows: list[torch.Tensor], name: str
) -> None:
    """Read labels per axis back from moved shadows, joining where an axis was split."""
    placed: AxisLabels = {}
    for shadow in shadows:
        entries = shadow
        for axis in sorted(range(shadow.dim()), key=shadow.stride):  # expanded axes cost nothing
            entries = _collapse(mode, entries, axis)
        axes = [axis for axis, size in enumerate(entries.shape) if size > 1]
        values = entries.numpy()
        if not axes:
            mode.freeze(values.ravel(), f"a single channel is picked by {name}")
            continue
        axis = max(axes, key=lambda a: entries.shape[a])
        rows = np.moveaxis(values, axis, -1).reshape(-1, entries.shape[axis])
        mode.join(rows, rows[:1], f"an axis split by {name}")
        if axis in placed:
            mode.freeze(placed[axis], f"two labelled axes merged by {name}")
            mode.freeze(rows[0], f"two labelled axes merged by {name}")
        placed[axis] = rows[0].copy()
    mode.put(output, placed)


def _collapse(mode: LabelMode, entries: torch.Tensor, axis: int) -> torch.Tensor:
    """Shorten an axis to 1 if the labels' classes are the same all along it."""
    if entries.shape[axis] <= 1:
        return entries
    first = entries.narrow(axis, 0, 1)
    if entries.stride(axis) == 0 or bool((entries == first).all()):
        return first
    classes = torch.from_numpy(mode.classes.find(entries.numpy()))
    return first if bool((classes == classes.narrow(axis, 0, 1)).all()) else entries


ACTIVATIONS = frozenset(
    {
        *("relu", "relu6", "hardtanh", "clamp", "clamp_min", "silu", "hardswish", "hardsigmoid"),
        *("sigmoid", "tanh", "gelu", "elu", "leaky_relu", "mish", "softplus"),
    }
)
_POOLS: Mapping[str, Kind] = {
    "max_pool2d": "max_pool",
    "max_pool2d_with_indices": "max_pool",
    "avg_pool2d": "avg_pool",
}
RESHAPES = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias"})

_BY_RULE: dict[Rule, str] = {
    convolution: "convolution _convolution mkldnn_convolution cudnn_convolution",
    matrix_product: "mm addmm",
    linear: "linear",
    batch_norm: "native_batch_norm batch_norm cudnn_batch_norm miopen_batch_norm "
    "_native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update "
    "_batch_norm_no_update",
    elementwise: "clone _to_copy contiguous alias detach lift_fresh dropout native_dropout "
    "zeros_like ones_like empty_like rand_like randn_like full_like copy fill zero masked_fill "
    "hardtanh hardswish hardsigmoid relu relu6 gelu silu mish softplus elu leaky_relu clamp "
    "prelu _prelu_kernel rsub bernoulli add sub mul div",
    movement: "view _unsafe_view reshape _reshape_alias permute transpose t unsqueeze squeeze "
    "expand repeat pixel_shuffle pixel_unshuffle movedim swapaxes",
    picked: "select unbind index_select",
    rearranged: "roll flip unfold",
    channel_shuffle: "channel_shuffle native_channel_shuffle",
    sliced: "slice split split_with_sizes unsafe_split unsafe_split_with_sizes narrow",
    concatenation: "cat",
    padding: "constant_pad_nd",
    spatial: "avg_pool1d avg_pool2d avg_pool3d max_pool2d max_pool2d_with_indices "
    "max_pool3d_with_indices adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d "
    "_adaptive_avg_pool3d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d "
    "_upsample_bilinear2d_aa reflection_pad2d replication_pad2d",
    along: "_softmax _safe_softmax _log_softmax cumsum",
    reduction: "mean sum amax amin max min var std var_mean std_mean prod logsumexp "
    "linalg_vector_norm argmax argmin",
}
RULES: Mapping[str, Rule] = {
    name: rule for rule, names in _BY_RULE.items() for name in names.split()
}
