"""PyTorch itself, operator by operator, on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from latprune.latency.layer_modules import (
    PRECISIONS,
    LayerModule,
    call_of,
    cast,
    layer_inputs,
    time_calls,
)

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
        return str(torch.__version__)

    def time_layers(
        self, shapes: Sequence[LayerShape], target: Target
    ) -> Iterator[tuple[LayerShape, Measurement]]:
        """Time layers, several in turns; see `Runtime`."""

        def make_call(shape: LayerShape) -> Run:
            inputs = layer_inputs(shape, batch=target.batch)
            return call_of(*cast(LayerModule(shape), inputs, target), target.threads)

        yield from time_calls(shapes, make_call, target)

    def prepare(
        self, model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target
    ) -> Run:
        """Copy a network into evaluation mode; see `Runtime`."""
        inputs = example if isinstance(example, tuple) else (example,)
        return call_of(*cast(model, inputs, target), target.threads)


RUNTIME = Eager()
