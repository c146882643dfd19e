"""ONNX Runtime on the CPU, timed through its own node profile.

Every layer is a session of its own whose profile gives the time inside each kernel. The profile
leaves out the call, and the conversions to and from the blocked layout are left out by name: inside
a whole network neighbours agree on the layout.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latprune.errors import import_extra
from latprune.latency.onnx_model import export_network, input_shape, layer_model
from latprune.latency.timing import Measurement, clock_for, steady_median, summarise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from latprune.graph.layers import LayerShape
    from latprune.latency.target import Target
    from latprune.latency.timing import Clock, Run

_EXTRA = "onnxruntime"
_LAYOUT = ("ReorderInput", "ReorderOutput")
_LAYERS_AT_ONCE = 16
_WEIGHTS_AT_ONCE = 64 * 2**20
_ROUNDS = 9
_MOST_ROUNDS = 20
_STEADY = 0.015  # standard error of a layer's median, relative, at which it is known well enough
_VISIT_S = 1e-3
_MOST_REPEATS = 8
_FINEST_MS = 5e-4  # the profile counts whole microseconds


class OnnxRuntime:
    """Times layers and networks in ONNX Runtime's CPU provider."""

    name = "onnxruntime"
    precisions = ("fp32",)

    def version(self) -> str:
        """Give ONNX Runtime's version."""
        return str(import_extra("onnxruntime", _EXTRA).__version__)

    def time_layers(
        self, shapes: Sequence[LayerShape], target: Target
    ) -> Iterator[tuple[LayerShape, Measurement]]:
        """Time layers, several sessions in turns; see `Runtime`."""
        for chunk in _chunks(shapes):
            yield from _time_together(chunk, target)

    def prepare(
        self, model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target
    ) -> Run:
        """Export a network and open a session; see `Runtime`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            export_network(model, example, path)
            session = open_session(path, threads=target.threads)
        feeds = feeds_of(session, example)

        def run() -> None:
            session.run(None, feeds)

        return run


RUNTIME = OnnxRuntime()


def open_session(model: Path | bytes, *, threads: int = 1, profile: Path | None = None) -> Any:
    """Open a session on the CPU.

    Args:
        model: A file, or a serialised model.
        threads: For the work inside an operator; operators run one after another.
        profile: Prefix of the file that the node profile goes to; None: no profile.

    Returns:
        An `onnxruntime.InferenceSession`.

    Raises:
        MissingExtra: If ONNX Runtime is not installed.
    """
    runtime = import_extra("onnxruntime", _EXTRA)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Without it the idle threads of one session burn the processor that the next one needs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    source = model if isinstance(model, bytes) else str(model)
    return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def feeds_of(session: Any, example: Tensor | tuple[Tensor, ...]) -> dict[str, np.ndarray]:
    """Give a session's inputs, by name, from a model's."""
    inputs = example if isinstance(example, tuple) else (example,)
    names = [wanted.name for wanted in session.get_inputs()]
    return {
        name: np.ascontiguousarray(tensor.detach().cpu().numpy())
        for name, tensor in zip(names, inputs, strict=True)
    }


def _chunks(shapes: Sequence[LayerShape]) -> Iterator[list[LayerShape]]:
    chunk: list[LayerShape] = []
    weights = 0
    for shape in shapes:
        own = shape.in_channels // shape.groups * shape.out_channels * math.prod(shape.kernel)
        if chunk and (len(chunk) == _LAYERS_AT_ONCE or weights + own > _WEIGHTS_AT_ONCE):
            yield chunk
            chunk, weights = [], 0
        chunk.append(shape)
        weights += own
    if chunk:
        yield chunk


def _time_together(
    shapes: Sequence[LayerShape], target: Target
) -> Iterator[tuple[LayerShape, Measurement]]:
    clock = clock_for(target.threads)
    with tempfile.TemporaryDirectory() as folder:
        layers = [
            _ProfiledLayer(shape, target, Path(folder) / f"{index}", clock)
            for index, shape in enumerate(shapes)
        ]
        for round_ in range(_MOST_ROUNDS):
            for layer in layers:
                if round_ < _ROUNDS or not layer.steady:
                    layer.visit()
        for shape, layer in zip(shapes, layers, strict=True):
            yield shape, layer.measured()


class _ProfiledLayer:
    """One layer's session, the waiting seen from outside, and what its profile says."""

    def __init__(self, shape: LayerShape, target: Target, profile: Path, clock: Clock) -> None:
        model = layer_model(shape, batch=target.batch)
        self._session = open_session(model, threads=target.threads, profile=profile)
        values = np.random.default_rng(0).standard_normal(4001, dtype=np.float32)
        self._feeds = {"x": np.resize(values, input_shape(shape, batch=target.batch))}
        self._clock = clock
        self._waits_ms: list[float] = []
        self._busy_ms: list[float] = []
        self._run()
        begin = time.perf_counter()
        self._run()
        self._warmup = len(self._waits_ms)
        repeats = math.ceil(_VISIT_S / (time.perf_counter() - begin))
        self._repeats = min(repeats, _MOST_REPEATS)

    def visit(self) -> None:
        """Run a few times in a row."""
        for _ in range(self._repeats):
            self._run()

    def _run(self) -> None:
        begin, own = time.perf_counter(), self._clock()
        self._session.run(None, self._feeds)
        passed, busy = time.perf_counter() - begin, self._clock() - own
        self._waits_ms.append(max(0.0, passed - busy) * 1e3)
        self._busy_ms.append(busy * 1e3)

    @property
    def steady(self) -> bool:
        """Whether the runs so far agree well enough, seen from outside."""
        return steady_median([self._busy_ms[self._warmup :]], tolerance=_STEADY)

    def measured(self) -> Measurement:
        """End the profile and give the time of the layer's kernels, without the waiting."""
        operators, times_ms = read_profile(Path(self._session.end_profiling()))
        samples = time_inside(operators, times_ms, waits_ms=np.array(self._waits_ms))
        return summarise(samples[self._warmup :])


def time_inside(operators: list[str], times_ms: np.ndarray, *, waits_ms: np.ndarray) -> np.ndarray:
    """Add up what a layer costs inside a network.

    Args:
        operators: Of each kernel.
        times_ms: What each kernel took, [kernels, runs].
        waits_ms: How long each run waited for a processor, [runs].

    Returns:
        Milliseconds [runs]: without conversions of the layout and without the waiting, which
        lies in the longest kernel of a run, since it is what made that kernel so long.
    """
    own = times_ms.copy()
    own[own.argmax(axis=0), np.arange(own.shape[1])] -= waits_ms
    inside = [operator not in _LAYOUT for operator in operators]
    samples: np.ndarray = np.maximum(own[inside].sum(axis=0), _FINEST_MS)
    return samples


def read_profile(path: Path) -> tuple[list[str], np.ndarray]:
    """Read the kernels of a node profile.

    Args:
        path: The file that a session wrote.

    Returns:
        The operator of each kernel, in order of execution, and milliseconds [kernels, runs].
    """
    operators: dict[str, str] = {}
    times_ms: dict[str, list[float]] = defaultdict(list)
    for event in json.loads(path.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            operators[event["name"]] = event["args"]["op_name"]
            times_ms[event["name"]].append(event["dur"] / 1e3)
    return list(operators.values()), np.array(list(times_ms.values()))
