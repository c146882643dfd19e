"""Layers timed by a runtime, with the sentinel beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latprune.latency.layer_sizes import BYTES_PER_WEIGHT, weights
from latprune.latency.onnx_layers import layer_model
from latprune.latency.profiled import time_models
from latprune.latency.sentinel import SENTINEL
from latprune.latency.timing import clock_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from latprune.graph.layers import LayerShape
    from latprune.latency.profiled import Profiled
    from latprune.latency.target import Target
    from latprune.latency.timing import Clock, Measurement


def time_models_of(
    shapes: Sequence[LayerShape],
    open_model: Callable[[bytes], Profiled],
    target: Target,
    *,
    apart: int = 0,
) -> Iterator[tuple[LayerShape, Measurement]]:
    """Time layers by their ONNX models; see `Runtime.time_layers`."""

    def open_layer(shape: LayerShape) -> Profiled:
        return open_model(model_for(shape, target))

    clock = clock_for(target.threads)
    yield from time_shapes(shapes, open_layer, target, clock=clock, apart=apart)


def time_shapes(
    shapes: Sequence[LayerShape],
    open_layer: Callable[[LayerShape], Profiled],
    target: Target,
    *,
    clock: Clock,
    apart: int = 0,
) -> Iterator[tuple[LayerShape, Measurement]]:
    """Time layers, each opened by its shape; see `Runtime.time_layers`."""
    yield from time_models(
        ((shape, shape) for shape in shapes if shape != SENTINEL),
        open_layer,
        clock=clock,
        sentinel=(SENTINEL, SENTINEL) if SENTINEL in shapes else None,
        size=lambda shape: BYTES_PER_WEIGHT[target.precision] * weights(shape),
        apart=apart,
    )


def model_for(shape: LayerShape, target: Target, *, in_context: bool = True) -> bytes:
    """Give the serialised model of a layer that a target is to run, among neighbours or alone."""
    return layer_model(shape, batch=target.batch, in_context=in_context, precision=target.precision)
