"""Data movement: it is applied to the labels themselves, so no reshape needs a rule of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from latprune.graph.rules.pointwise import beside_constants, join_all, join_shadows
from latprune.graph.shadows import aligned, along_axis, shrunk, varying

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latprune.graph.classes import IntArray
    from latprune.graph.labels import Call, LabelMode

RESHAPES = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias"})


def movement(mode: LabelMode, call: Call) -> None:
    """Move the labels as the operator moves the data."""
    x = call.inputs[0]
    moved: list[list[IntArray]] = [[] for _ in call.outputs]
    for shadow in mode.shadows(x):
        full = torch.from_numpy(shadow).expand(call.taken)
        if call.name in RESHAPES:
            parts: Sequence[torch.Tensor] = [full.reshape(call.outputs[0].shape)]
        else:
            result = call.func(full, *call.args[1:], **call.kwargs)
            parts = [result] if isinstance(result, torch.Tensor) else list(result)
        for found, part in zip(moved, parts, strict=True):
            found.extend(_seen_again(mode, part, len(varying(shadow)), call.name))
    for output, found in zip(call.outputs, moved, strict=True):
        mode.put_shadows(output, found)


def _seen_again(
    mode: LabelMode, moved: torch.Tensor, axes_before: int, name: str
) -> list[IntArray]:
    """Give a moved shadow; remember if an axis was split, freeze a channel that stands alone."""
    shadow = shrunk(moved.numpy())
    axes = varying(shadow)
    if not axes:
        mode.freeze(shadow, f"a single channel is picked by {name}")
        return []
    if len(axes) > axes_before:
        mode.split(shadow, f"an axis was split by {name}")
    elif len(axes) < axes_before and name in RESHAPES:
        mode.shuffle(shadow)
    return [shadow]


def sliced(mode: LabelMode, call: Call) -> None:
    """A slice of a labelled axis: equal blocks must stay equal, other slices are fixed in code.

    Unless a number of the model's says where it begins and ends: then that number will change.
    """
    x = call.inputs[0]
    axis = int(call.argument(2 if call.name.startswith(("split", "unsafe")) else 1, "dim", 0))
    axis %= x.dim()
    labels = _alone_on(mode, x, axis)
    if labels is not None and any(part.shape[axis] != x.shape[axis] for part in call.outputs):
        sizes = {part.shape[axis] for part in call.outputs}
        start = int(call.argument(2, "start") or 0) if call.name == "slice" else 0
        step = int(call.argument(4, "step") or 1) if call.name == "slice" else 1
        size = max(sizes)
        if _told(mode, call, labels, start=start, stop=start + size, step=step):
            pass
        elif len(sizes) == 1 and len(labels) % size == 0 and start % size == 0 and step == 1:
            mode.equal_blocks(labels, len(labels) // size, f"equal blocks of a {call.name}")
        elif step > 1 and len(labels) == step * size and start < step:
            rows = labels.reshape(-1, step)
            mode.join(rows, rows[:, :1], "neighbours that slices in steps take apart")
        elif mode.numbers.function == "chunk" and len(labels) // size == len(call.outputs) - 1:
            _chunked(mode, labels, size)
        else:
            mode.freeze(labels, f"{call.name} at fixed positions")
    movement(mode, call)


def _chunked(mode: LabelMode, labels: IntArray, size: int) -> None:
    """`chunk` cuts the last block short: it stays so if every block loses the same positions."""
    short = len(labels) % size
    for begin in range(0, len(labels) - short, size):
        mode.join(labels[begin : begin + short], labels[-short:], "equal blocks of a chunk")
        mode.freeze(labels[begin + short : begin + size], "the last block of a chunk has no such")


def _told(
    mode: LabelMode, call: Call, labels: IntArray, *, start: int, stop: int, step: int
) -> bool:
    """Whether numbers of the model's own say where a slice begins and ends."""
    numbers = mode.numbers.current
    if call.name != "slice":
        # What they are sizes of is seen when the function returns; `chunk`'s is no size.
        return bool(numbers) and mode.numbers.function != "chunk"
    ends = [end for end in (start, stop) if end not in (0, len(labels))]
    found = {end: number for end in ends for number in numbers if number == end}
    if step != 1 or len(found) < len(ends):
        return False
    for end, number in found.items():
        mode.numbers.count(number, labels[:end])
    return True


def picked(mode: LabelMode, call: Call) -> None:
    """`select` and its like name entries by number: on a labelled axis these must all stay."""
    x = call.inputs[0]
    labels = _alone_on(mode, x, int(call.argument(1, "dim", 0)) % x.dim())
    if labels is not None:
        mode.freeze(labels, f"entries are picked by number in {call.name}")
    movement(mode, call)


def indexed(mode: LabelMode, call: Call) -> None:
    """`x[rows]`: the entries of the axes that are indexed must all stay."""
    x, indices = call.args[0], call.args[1]
    axes = {axis for axis, index in enumerate(indices) if index is not None}
    if any(index is not None and index.dtype == torch.bool for index in indices):
        axes |= set(range(max(axes) + max(i.dim() for i in indices if i is not None)))
    for axis, labels in mode.of(x, whole=axes).items():
        if axis in axes:
            mode.freeze(labels, "entries are picked by index")
    movement(mode, call)


