"""ONNX Runtime on the CPU: layers through its own node profile, networks as they ship."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latprune.errors import import_extra
from latprune.latency.layer_timing import time_models_of
from latprune.latency.onnx_export import export_network, refuse_other_floats
from latprune.latency.onnx_sessions import EXTRA, ProfiledSession, open_session
from latprune.latency.quantising import export_int8
from latprune.latency.target import processor
from latprune.latency.timing import Opened, clock_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

    from latprune.graph.layers import LayerShape
    from latprune.latency.target import Target
    from latprune.latency.timing import Measurement, Run


class OnnxRuntime:
    """Times layers and networks in ONNX Runtime's CPU provider."""

    name = "onnxruntime"
    precisions: tuple[str, ...] = ("fp32", "int8")
    device = staticmethod(processor)
    clock = staticmethod(clock_for)

    def version(self) -> str:
        """Give ONNX Runtime's version."""
        return str(import_extra("onnxruntime", EXTRA).__version__)

    def time_layers(
        self, shapes: Sequence[LayerShape], target: Target, *, apart: int = 0
    ) -> Iterator[tuple[LayerShape, Measurement]]:
        """Time layers, several sessions in turns; see `Runtime`."""
        open_model = partial(ProfiledSession, threads=target.threads)
        yield from time_models_of(shapes, open_model, target, apart=apart)

    def prepare(
        self, model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target
    ) -> Run:
        """Export a network and open a session; see `Runtime`.

        In int8 the example calibrates: what the integers mean takes no time.

        Raises:
            ValueError: If the network's weights are not float32.
            CannotQuantise: If the quantiser fails on the network.
        """

        def open_(path: Path) -> Run:
            session = open_session(path, threads=target.threads)
            return partial(session.run, None, feeds_of(session, example))

        return opened(partial(self.write_network, model, example, target), open_)

    def write_network(
        self,
        model: nn.Module,
        example: Tensor | tuple[Tensor, ...],
        target: Target,
        path: Path,
    ) -> None:
        """Write the model that `prepare` runs.

        Raises:
            ValueError: If the network's weights are not float32.
        """
        refuse_other_floats(model)
        if target.precision == "int8":
            export_int8(model, example, path, [example])
        else:
            export_network(model, example, path)


RUNTIME = OnnxRuntime()


def opened(write: Callable[[Path], None], open_: Callable[[Path], Run]) -> Opened:
    """Write a network to a file that stays for as long as it may be opened anew."""
    folder = tempfile.mkdtemp()
    path = Path(folder) / "network.onnx"
    try:
        write(path)
        network = Opened(partial(open_, path))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(network, shutil.rmtree, folder, ignore_errors=True)
    return network


def feeds_of(session: Any, example: Tensor | tuple[Tensor, ...]) -> dict[str, np.ndarray]:
    """Give a session's inputs, by name, from a model's."""
    inputs = example if isinstance(example, tuple) else (example,)
    names = [wanted.name for wanted in session.get_inputs()]
    return {
        name: np.ascontiguousarray(tensor.detach().cpu().numpy())
        for name, tensor in zip(names, inputs, strict=True)
    }
