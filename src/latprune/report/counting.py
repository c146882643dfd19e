"""How much a network holds and computes: parameters, and the multiplications of its layers."""

from __future__ import annotations

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
        Multiply-accumulates; half of what is often called FLOPs. 0 for an operator.
    """
    return shape.macs


def network_macs(graph: PruningGraph, widths: Mapping[str, int]) -> int:
    """Count a network's multiply-accumulates for one sample.

    Args:
        graph: Its layers.
        widths: Channels per group, as `PruningGraph.widths` or `Plan.widths`.

    Returns:
        The sum over convolutions and linear layers. What has no weights (attention's products,
        pooling, interpolation) is not counted.
    """
    return sum(map(macs, graph.shapes_at(widths).values()))


def parameters(model: nn.Module) -> int:
    """Count a model's parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
