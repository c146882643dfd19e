"""PyTorch itself, operator by operator, on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latprune.latency.layer_modules import (
    PRECISIONS,
    LayerModule,
    TimedCall,
    call_of,
    cast,
    layer_inputs,
)
from latprune.latency.layer_timing import time_shapes
from latprune.latency.memory import keep_memory, torch_version
from latprune.latency.onnx_layers import is_warm
from latprune.latency.timing import Opened

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from latprune.graph.layers import LayerShape
    from latprune.latency.target import Target
    from latprune.latency.timing import Measurement, Run


class Eager:
    """Times layers as they are called: convolution, batch norm, sum, activation."""

    name = "eager"
    precisions: tuple[str, ...] = PRECISIONS

    def version(self) -> str:
        """Give torch's version."""
        return torch_version()

    def time_layers(
        self, shapes: Sequence[LayerShape], target: Target
    ) -> Iterator[tuple[LayerShape, Measurement]]:
        """Time layers, several in turns; see `Runtime`."""
        keep_memory()

        def open_layer(shape: LayerShape) -> TimedCall:
            inputs = layer_inputs(shape, batch=target.batch)
            call = call_of(*cast(LayerModule(shape), inputs, target), target.threads)
            return TimedCall(call, warm=is_warm(shape, batch=target.batch))

        yield from time_shapes(shapes, open_layer, target)

    def prepare(
        self, model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target
    ) -> Run:
        """Copy a network into evaluation mode; see `Runtime`."""
        keep_memory()
        inputs = example if isinstance(example, tuple) else (example,)
        return Opened(lambda: call_of(*cast(model, inputs, target), target.threads))


RUNTIME = Eager()
