"""How much a network holds and computes: parameters, and the multiplications of its layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from latprune.graph.groups import PruningGraph
    from latprune.graph.layers import LayerShape


def macs(shape: LayerShape) -> int:
    """Count a layer's multiply-accumulates for one sample.

    Args:
        shape: The layer; its bias, norm and activation count nothing.

    Returns:
        Multiply-accumulates; half of what is often called FLOPs. None for an operator.
    """
    if not shape.has_weights:
        return 0
    per_position = shape.in_channels // shape.groups * shape.out_channels * math.prod(shape.kernel)
    return per_position * math.prod(_positions(shape))


def network_macs(graph: PruningGraph, widths: Mapping[str, int]) -> int:
    """Count a network's multiply-accumulates for one sample.

    Args:
        graph: Its layers.
        widths: Channels per group, as `PruningGraph.widths` or `Plan.widths`.

    Returns:
        The sum over convolutions and linear layers. What has no weights (attention's products,
        pooling, interpolation) is not counted.
    """
    return sum(macs(layer.shape_at(widths)) for layer in graph.layers if layer.shape.has_weights)


def parameters(model: nn.Module) -> int:
    """Count a model's parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _positions(shape: LayerShape) -> tuple[int, ...]:
    """Give the places where the kernel is applied: outputs, or inputs if it is transposed."""
    if shape.kind == "linear" or shape.transposed:
        return shape.size
    axes = zip(shape.size, shape.kernel, shape.stride, shape.padding, shape.dilation, strict=True)
    return tuple(
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, padding, dilation in axes
    )
