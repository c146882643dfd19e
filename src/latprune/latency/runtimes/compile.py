"""`torch.compile`, weights frozen into what Inductor generates.

Needs a C++ compiler, as `torch.compile` does. Compiling takes its time: a second per layer, half a
minute for a ResNet-50.
"""

from __future__ import annotations

import warnings
from itertools import count
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from latprune.errors import NoCompiler
from latprune.latency.layer_modules import LayerModule, TimedCall, layer_inputs
from latprune.latency.layer_sizes import is_warm
from latprune.latency.layer_timing import time_shapes
from latprune.latency.processors import CPU, CUDA
from latprune.latency.timing import summarise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from latprune.graph.layers import LayerShape
    from latprune.latency.processors import Processor
    from latprune.latency.target import Target
    from latprune.latency.timing import Clock, Measurement, Run


_CALLS_UNTIL_READY = 3
"""The first compiles; on a GPU the next ones record what all others only start."""

_CALLS_OF_NOTHING = 100

_WITHOUT_LIMIT = {
    "recompile_limit": 10_000,
    "accumulated_recompile_limit": 10_000,
    "fail_on_recompile_limit_hit": True,
}
"""Of networks that share code: beyond a few, torch would run the next ones in eager mode."""


class Compile:
    """Times layers compiled one by one, in the layout that Inductor gives a network."""

    def __init__(self, processor: Processor) -> None:
        self.name = f"compile{processor.suffix}"
        self.precisions = processor.precisions
        self._processor = processor

    def version(self) -> str:
        """Give torch's version, and that of what computes for it.

        Raises:
            NoCompiler: If there is no C++ compiler.
        """
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            raise NoCompiler from None
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
        nothing = self._timed(fx.symbolic_trace(_Nothing()), (torch.zeros(1),), target)
        overhead_ms = summarise([nothing() for _ in range(_CALLS_OF_NOTHING)]).median_ms

        def open_layer(shape: LayerShape) -> TimedCall:
            inputs = layer_inputs(shape, batch=target.batch)
            # Traced, every layer has code of its own: compiled code is looked up by it.
            traced = fx.symbolic_trace(LayerModule(shape), _absent(inputs))
            time_ms, warm = self._timed(traced, inputs, target), is_warm(shape, batch=target.batch)
            return TimedCall(time_ms, warm=warm, overhead_ms=overhead_ms)

        clock, apart = self.clock(target.threads), self._processor.apart(apart)
        yield from time_shapes(shapes, open_layer, target, clock=clock, apart=apart)

    def prepare(
        self, model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target
    ) -> Run:
        """Compile a copy of a network; see `Runtime`."""
        inputs = example if isinstance(example, tuple) else (example,)
        call = self._compiled(model, inputs, target, of=_in_its_own_code)

        def run() -> None:
            with torch.no_grad(), self._processor.ready(target.threads):
                call()
                self._processor.wait()

        return run

    def _timed(
        self, model: nn.Module, inputs: tuple[Tensor, ...], target: Target
    ) -> Callable[[], float]:
        call = self._compiled(model, inputs, target)

        def time_ms() -> float:
            with torch.no_grad(), self._processor.ready(target.threads):
                return self._processor.time_ms(call)

        return time_ms

    def _compiled(
        self,
        model: nn.Module,
        inputs: tuple[Tensor, ...],
        target: Target,
        *,
        of: Callable[[nn.Module], Callable[..., Any]] = lambda module: module,
    ) -> Run:
        import torch._dynamo.config
        from torch._inductor import config

        small, given = self._processor.put(model, inputs, target, channels_last=True)
        compiled = torch.compile(of(small), **self._processor.compile_options)
        with (
            warnings.catch_warnings(),
            torch.no_grad(),
            self._processor.ready(target.threads),
            config.patch(freezing=True, compile_threads=1),
            torch._dynamo.config.patch(_WITHOUT_LIMIT),
        ):
            warnings.simplefilter("ignore")  # of what torch's own compiler thinks of itself
            for _ in range(_CALLS_UNTIL_READY):
                compiled(*given)

        def call() -> None:
            compiled(*given)

        return call


RUNTIME, ON_CUDA = Compile(CPU), Compile(CUDA)


class _Nothing(nn.Module):
    """What a call costs beside its layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Do next to nothing.

        Args:
            x: A number.
        """
        return x + 1


def _in_its_own_code(model: nn.Module) -> Callable[..., Any]:
    """Let a network be called by code that no other one has.

    What was compiled is looked up by the code that is called: among networks of one class every
    call would try what was compiled for the others first.
    """

    def forward(*inputs: Tensor) -> Any:
        return model(*inputs)

    code = forward.__code__
    own = code.replace(co_name=f"network_{next(_NUMBERS)}")
    return FunctionType(own, forward.__globals__, own.co_name, None, forward.__closure__)


_NUMBERS = count()


def _absent(inputs: Sequence[Tensor]) -> dict[str, None] | None:
    return {"r": None} if len(inputs) == 1 else None
