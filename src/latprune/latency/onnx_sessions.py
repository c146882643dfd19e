"""Serialised ONNX models, timed in ONNX Runtime through its own node profile.

Every layer is a session of its own whose profile gives the time inside each kernel: the call is no
part of it, nor are the neighbours that the layer stands between (`onnx_layers`). Needs numpy and
ONNX Runtime alone, so that it runs on devices that have no torch.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections import defaultdict
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from latprune.errors import import_extra
from latprune.latency.onnx_layers import CONTEXT
from latprune.latency.timing import Measurement, clock_for, steady_median, summarise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from latprune.latency.timing import Clock

    Key = TypeVar("Key")

EXTRA = "onnxruntime"
_KERNEL = "_kernel_time"  # what an event's name ends in if it is a kernel's run
_LAYOUT = ("ReorderInput", "ReorderOutput")
_LAYERS_AT_ONCE = 16
_BYTES_AT_ONCE = 256 * 2**20
_ROUNDS = 9
_MOST_ROUNDS = 20
_STEADY = 0.015  # standard error of a layer's median, relative, at which it is known well enough
_VISIT_S = 1e-3
_MOST_REPEATS = 8
_FINEST_MS = 5e-4  # the profile counts whole microseconds


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
    runtime = import_extra("onnxruntime", EXTRA)
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


def time_models(
    models: Iterable[tuple[Key, bytes]], *, threads: int
) -> Iterator[tuple[Key, Measurement]]:
    """Time models of single layers, several sessions in turns.

    Args:
        models: Pairs of a key and a serialised model, as `layer_model` gives it.
        threads: For the work inside an operator.

    Yields:
        Every key once, in order, with what its layer takes without its neighbours.

    Raises:
        MissingExtra: If ONNX Runtime is not installed.
    """
    for chunk in _chunks(models):
        yield from _time_together(chunk, threads)


def _chunks(models: Iterable[tuple[Key, bytes]]) -> Iterator[list[tuple[Key, bytes]]]:
    chunk: list[tuple[Key, bytes]] = []
    size = 0
    for key, model in models:
        if chunk and (len(chunk) == _LAYERS_AT_ONCE or size + len(model) > _BYTES_AT_ONCE):
            yield chunk
            chunk, size = [], 0
        chunk.append((key, model))
        size += len(model)
    if chunk:
        yield chunk


def _time_together(
    models: Sequence[tuple[Key, bytes]], threads: int
) -> Iterator[tuple[Key, Measurement]]:
    clock = clock_for(threads)
    with tempfile.TemporaryDirectory() as folder:
        layers = [
            _ProfiledLayer(model, threads, Path(folder) / f"{index}", clock)
            for index, (_, model) in enumerate(models)
        ]
        for round_ in range(_MOST_ROUNDS):
            for layer in layers:
                if round_ < _ROUNDS or not layer.steady:
                    layer.visit()
        for (key, _), layer in zip(models, layers, strict=True):
            yield key, layer.measured()


class _ProfiledLayer:
    """One layer's session, the waiting seen from outside, and what its profile says."""

    def __init__(self, model: bytes, threads: int, profile: Path, clock: Clock) -> None:
        self._session = open_session(model, threads=threads, profile=profile)
        values = np.random.default_rng(0).standard_normal(4001, dtype=np.float32)
        self._feeds = {
            wanted.name: np.resize(values, wanted.shape) for wanted in self._session.get_inputs()
        }
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
        names, operators, times_ms = read_profile(Path(self._session.end_profiling()))
        samples = time_inside(names, operators, times_ms, waits_ms=np.array(self._waits_ms))
        return summarise(samples[self._warmup :])


def time_inside(
    names: Sequence[str], operators: Sequence[str], times_ms: np.ndarray, *, waits_ms: np.ndarray
) -> np.ndarray:
    """Add up what a layer costs inside a network.

    Args:
        names: Of the kernels.
        operators: Of the kernels.
        times_ms: What each kernel took, [kernels, runs].
        waits_ms: How long each run waited for a processor, [runs].

    Returns:
        Milliseconds [runs]: without the layer's neighbours, without conversions of the layout at
        either end, and without the waiting, which lies in the longest kernel of a run, since it is
        what made that kernel so long.
    """
    own = times_ms.copy()
    own[own.argmax(axis=0), np.arange(own.shape[1])] -= waits_ms
    inside = [
        kernel
        for kernel in _between_conversions(operators)
        if not names[kernel].startswith(CONTEXT)
    ]
    samples: np.ndarray = np.maximum(own[inside].sum(axis=0), _FINEST_MS)
    return samples


def _between_conversions(operators: Sequence[str]) -> list[int]:
    """The kernels without those at either end that bring the data into another layout."""
    kernels = list(range(len(operators)))
    for _ in range(2):
        kernels = list(dropwhile(lambda kernel: operators[kernel] in _LAYOUT, kernels))[::-1]
    return kernels


def read_profile(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Read the kernels of a node profile.

    Args:
        path: The file that a session wrote.

    Returns:
        Names and operators of the kernels, in order of execution, and milliseconds
        [kernels, runs].
    """
    operators: dict[str, str] = {}
    times_ms: dict[str, list[float]] = defaultdict(list)
    for event in json.loads(path.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            name = event["name"].removesuffix(_KERNEL)
            operators[name] = event["args"]["op_name"]
            times_ms[name].append(event["dur"] / 1e3)
    return list(operators), list(operators.values()), np.array(list(times_ms.values()))
