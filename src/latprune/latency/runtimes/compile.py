"""`torch.compile` on the CPU, weights frozen into what Inductor generates.

Needs a C++ compiler, as `torch.compile` does. Compiling takes its time: a second per layer, half a
minute for a ResNet-50.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import fx, nn

from latprune.errors import NoCompiler
from latprune.latency.layer_modules import (
    PRECISIONS,
    LayerModule,
    TimedCall,
    cast,
    layer_inputs,
    threads_of,
)
from latprune.latency.layer_timing import time_shapes
from latprune.latency.memory import keep_memory, torch_version
from latprune.latency.onnx_layers import is_warm
from latprune.latency.timing import clock_for, summarise, time_interleaved

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from latprune.graph.layers import LayerShape
    from latprune.latency.target import Target
    from latprune.latency.timing import Measurement, Run


class Compile:
    """Times layers compiled one by one, in the layout that Inductor gives a network."""

    name = "compile"
    precisions: tuple[str, ...] = PRECISIONS

    def version(self) -> str:
        """Give torch's version.

        Raises:
            NoCompiler: If there is no C++ compiler.
        """
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            raise NoCompiler from None
        return torch_version()

    def time_layers(
        self, shapes: Sequence[LayerShape], target: Target
    ) -> Iterator[tuple[LayerShape, Measurement]]:
        """Time layers, several in turns; see `Runtime`."""
        keep_memory()
        nothing = _compiled(fx.symbolic_trace(_Nothing()), (torch.zeros(1),), target)
        times = time_interleaved([nothing], clock=clock_for(target.threads), limit_s=0.1)
        overhead_ms = summarise(times[0]).median_ms

        def open_layer(shape: LayerShape) -> TimedCall:
            inputs = layer_inputs(shape, batch=target.batch)
            # Traced, every layer has code of its own: compiled code is looked up by it.
            traced = fx.symbolic_trace(LayerModule(shape), _absent(inputs))
            call, warm = _compiled(traced, inputs, target), is_warm(shape, batch=target.batch)
            return TimedCall(call, warm=warm, overhead_ms=overhead_ms)

        yield from time_shapes(shapes, open_layer, target)

    def prepare(
        self, model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target
    ) -> Run:
        """Compile a copy of a network; see `Runtime`."""
        keep_memory()
        inputs = example if isinstance(example, tuple) else (example,)
        return _compiled(model, inputs, target)


RUNTIME = Compile()


class _Nothing(nn.Module):
    """What a call costs beside its layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Do next to nothing.

        Args:
            x: A number.
        """
        return x + 1


def _absent(inputs: Sequence[Tensor]) -> dict[str, None] | None:
    return {"r": None} if len(inputs) == 1 else None


def _compiled(model: nn.Module, inputs: tuple[Tensor, ...], target: Target) -> Run:
    from torch._inductor import config

    small, given = cast(model, inputs, target)
    small = small.to(memory_format=torch.channels_last)
    given = tuple(
        t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in given
    )
    compiled = torch.compile(small)
    with (
        warnings.catch_warnings(),
        torch.no_grad(),
        threads_of(target.threads),
        config.patch(freezing=True, compile_threads=1),
    ):
        warnings.simplefilter("ignore")  # of what torch's own compiler thinks of itself
        compiled(*given)

    def run() -> None:
        with torch.no_grad(), threads_of(target.threads):
            compiled(*given)

    return run
