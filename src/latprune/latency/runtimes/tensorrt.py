"""TensorRT on an NVIDIA GPU: layers through its profiler, networks as the engine that ships.

Networks are strongly typed: TensorRT computes in the types of the ONNX file, so that fp16 is a file
in fp16. A layer is an engine of its own. It may read and write the layouts in which neighbours
would hand data on, and reformatting at either end does not count.
"""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from latprune.errors import CannotBuild, import_extra
from latprune.latency.layer_modules import cast, dtype_of
from latprune.latency.layer_sizes import is_warm
from latprune.latency.layer_timing import model_for, time_shapes
from latprune.latency.onnx_export import export_network
from latprune.latency.processors import CUDA
from latprune.latency.profiled import REFORMAT, Profile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from latprune.graph.layers import LayerShape
    from latprune.latency.target import Target
    from latprune.latency.timing import Measurement, Run

GPU = "cuda"
_EXTRA = "tensorrt"
_REFORMATTING = "Reformatting CopyNode"  # what TensorRT calls a change of layout
_LAYOUTS = {"fp32": ("LINEAR", "HWC"), "fp16": ("LINEAR", "HWC8")}
_MOST_PADDING = 32  # channels that a layout may add up to


class TensorRt:
    """Times layers and networks in TensorRT."""

    name = "tensorrt"
    precisions: tuple[str, ...] = ("fp32", "fp16")
    device = staticmethod(CUDA.describe)
    clock = staticmethod(CUDA.clock)

    def version(self) -> str:
        """Give TensorRT's version."""
        return str(import_extra("tensorrt", _EXTRA).__version__)

    def time_layers(
        self, shapes: Sequence[LayerShape], target: Target, *, apart: int = 0
    ) -> Iterator[tuple[LayerShape, Measurement]]:
        """Time layers, several engines in turns; see `Runtime`.

        Raises:
            CannotBuild: If TensorRT cannot build an engine of a layer.
        """
        del apart
        open_layer = partial(_ProfiledEngine, target=target)
        yield from time_shapes(shapes, open_layer, target, clock=self.clock(target.threads))

    def prepare(
        self, model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target
    ) -> Run:
        """Export a network in the target's precision and build its engine; see `Runtime`.

        Raises:
            CannotBuild: If TensorRT cannot build it.
        """
        inputs = example if isinstance(example, tuple) else (example,)
        small, given = cast(model, inputs, dtype_of(target))
        given = tuple(tensor.cpu() for tensor in given)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            export_network(small.cpu(), given, path)
            engine = Engine(path)
        engine.read(given)
        return engine.run


RUNTIME = TensorRt()


class Engine:
    """A network that TensorRT has built, with memory for what it reads and writes."""

    def __init__(self, model: Path | bytes, *, layouts: Sequence[str] = ("LINEAR",)) -> None:
        """Build a network.

        Args:
            model: An ONNX file, or a serialised model.
            layouts: That images may have where they are read and written, of TensorRT's formats.

        Raises:
            CannotBuild: If TensorRT cannot read the model, or finds no way to execute it.
            MissingExtra: If TensorRT is not installed.
        """
        trt, logger = import_extra("tensorrt", _EXTRA), _logger()
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        parsed = (
            parser.parse(model) if isinstance(model, bytes) else parser.parse_from_file(str(model))
        )
        if not parsed:
            raise CannotBuild([str(parser.get_error(i)) for i in range(parser.num_errors)])
        _allow(trt, network, layouts)
        plan = builder.build_serialized_network(network, builder.create_builder_config())
        if plan is None:
            raise CannotBuild(["TensorRT found no way to execute it"])
        self._runtime = trt.Runtime(logger)  # must outlive its engine
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        self.context = self._engine.create_execution_context()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        reads = trt.TensorIOMode.INPUT
        self._inputs = [name for name in names if self._engine.get_tensor_mode(name) == reads]
        self._memory = {name: self._give_memory(trt, name) for name in names}

    def _give_memory(self, trt: Any, name: str) -> Tensor:
        """Reserve what a tensor takes, in whatever layout, and fill it with random numbers."""
        sizes = list(self._engine.get_tensor_shape(name))
        if len(sizes) > 1:
            sizes[1] = math.ceil(sizes[1] / _MOST_PADDING) * _MOST_PADDING
        dtype = getattr(torch, np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))).name)
        memory = torch.randn(math.prod(sizes), device=GPU).to(dtype)
        self.context.set_tensor_address(name, memory.data_ptr())
        return memory

    def read(self, inputs: Sequence[Tensor]) -> None:
        """Let it read these from now on, as they lie."""
        for name, tensor in zip(self._inputs, inputs, strict=True):
            self._memory[name][: tensor.numel()].copy_(tensor.flatten())
        torch.cuda.synchronize()

    def run(self) -> None:
        """Run once, and wait for the end."""
        self.context.execute_async_v3(self._stream.cuda_stream)
        self._stream.synchronize()


class _ProfiledEngine:
    """A layer whose kernels are timed; see `Profiled`."""

    def __init__(self, shape: LayerShape, *, target: Target) -> None:
        self.warm = is_warm(shape, batch=target.batch)
        model = model_for(shape, target, in_context=False)
        self._engine = Engine(model, layouts=_LAYOUTS[target.precision])
        self.run = self._engine.run
        self._times = _profiler(import_extra("tensorrt", _EXTRA))
        self._engine.context.profiler = self._times

    def profile(self) -> Profile:
        """Give the times of all runs."""
        times_ms = self._times.times_ms
        operators = [REFORMAT if name.startswith(_REFORMATTING) else "Layer" for name in times_ms]
        return Profile(list(times_ms), operators, np.array(list(times_ms.values())))


def _allow(trt: Any, network: Any, layouts: Sequence[str]) -> None:
    """Let images be read and written in any of these layouts."""
    formats = sum(1 << int(getattr(trt.TensorFormat, layout)) for layout in layouts)
    ends = [network.get_input(i) for i in range(network.num_inputs)]
    ends += [network.get_output(i) for i in range(network.num_outputs)]
    for tensor in ends:
        if len(tensor.shape) == 4:
            tensor.allowed_formats = formats


@cache
def _logger() -> Any:
    """One for the life of the process, as TensorRT wants it; it tells of errors alone."""
    trt = import_extra("tensorrt", _EXTRA)
    return trt.Logger(trt.Logger.ERROR)


def _profiler(trt: Any) -> Any:
    class Times(trt.IProfiler):  # type: ignore[misc]
        """Keeps what TensorRT reports after every run."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times_ms: dict[str, list[float]] = defaultdict(list)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times_ms[layer_name].append(ms)

    return Times()
