"""OpenVINO on the CPU: layers through its performance counters, networks as they ship."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latprune.errors import import_extra
from latprune.latency.layer_timing import time_shapes
from latprune.latency.onnx_export import export_network
from latprune.latency.onnx_layers import CONTEXT, WARM, layer_model, warm_by
from latprune.latency.openvino_alike import Alike
from latprune.latency.openvino_int8 import runs_of
from latprune.latency.profiled import Profile, random_input
from latprune.latency.target import processor
from latprune.latency.timing import Opened, clock_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from latprune.graph.layers import LayerShape
    from latprune.latency.target import Target
    from latprune.latency.timing import Measurement, Run

_EXTRA = "openvino"
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
_SHIFT = 0.5  # of data that lie evenly about 0: networks' own hardly do
_OF_AN_INPUT = "/fq_output_"  # what NNCF adds to the name of an input where it quantises it
_QUANTISER = Alike()


class OpenVino:
    """Times layers and networks in OpenVINO's CPU plugin."""

    name = "openvino"
    device = staticmethod(processor)
    clock = staticmethod(clock_for)

    def version(self) -> str:
        """Give OpenVINO's version, without the build."""
        return str(import_extra("openvino", _EXTRA).__version__).partition("-")[0]

    @property
    def precisions(self) -> tuple[str, ...]:
        """`fp32` and `int8`, and `bf16` where the processor has instructions for it."""
        capable = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return tuple(name for name in _HINTS if name.upper() in capable)

    def time_layers(
        self, shapes: Sequence[LayerShape], target: Target, *, apart: int = 0
    ) -> Iterator[tuple[LayerShape, Measurement]]:
        """Time layers, several of them in turns; see `Runtime`."""
        clock = clock_for(target.threads)
        open_layer = partial(ProfiledRequest, target=target)
        yield from time_shapes(shapes, open_layer, target, clock=clock, apart=apart)

    def prepare(
        self, model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target
    ) -> Run:
        """Export a network as ONNX and compile that; see `Runtime`.

        In int8 the example calibrates: what the integers mean takes no time.

        Raises:
            CannotQuantise: If the quantiser fails on the network.
        """
        read = self.read_network(model, example)
        if target.precision == "int8":
            read = _QUANTISER.in_int8(read, runs_of(read, [example]))
        inputs = example if isinstance(example, tuple) else (example,)
        arrays = [tensor.detach().cpu().numpy() for tensor in inputs]

        def open_() -> Run:
            request = self.open_request(read, target)
            _feed(request, arrays)
            return partial(request.infer)

        return Opened(open_)

    def read_network(self, model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> Any:
        """Give a network as an `openvino.Model` in fp32."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            export_network(model, example, path)
            return self.read_file(path)

    def read_file(self, path: Path) -> Any:
        """Give what a file (.onnx, .xml) holds as an `openvino.Model`."""
        return _core().read_model(path)

    def open_request(self, model: Any, target: Target) -> Any:
        """Compile an `openvino.Model` as the target runs it, for one request at a time."""
        return _request(model, target)


RUNTIME = OpenVino()


class ProfiledRequest:
    """A layer on the CPU whose kernels are timed; see `Profiled`."""

    def __init__(self, shape: LayerShape, *, target: Target) -> None:
        quantised = target.precision == "int8"
        model = layer_model(shape, batch=target.batch, in_range=quantised)
        read = _core().read_model(model)
        self.warm = warm_by(_notes(read))
        self._inputs = [wanted.get_any_name() for wanted in read.inputs]
        data = [random_input(wanted.get_shape()) for wanted in read.inputs]
        if quantised:
            data = [np.abs(values) if shape.rectified else values + _SHIFT for values in data]
            read = _QUANTISER.in_int8(read, [data])
        self._request = _request(read, target, PERF_COUNT=True)
        _feed(self._request, data)
        self._operators: dict[str, str] = {}
        self._times_ms: dict[str, list[float]] = defaultdict(list)

    def run(self) -> None:
        """Run once, always on the same data."""
        self._request.infer()
        for kernel in self._request.profiling_info:
            self._operators[kernel.node_name] = kernel.node_type
            self._times_ms[kernel.node_name].append(kernel.real_time.total_seconds() * 1e3)

    def profile(self) -> Profile:
        """Give the times of all runs."""
        runs = np.array(list(self._times_ms.values()))
        names = [self._named(name) for name in self._operators]
        return Profile(names, list(self._operators.values()), runs)

    def _named(self, kernel: str) -> str:
        """Tell the quantising of the layer's inputs, which its neighbours do, from the layer."""
        given = kernel.partition(_OF_AN_INPUT)[0]
        return CONTEXT + kernel if given in self._inputs and given != kernel else kernel


@cache
def _core() -> Any:
    """One for the life of the process.

    The CPU plugin puts a signal stack of its own under the thread. When several are taken down,
    the thread is left with one that was freed, and the next signal ends the process.
    """
    return import_extra("openvino", _EXTRA).Core()


def _notes(model: Any) -> dict[str, str]:
    """The metadata of the ONNX file that a model was read from."""
    path = ["framework", WARM]
    return {WARM: str(model.get_rt_info(path).value)} if model.has_rt_info(path) else {}


def _request(model: Any, target: Target, **properties: object) -> Any:
    """Compile a model for one request at a time on the target's threads."""
    compiled = _core().compile_model(
        model,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": target.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": _HINTS[target.precision],
            **properties,
        },
    )
    return compiled.create_infer_request()


def _feed(request: Any, arrays: Sequence[np.ndarray]) -> None:
    tensor = import_extra("openvino", _EXTRA).Tensor
    for index, values in enumerate(arrays):
        request.set_input_tensor(index, tensor(np.ascontiguousarray(values)))