def filled_rows(mode: LabelMode, call: Call) -> None:
    """`x[rows] = values`: labels of the axes behind the rows come with the values."""
    x, indices, values = call.args[0], call.args[1], call.args[2]
    indexed_axes = {axis for axis, index in enumerate(indices) if index is not None}
    shadows = join_all(mode, (x, values), x.dim(), "meets a constant in an assignment")
    # The indices are no values: they stand along no axis of their own.
    both = replace(call, inputs=(x, values))
    shadows = [beside_constants(mode, shadow, both) for shadow in shadows]
    for shadow in shadows:
        if set(varying(shadow)) & indexed_axes:
            mode.freeze(shadow, "rows are assigned by index")
    mode.put_shadows(call.outputs[0], [s for s in shadows if not set(varying(s)) & indexed_axes])


def gathered(mode: LabelMode, call: Call) -> None:
    """`gather`, `scatter`, `index_add`: one axis is picked from by value, the others meet."""
    x, output = call.args[0], call.outputs[0]
    axis, beside = int(call.args[1]) % x.dim(), []
    # The numbers of `index_add` stand along that axis alone.
    call = replace(call, inputs=tuple(t for t in call.inputs if t.dim() == x.dim()))
    for tensor in call.inputs:
        free, found = mode.apart(tensor, {axis})
        free += [along_axis(labels, a, x.dim()) for a, labels in found.items() if a != axis]
        if axis in found:
            mode.freeze(found[axis], f"entries are picked by value in {call.name}")
        for shadow in free:
            if any(tensor.shape[a] != output.shape[a] for a in varying(shadow)):
                mode.freeze(shadow, f"{call.name} at fixed positions")
        beside += free
    joined = join_shadows(mode, beside, f"meets a constant in {call.name}")
    mode.put_shadows(output, [beside_constants(mode, shadow, call) for shadow in joined])
    mode.seen.leave_unpriced(call.name)


def looked_up(mode: LabelMode, call: Call) -> None:
    """An embedding's rows are picked by value; its width is a channel axis."""
    table, output = call.args[0], call.outputs[0]
    mode.freeze(mode.on(table, 0), "rows are looked up")
    width = mode.on(table, 1)
    mode.mark(width, "writes")
    mode.put(output, {output.dim() - 1: width})


def rearranged(mode: LabelMode, call: Call) -> None:
    """`roll`, `flip`, `rot90`, `unfold`: the order on a labelled axis depends on its length."""
    at = 2 if call.name in ("roll", "rot90") else 1
    x, named = call.inputs[0], call.argument(at, "dims", (0, 1) if call.name == "rot90" else 0)
    axes = {a % x.dim() for a in ([named] if isinstance(named, int) else named)}
    found = mode.of(x, whole=axes)
    for axis in axes & set(found):
        mode.freeze(found[axis], f"{call.name} rearranges it")
    movement(mode, call)


def channel_shuffle(mode: LabelMode, call: Call) -> None:
    """A shuffle keeps its order if every group loses the same positions."""
    x = call.inputs[0]
    channels = mode.on(x, 1)
    if channels.any():
        blocks = int(call.args[1])
        mode.shuffles.append((channels, blocks))
        mode.equal_blocks(channels, blocks, "a channel shuffle")
    movement(mode, call)


def restrided(mode: LabelMode, call: Call) -> None:
    """`as_strided` as torch's own poolings use it: the same entries, said to lie elsewhere."""
    x, output = call.inputs[0], call.outputs[0]
    axes = [axis for axis, size in enumerate(x.shape) if size > 1]
    if x.shape == output.shape and all(x.stride(a) == output.stride(a) for a in axes):
        mode.put_shadows(output, mode.shadows(x))
        return
    for shadow in mode.shadows(x):
        mode.freeze(shadow, "as_strided addresses memory")


def two_parts(mode: LabelMode, call: Call) -> None:
    """Complex numbers as real ones lie, with their two parts on a last axis of their own."""
    x, output = call.inputs[0], call.outputs[0]
    if call.name == "view_as_real":
        mode.put_shadows(output, [np.expand_dims(shadow, -1) for shadow in mode.shadows(x)])
        return
    passed, parts = mode.apart(x, {x.dim() - 1})
    for labels in parts.values():
        mode.freeze(labels, "real and imaginary parts")
    mode.put_shadows(output, [shadow.squeeze(-1) for shadow in passed])


def made_anew(_mode: LabelMode, _call: Call) -> None:
    """`new_zeros` and its like take a type and a device from a tensor, and nothing else."""


