"""Networks in int8 for OpenVINO, by NNCF's quantiser.

NNCF decides for each operator, by what OpenVINO has kernels for, whether it runs in int8, and takes
the scales from calibration data. Layers are quantised by it, too, one by one: only it knows what it
leaves in float.
"""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from latprune.errors import CannotQuantise, import_extra
from latprune.latency.quantising import arrays_of, in_parts, saturates

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    Inputs = Tensor | tuple[Tensor, ...]

EXTRA = "openvino"
LOGGERS = ("nncf", "torch.utils.cpp_extension")


def in_int8(model: Any, runs: Sequence[Sequence[np.ndarray]], *, correct: bool) -> Any:
    """Quantise a model.

    Args:
        model: An `openvino.Model` of fixed sizes; it stays as it is.
        runs: What to calibrate with: per run the model's inputs in order.
        correct: Whether biases make up for what rounding shifts. It takes a while and changes no
            time.

    Returns:
        A new `openvino.Model` that reads and writes what the old one does.

    Raises:
        CannotQuantise: If the quantiser fails on the model.
        MissingExtra: If nncf is not installed.
    """
    with _silent():
        nncf = import_extra("nncf", EXTRA)
    names = [wanted.get_any_name() for wanted in model.inputs]
    feeds = [dict(zip(names, arrays, strict=True)) for arrays in runs]
    fix = nncf.OverflowFix.ENABLE if saturates() else nncf.OverflowFix.DISABLE
    try:
        with _silent():
            return nncf.quantize(
                model,
                nncf.Dataset(feeds),
                subset_size=len(feeds),
                preset=nncf.QuantizationPreset.MIXED,
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    overflow_fix=fix, disable_bias_correction=not correct
                ),
            )
    except Exception as error:
        raise CannotQuantise(f"NNCF cannot quantise the network: {error}") from error


def runs_of(model: Any, batches: Iterable[Inputs]) -> list[list[np.ndarray]]:
    """Divide batches into what a model of fixed sizes reads in a run.

    Args:
        model: An `openvino.Model`.
        batches: Inputs of any number of samples, no labels.

    Raises:
        ValueError: If a batch does not have as many tensors as the model reads.
    """
    sizes = [tuple(wanted.get_shape()) for wanted in model.inputs]
    found: list[list[np.ndarray]] = []
    for batch in batches:
        found.extend(in_parts(arrays_of(batch, reads=len(sizes)), sizes))
    return found


class Wanted(NamedTuple):
    """An input of a model: its name, and its sizes."""

    name: str
    shape: tuple[int, ...]


class Called:
    """A compiled model that is asked and called as a session of ONNX Runtime is."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def get_inputs(self) -> list[Wanted]:
        """Give the inputs, in order."""
        inputs = self._request.model_inputs
        return [Wanted(str(place), tuple(one.get_shape())) for place, one in enumerate(inputs)]

    def run(self, _outputs: None, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Give all outputs for these inputs."""
        found = self._request.infer({int(place): value for place, value in feeds.items()})
        return [np.array(found[output]) for output in self._request.model_outputs]


@contextmanager
def _silent() -> Iterator[None]:
    """Keep to itself the quantiser's progress, its advice, and what torch says of CUDA to it."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    disabled = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, before in zip(loggers, disabled, strict=True):
            logger.disabled = before
