"""ONNX Runtime on an NVIDIA GPU: its CUDA provider, and its TensorRT provider.

What is read and written stays on the GPU. ONNX Runtime's packages cannot say what a GPU's kernels
took (they are built without CUPTI), so in the CUDA provider a layer is what a run of it takes by
itself, less what a run of next to nothing takes. The TensorRT provider's layers are TensorRT's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from latprune.errors import NoProvider, import_extra
from latprune.graph.layers import LayerShape
from latprune.latency.layer_modules import TimedCall, cast, dtype_of
from latprune.latency.layer_sizes import is_warm
from latprune.latency.layer_timing import model_for, time_shapes
from latprune.latency.onnx_export import export_network
from latprune.latency.onnx_sessions import EXTRA, open_session
from latprune.latency.processors import CPU, CUDA
from latprune.latency.profiled import random_input
from latprune.latency.runtimes.onnxruntime import opened
from latprune.latency.runtimes.tensorrt import RUNTIME as TENSORRT
from latprune.latency.timing import summarise

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from torch import Tensor, nn

    from latprune.latency.target import Target
    from latprune.latency.timing import Measurement, Run

_NOTHING = LayerShape("activation", 1, 1, (1, 1), activation="relu")
_RUNS_OF_NOTHING = 100
_CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Provider:
    """What of ONNX Runtime executes a network.

    Attributes:
        name: As ONNX Runtime knows it.
        memory: The kind that it computes in, as ONNX Runtime knows it.
        others: That execute what it does not, the preferred one first.
        options: By precision, where they are not the usual ones.
    """

    name: str
    memory: str
    others: tuple[str, ...] = (_CPU,)
    options: Mapping[str, Mapping[str, str]] | None = None


class OnnxRuntimeGpu:
    """Times layers and networks in a provider of ONNX Runtime that computes elsewhere."""

    precisions: tuple[str, ...] = ("fp32", "fp16")
    device = staticmethod(CUDA.describe)
    clock = staticmethod(CUDA.clock)

    def __init__(self, name: str, provider: Provider) -> None:
        self.name = name
        self._provider = provider

    def version(self) -> str:
        """Give ONNX Runtime's version.

        Raises:
            NoProvider: If it was built without the provider.
        """
        runtime = import_extra("onnxruntime", EXTRA)
        available = runtime.get_available_providers()
        if self._provider.name not in available:
            raise NoProvider(self._provider.name, available)
        return str(runtime.__version__)

    def time_layers(
        self, shapes: Sequence[LayerShape], target: Target, *, apart: int = 0
    ) -> Iterator[tuple[LayerShape, Measurement]]:
        """Time layers, several in turns; see `Runtime`."""
        nothing = self._layer(_NOTHING, target)
        overhead_ms = summarise([CPU.time_ms(nothing) for _ in range(_RUNS_OF_NOTHING)]).median_ms

        def open_layer(shape: LayerShape) -> TimedCall:
            call, warm = self._layer(shape, target), is_warm(shape, batch=target.batch)
            return TimedCall(partial(CPU.time_ms, call), warm=warm, overhead_ms=overhead_ms)

        del apart
        yield from time_shapes(shapes, open_layer, target, clock=self.clock(target.threads))

    def prepare(
        self, model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target
    ) -> Run:
        """Export a network in the target's precision and open a session; see `Runtime`.

        Raises:
            NoProvider: If the provider cannot be loaded.
        """
        inputs = example if isinstance(example, tuple) else (example,)
        small, given = cast(model, inputs, dtype_of(target))
        arrays = [tensor.detach().cpu().numpy() for tensor in given]
        reads = tuple(map(torch.from_numpy, arrays))
        return opened(
            partial(export_network, small.cpu(), reads),
            lambda path: self._run(self._open(path, target), arrays),
        )

    def _layer(self, shape: LayerShape, target: Target) -> Run:
        """Open a layer by itself: what stands beside it could not be told from it."""
        session = self._open(model_for(shape, target, in_context=False), target)
        dtype = "float16" if target.precision == "fp16" else "float32"
        arrays = [random_input(one.shape).astype(dtype) for one in session.get_inputs()]
        return self._run(session, arrays)

    def _open(self, model: Path | bytes, target: Target) -> Any:
        """Open a session; ONNX Runtime itself would go on without a provider that fails to load.

        Raises:
            NoProvider: If the provider cannot be loaded.
        """
        wanted = self._provider
        options = (wanted.options or {}).get(target.precision, {})
        providers: list[str | tuple[str, dict[str, str]]]
        providers = [(wanted.name, dict(options)), *wanted.others]
        session = open_session(model, threads=target.threads, providers=providers)
        if wanted.name not in session.get_providers():
            raise NoProvider(wanted.name, session.get_providers())
        return session

    def _run(self, session: Any, arrays: Sequence[np.ndarray]) -> Run:
        """Put inputs where the provider computes; a run leaves its results there, and waits."""
        values = import_extra("onnxruntime", EXTRA).OrtValue
        memory, binding = self._provider.memory, session.io_binding()
        for wanted, array in zip(session.get_inputs(), arrays, strict=True):
            value = values.ortvalue_from_numpy(array, memory, 0)
            binding.bind_ortvalue_input(wanted.name, value)
        for written in session.get_outputs():
            binding.bind_output(written.name, memory, 0)
        return partial(session.run_with_iobinding, binding)


class _InTensorRt(OnnxRuntimeGpu):
    """The provider that hands networks to TensorRT."""

    def version(self) -> str:
        """Give the versions of ONNX Runtime and TensorRT.

        Raises:
            NoProvider: If ONNX Runtime was built without the provider.
            MissingExtra: If TensorRT's own package is not installed, which times the layers.
        """
        return f"{super().version()}, TensorRT {TENSORRT.version()}"

    def time_layers(
        self, shapes: Sequence[LayerShape], target: Target, *, apart: int = 0
    ) -> Iterator[tuple[LayerShape, Measurement]]:
        """Time layers in TensorRT itself, which knows what its kernels took; see `Runtime`."""
        yield from TENSORRT.time_layers(shapes, target, apart=apart)


ON_CUDA = OnnxRuntimeGpu("onnxruntime-cuda", Provider("CUDAExecutionProvider", "cuda"))
IN_TENSORRT = _InTensorRt(
    "onnxruntime-tensorrt",
    Provider(
        "TensorrtExecutionProvider",
        "cuda",
        others=("CUDAExecutionProvider", _CPU),
        options={"fp16": {"trt_fp16_enable": "True"}},
    ),
)
