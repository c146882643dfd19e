"""Operators that mix the entries of an axis without a weight, and pass the other axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latprune.graph.rules.pointwise import elementwise
from latprune.graph.shadows import along_axis

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from latprune.graph.classes import IntArray
    from latprune.graph.labels import Call, LabelMode
    from latprune.graph.layers import Kind

# What they give depends on how many channels there are, yet means the same without some.
EXTREMES = frozenset({"max", "amax", "min", "amin", "logsumexp"})
STATISTICS = EXTREMES | {
    *("mean", "sum", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm"),
}
_POOLS: Mapping[str, Kind] = {
    "max_pool2d": "max_pool",
    "max_pool2d_with_indices": "max_pool",
    "avg_pool2d": "avg_pool",
}


def spatial(mode: LabelMode, call: Call) -> None:
    """Pooling and resampling work on the last axes, channel by channel."""
    x, axes = call.inputs[0], 1 if "1d" in call.name else 3 if "3d" in call.name else 2
    last = range(x.dim() - axes, x.dim())
    passed, runs_along = {}, False
    for axis, labels in mode.of(x, whole=last).items():
        if axis not in last:
            passed[axis] = labels
        elif "adaptive" in call.name and call.outputs[0].shape[axis] == len(labels):
            passed[axis], runs_along = labels, True  # each entry for itself, if the size follows
        elif (own := _averaged_in_place(call, axis - last[0], labels)) is not None:
            passed[axis], runs_along = own, True
            _averaged(mode, call, labels, call.args[1][axis - last[0]])
        else:
            mode.freeze(labels, f"{call.name} mixes it")
    for output in call.outputs:
        mode.put(output, passed)
    if runs_along:
        mode.seen.leave_unpriced("pooling along channels")
        return
    if (kind := _POOLS.get(call.name)) is None:
        mode.seen.leave_unpriced(call.name)
        return
    kernel = _pair(call.argument(1, "kernel_size"))
    stride = _pair(call.argument(2, "stride") or kernel)
    padding = _pair(call.argument(3, "padding", 0))
    mode.seen.add_operator(kind, x, call.outputs[0], kernel=kernel, stride=stride, padding=padding)


def _averaged(mode: LabelMode, call: Call, labels: IntArray, size: int) -> None:
    """Mark what is averaged with its neighbours, in windows of this size."""
    if size > 1:
        mode.approximate(call, labels, "averaged with its neighbours, others after a cut")
    if call.name == "avg_pool3d" and (labels == 0).sum() < size - 1:
        # It counts no padding of its own, and refuses fewer entries than a window has.
        mode.classes.divide(labels, 2 ** (size - 1).bit_length())


def _averaged_in_place(call: Call, at: int, labels: IntArray) -> IntArray | None:
    """Give what lies in the middle of an average's windows; None if it loses or moves a channel.

    Local response norm divides every channel by an average of itself and its neighbours: that runs
    along the channels alone, with zeros before the first one and behind the last.

    Args:
        call: Of a pooling.
        at: Which of its own axes these labels lie on.
        labels: What it runs along.
    """
    if not call.name.startswith("avg_pool"):
        return None
    kernel, padding = call.args[1], call.argument(3, "padding") or [0] * len(call.args[1])
    stride = call.argument(2, "stride") or kernel
    if set(stride) != {1} or any(size > 1 for a, size in enumerate(kernel) if a != at):
        return None
    first = kernel[at] // 2
    length = len(labels) + 2 * padding[at] - kernel[at] + 1
    own = np.pad(labels, padding[at])[first : first + length]
    return own if np.array_equal(own[own > 0], labels[labels > 0]) else None


def unpooling(mode: LabelMode, call: Call) -> None:
    """`max_unpool2d` puts values back where a pooling of the same channels found them."""
    x = call.inputs[0]
    last = range(x.dim() - (3 if "3d" in call.name else 2), x.dim())
    for tensor in call.inputs:
        found = mode.of(tensor, whole=last)
        for axis in set(found) & set(last):
            mode.freeze(found.pop(axis), f"{call.name} mixes it")
        mode.put(tensor, found)
    elementwise(mode, call)


def _pair(given: int | Sequence[int]) -> tuple[int, int]:
    """Give both numbers where one stands for both."""
    height, width = (given, given) if isinstance(given, int) else (given[0], given[-1])
    return height, width


def regions(mode: LabelMode, call: Call) -> None:
    """`roi_align` cuts boxes out of feature maps, `grid_sample` points, channel by channel."""
    x = call.args[0]
    channels = mode.on(x, 1)
    for tensor in call.inputs:
        for axis, labels in mode.of(tensor).items():
            if tensor is not x or axis != 1:
                mode.freeze(labels, f"{call.name} mixes it")
    mode.put(call.outputs[0], {1: channels})
    mode.seen.leave_unpriced(call.name)


def along(mode: LabelMode, call: Call) -> None:
    """Softmax, sorting, Fourier's transform mix the entries of some axes and pass the others."""
    x, axis = call.inputs[0], call.argument(2 if call.name == "topk" else 1, "dim", -1)
    if call.name == "sort" and isinstance(axis, bool):  # `stable` comes first
        axis = call.argument(2, "dim", -1)
    mixed = {a % x.dim() for a in ([axis] if isinstance(axis, int) else axis)}
    passed, found = mode.apart(x, mixed)
    for a, labels in found.items():
        if a in mixed:
            mode.freeze(labels, f"{call.name} mixes it")
        else:
            passed.append(along_axis(labels, a, x.dim()))
    for output in call.outputs:
        mode.put_shadows(output, passed)
    mode.seen.leave_unpriced(call.name)


def reduction(mode: LabelMode, call: Call) -> None:
    """Sums, means, maxima: statistics of a reduced axis change, other results would be wrong."""
    x, output = call.inputs[0], call.outputs[0]
    named = call.argument(2 if "norm" in call.name or call.name == "kthvalue" else 1, "dim")
    axes = range(x.dim()) if not isinstance(named, int | list | tuple) or named == [] else named
    reduced = {a % x.dim() for a in ([axes] if isinstance(axes, int) else axes)}
    passed, found = mode.apart(x, reduced)
    for axis, labels in found.items():
        if axis in reduced and call.name in STATISTICS:
            mode.approximate(call, labels, f"{call.name} over its channels")
            if call.name not in EXTREMES:  # which may be a result: the best of all classes
                mode.read(labels)
            elif len(call.outputs) > 1:  # and where it was found
                mode.numbered(call.outputs[1], labels)
            if _asks_for_two(call, axis, reduced):
                mode.classes.divide(labels, 2)
        elif axis in reduced:
            mode.freeze(labels, f"{call.name} mixes it")
        else:
            passed.append(along_axis(labels, axis, x.dim()))
    if output.dim() < x.dim():
        passed = [shadow.squeeze(tuple(reduced)) for shadow in passed]
    for tensor in call.outputs:
        mode.put_shadows(tensor, passed)
    if call.name == "mean" and reduced == set(range(2, x.dim())):
        mode.seen.add_operator("mean", x, output)
    else:
        mode.seen.leave_unpriced(call.name)


def _asks_for_two(call: Call, axis: int, reduced: set[int]) -> bool:
    """Whether a variance divides by one less than there are channels on this axis."""
    if not call.name.startswith(("var", "std")):
        return False
    unbiased = call.args[2] if len(call.args) > 2 else call.kwargs.get("unbiased", True)
    correction = call.kwargs.get("correction")
    others = [call.inputs[0].shape[a] for a in reduced - {axis}]
    return max(others, default=1) == 1 and bool(unbiased) and correction != 0
