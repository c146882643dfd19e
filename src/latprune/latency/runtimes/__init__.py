"""The runtimes that can be timed, one file each, behind one protocol."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from latprune.errors import or_meant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from latprune.graph.layers import LayerShape
    from latprune.latency.target import Target
    from latprune.latency.timing import Clock, Measurement, Run

_MODULES = {
    "onnxruntime": "latprune.latency.runtimes.onnxruntime",
    "openvino": "latprune.latency.runtimes.openvino",
    "eager": "latprune.latency.runtimes.eager",
    "compile": "latprune.latency.runtimes.compile",
    "eager-cuda": "latprune.latency.runtimes.eager:ON_CUDA",
    "compile-cuda": "latprune.latency.runtimes.compile:ON_CUDA",
    "onnxruntime-cuda": "latprune.latency.runtimes.onnxruntime_gpu:ON_CUDA",
    "onnxruntime-tensorrt": "latprune.latency.runtimes.onnxruntime_gpu:IN_TENSORRT",
    "tensorrt": "latprune.latency.runtimes.tensorrt",
}


class Runtime(Protocol):
    """What executes networks and can say how long layers take.

    Attributes:
        name: As in `Target.runtime`.
    """

    name: str

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those it offers on this machine, as in `Target.precision`.

        Raises:
            MissingExtra: If it is not installed.
        """

    def version(self) -> str:
        """Give the version of the runtime's library.

        Raises:
            MissingExtra: If it is not installed.
            NoProvider: If it is installed without what computes for it.
        """

    def device(self) -> str:
        """Name what it computes on; see `Target.device`.

        Raises:
            NoGpu: If that is a GPU, and there is none.
        """

    def clock(self, threads: int) -> Clock:
        """Give the clock for networks that it runs on so many threads.

        It counts what is a cost of the network: all the time that passes, or less.
        """

    def time_layers(
        self, shapes: Sequence[LayerShape], target: Target, *, apart: int = 0
    ) -> Iterator[tuple[LayerShape, Measurement]]:
        """Time layers by themselves, in the form in which the runtime executes them.

        Args:
            shapes: The layers, all different.
            target: Names the batch, threads and precision.
            apart: Bytes to read between two runs of a layer that finds its weights not in the
                nearest cache; see `Device.time`. On a GPU nothing is read.

        Yields:
            Every shape once, with its time; each as soon as it is known. `SENTINEL`, if it is
            among them, again and again: before the others that it was timed beside.
        """

    def prepare(
        self, model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target
    ) -> Run:
        """Make a whole network ready to run.

        Args:
            model: The network; it stays as it is.
            example: Its input, or inputs.
            target: Names the threads and precision.

        Returns:
            A function that runs the network once on `example`, in evaluation mode.
        """


def runtime_names() -> tuple[str, ...]:
    """Give the names of all runtimes, installed or not."""
    return tuple(_MODULES)


def get_runtime(name: str) -> Runtime:
    """Give a runtime by its name; only then is its file imported.

    Raises:
        ValueError: For a name that is not known; the message lists those that are.
    """
    if name not in _MODULES:
        known = sorted(_MODULES)
        meant = or_meant(name, known)
        raise ValueError(f"no runtime is called {name!r}; known: {', '.join(known)}{meant}")
    module, _, attribute = _MODULES[name].partition(":")
    return cast("Runtime", getattr(import_module(module), attribute or "RUNTIME"))
