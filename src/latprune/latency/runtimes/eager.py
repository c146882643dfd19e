"""PyTorch itself, operator by operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from latprune.latency.layer_modules import LayerModule, TimedCall, layer_inputs
from latprune.latency.layer_sizes import is_warm
from latprune.latency.layer_timing import time_shapes
from latprune.latency.processors import CPU, CUDA
from latprune.latency.timing import Opened

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from latprune.graph.layers import LayerShape
    from latprune.latency.processors import Processor
    from latprune.latency.target import Target
    from latprune.latency.timing import Clock, Measurement, Run


class Eager:
    """Times layers as they are called: convolution, batch norm, sum, activation."""

    def __init__(self, processor: Processor) -> None:
        self.name = f"eager{processor.suffix}"
        self.precisions = processor.precisions
        self._processor = processor

    def version(self) -> str:
        """Give torch's version, and that of what computes for it."""
        return self._processor.version()

    def device(self) -> str:
        """Name what torch computes on."""
        return self._processor.describe()

    def clock(self, threads: int) -> Clock:
        """Give the clock for networks; see `Runtime`."""
        return self._processor.clock(threads)

    def time_layers(
        self, shapes: Sequence[LayerShape], target: Target, *, apart: int = 0
    ) -> Iterator[tuple[LayerShape, Measurement]]:
        """Time layers, several in turns; see `Runtime`."""

        def open_layer(shape: LayerShape) -> TimedCall:
            inputs = layer_inputs(shape, batch=target.batch)
            call = self._call(LayerModule(shape), inputs, target)

            def time_ms() -> float:
                with torch.inference_mode(), self._processor.ready(target.threads):
                    return self._processor.time_ms(call)

            return TimedCall(time_ms, warm=is_warm(shape, batch=target.batch))

        clock, apart = self.clock(target.threads), self._processor.apart(apart)
        yield from time_shapes(shapes, open_layer, target, clock=clock, apart=apart)

    def prepare(
        self, model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target
    ) -> Run:
        """Copy a network into evaluation mode; see `Runtime`."""
        inputs = example if isinstance(example, tuple) else (example,)

        def open_() -> Run:
            call = self._call(model, inputs, target)

            def run() -> None:
                with torch.inference_mode(), self._processor.ready(target.threads):
                    call()
                    self._processor.wait()

            return run

        return Opened(open_)

    def _call(self, model: nn.Module, inputs: tuple[Tensor, ...], target: Target) -> Run:
        small, given = self._processor.put(
            model, inputs, target, channels_last=self._processor.channels_last
        )

        def call() -> None:
            small(*given)

        return call


RUNTIME, ON_CUDA = Eager(CPU), Eager(CUDA)
