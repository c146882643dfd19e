"""Layers timed by a runtime that reads ONNX, with the sentinel beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latprune.latency.onnx_layers import layer_model
from latprune.latency.profiled import time_models
from latprune.latency.sentinel import SENTINEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from latprune.graph.layers import LayerShape
    from latprune.latency.profiled import Profiled
    from latprune.latency.target import Target
    from latprune.latency.timing import Measurement


def time_shapes(
    shapes: Sequence[LayerShape], open_model: Callable[[bytes], Profiled], target: Target
) -> Iterator[tuple[LayerShape, Measurement]]:
    """Time layers by their ONNX models; see `Runtime.time_layers`."""
    models = (
        (shape, layer_model(shape, batch=target.batch)) for shape in shapes if shape != SENTINEL
    )
    sentinel = None
    if SENTINEL in shapes:
        sentinel = (SENTINEL, layer_model(SENTINEL, batch=target.batch))
    yield from time_models(models, open_model, threads=target.threads, sentinel=sentinel)
