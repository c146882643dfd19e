"""The sizes of what a layer reads, writes and holds. Needs nothing but Python."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latprune.graph.layers import LayerShape


def input_shape(shape: LayerShape, *, batch: int) -> tuple[int, ...]:
    """Give the shape of a layer's input."""
    if shape.kind == "linear" or shape.last:
        rows = (batch,) if shape.size in ((), (1,)) else (batch, *shape.size)
        return (*rows, shape.in_channels)
    return (batch, shape.in_channels, *shape.size)


def second_shape(shape: LayerShape, *, batch: int) -> tuple[int, ...] | None:
    """Give the shape of the other tensor that a layer reads, if it does."""
    sizes = input_shape(shape, batch=batch)
    if shape.kind == "gate":
        return (*sizes[:2], *(1 for _ in sizes[2:]))
    if shape.kind == "concat":
        return halves(sizes, last=shape.last)[1]
    if shape.kind in ("add", "mul"):
        return sizes
    if not shape.adds:
        return None
    if shape.kind == "linear":
        return (*sizes[:-1], shape.out_channels)
    return (batch, shape.out_channels, *output_size(shape))


def output_size(shape: LayerShape) -> tuple[int, ...]:
    """Give the spatial size that a convolution or pooling writes."""
    geometry = zip(
        *(shape.size, shape.kernel, shape.stride, shape.padding),
        shape.dilation or (1,) * len(shape.kernel),
        strict=True,
    )
    if shape.transposed:
        return tuple((n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in geometry)
    return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in geometry)


BYTES_PER_WEIGHT = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
"""By precision."""


def weights(shape: LayerShape) -> int:
    """Count a layer's weights, without those of its norm and bias."""
    if not shape.has_weights:
        return 0
    return shape.in_channels // shape.groups * shape.out_channels * math.prod(shape.kernel)


def is_warm(shape: LayerShape, *, batch: int) -> bool:
    """Whether a layer finds most of its data in the caches, inside a network.

    What the layer before it wrote is there, and the memory that it writes to was used a moment ago;
    weights were last read when the network ran last.
    """
    read, other = input_shape(shape, batch=batch), second_shape(shape, batch=batch)
    size = output_size(shape) if shape.kernel else () if shape.kind == "mean" else shape.size
    written = batch * shape.out_channels * math.prod(size)
    return weights(shape) < math.prod(read) + math.prod(other or (0,)) + written


def halves(sizes: tuple[int, ...], *, last: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the shapes of two tensors that make one of `sizes` together, by their channels."""
    axis = len(sizes) - 1 if last else 1
    first = max(sizes[axis] // 2, 1)
    one, other = (
        (*sizes[:axis], count, *sizes[axis + 1 :]) for count in (first, sizes[axis] - first)
    )
    return one, other