def patches(mode: LabelMode, call: Call) -> None:
    """`im2col` writes every channel once per place of its kernel."""
    x, output = call.inputs[0], call.outputs[0]
    found = mode.of(x, whole=(2, 3))
    for axis in set(found) & {2, 3}:
        mode.freeze(found[axis], "patches are taken along it")
    channels = mode.on(x, 1)
    mode.put(output, {1: np.repeat(channels, output.shape[1] // len(channels))})
    mode.seen.leave_unpriced("patches")


def from_patches(mode: LabelMode, call: Call) -> None:
    """`col2im` reads every channel once per place of its kernel."""
    x, output = call.inputs[0], call.outputs[0]
    found = mode.of(x, whole=(2,))
    if 2 in found:
        mode.freeze(found[2], "patches are laid along it")
    places = mode.on(x, 1).reshape(output.shape[1], -1)
    mode.join(places, places[:, :1], "the places of a patch")
    mode.put(output, {1: places[:, 0]})
    mode.seen.leave_unpriced("patches")


def concatenation(mode: LabelMode, call: Call) -> None:
    """Labels stand behind each other along one axis and join along the others."""
    output = call.outputs[0]
    parts = [t for t in call.inputs if t.numel() and t.dim() == output.dim()]
    axis = int(call.argument(1, "dim", 0)) % output.dim()
    mode.put_shadows(output, _side_by_side(mode, parts, axis))
    if any(shadow.shape[axis] > 1 for shadow in mode.shadows(output)):
        mode.seen.add_operator("concat", output, output)
    else:
        mode.seen.leave_unpriced("concatenation")


def stacked(mode: LabelMode, call: Call) -> None:
    """`stack` puts equal tensors behind each other along a new axis."""
    output = call.outputs[0]
    axis = int(call.argument(1, "dim", 0)) % output.dim()
    parts = [tensor.unsqueeze(axis) for tensor in call.inputs]
    for part, tensor in zip(parts, call.inputs, strict=True):
        mode.put_shadows(part, [np.expand_dims(s, axis) for s in mode.shadows(tensor)])
    mode.put_shadows(output, _side_by_side(mode, parts, axis))
    mode.seen.leave_unpriced("stack")


def _side_by_side(mode: LabelMode, parts: Sequence[torch.Tensor], axis: int) -> list[IntArray]:
    """Concatenate shadows that lie on the same other axes."""
    keys = {frozenset(varying(s)) - {axis} for part in parts for s in mode.shadows(part)}
    result: list[IntArray] = []
    for key in sorted(keys, key=sorted):
        found = [_lying_on(mode, part, key, axis) for part in parts]
        if key and all(shadow.shape[axis] == 1 for shadow in found):
            for shadow in found[1:]:
                mode.join(found[0], shadow, "meets a constant in a concatenation")
            result.append(found[0] if found[0].any() else max(found, key=np.any))
            continue
        most = [max(s.shape[a] for s in found) for a in range(found[0].ndim)]
        wide = [
            np.broadcast_to(s, [part.shape[a] if a == axis else n for a, n in enumerate(most)])
            for s, part in zip(found, parts, strict=True)
        ]
        result.append(shrunk(np.concatenate(wide, axis=axis)))
    return result


def _lying_on(mode: LabelMode, part: torch.Tensor, key: frozenset[int], axis: int) -> IntArray:
    """The shadow of a part that varies along these axes, and perhaps along `axis`."""
    for shadow in mode.shadows(part):
        if frozenset(varying(shadow)) - {axis} == key:
            return shadow
    return aligned(np.zeros(1, dtype=np.int64), part.dim())


def gated_halves(mode: LabelMode, call: Call) -> None:
    """`glu` multiplies one half of an axis by a gate made of the other one."""
    x, output = call.inputs[0], call.outputs[0]
    axis = int(call.argument(1, "dim", -1)) % x.dim()
    passed, found = mode.apart(x, {axis})
    for own, labels in found.items():
        if own == axis:
            same_positions(mode, labels, 2, "halves of a gated linear unit")
        kept = labels[: output.shape[own]]
        passed.append(along_axis(kept, own, x.dim()))
    mode.put_shadows(output, passed)
    mode.seen.leave_unpriced("glu")


def padding(mode: LabelMode, call: Call) -> None:
    """Padded entries are constants; a crop is a slice at fixed positions."""
    x, amounts = call.inputs[0], [int(n) for n in call.args[1]]
    changed = {x.dim() - 1 - i // 2 for i, amount in enumerate(amounts) if amount}
    padded = {}
    for axis, labels in mode.of(x, whole=changed).items():
        at = 2 * (x.dim() - 1 - axis)
        before, after = amounts[at : at + 2] if at < len(amounts) else (0, 0)
        if before < 0 or after < 0:
            mode.freeze(labels, "cropped at fixed positions")
        cropped = labels[max(-before, 0) : len(labels) - max(-after, 0)]
        padded[axis] = np.pad(cropped, (max(before, 0), max(after, 0)))
    mode.put(call.outputs[0], padded)


def same_positions(mode: LabelMode, labels: IntArray, blocks: int, why: str) -> None:
    """Cut the same positions from every block."""
    rows = labels.reshape(blocks, -1)
    mode.join(rows, rows[:1], why)


def _alone_on(mode: LabelMode, x: torch.Tensor, axis: int) -> IntArray | None:
    """The labels of a shadow that varies along this axis only."""
    return next((s.ravel() for s in mode.shadows(x) if varying(s) == [axis]), None)
