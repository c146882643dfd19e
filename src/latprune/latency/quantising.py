"""Whole networks in int8, by ONNX Runtime's static quantiser.

Weights are int8 with one scale per channel, activations uint8 with one scale per tensor, taken from
the least and the greatest value that calibration batches bring forth. What is quantised is
`onnx_int8.OPERATORS`.
"""

from __future__ import annotations

import logging
import platform
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latprune.errors import CannotQuantise, import_extra
from latprune.latency.onnx_export import export_network
from latprune.latency.onnx_int8 import OPERATORS
from latprune.latency.target import instruction_sets

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor, nn

    Inputs = Tensor | tuple[Tensor, ...]
    Sizes = Sequence[tuple[int, ...]]

_EXTRA = "onnxruntime"
_WIDE_SUMS = {"avx_vnni", "avx512_vnni", "amx_int8"}


def export_int8(model: nn.Module, example: Inputs, path: Path, batches: Iterable[Inputs]) -> None:
    """Write a whole network, in evaluation mode, as a quantised ONNX file.

    Args:
        model: Any network; it is left in the mode in which it came.
        example: Its input, or its inputs as a tuple; their sizes are fixed in the file.
        path: The file.
        batches: To calibrate with: inputs like `example`, of any number of samples, no labels.

    Raises:
        ValueError: If there is no batch, or one does not have as many tensors as the network reads.
        CannotQuantise: If the quantiser fails on the network.
        MissingExtra: If onnx, onnxscript or onnxruntime is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "fp32.onnx"
        export_network(model, example, whole)
        _quantise(whole, path, batches)


def saturates() -> bool:
    """Tell whether this processor adds up products of uint8 and int8 in 16 bits, and cuts off.

    So do x86 processors without VNNI; weights then have 7 bits, so that nothing is cut off.
    """
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return is_x86 and not instruction_sets() & _WIDE_SUMS


def in_parts(inputs: Sequence[np.ndarray], sizes: Sizes) -> Iterator[list[np.ndarray]]:
    """Divide inputs along their first axis into parts that a network of fixed sizes reads.

    Args:
        inputs: As many arrays as `sizes`, [n, ...] with one n, or exactly of `sizes`.
        sizes: What the network reads, [batch, ...] each.

    Yields:
        Arrays of these sizes; the last ones begin again at the front where samples are missing.
    """
    if [array.shape for array in inputs] == list(sizes):
        yield list(inputs)
        return
    samples, batch = len(inputs[0]), sizes[0][0]
    for begin in range(0, samples, batch):
        places = np.arange(begin, begin + batch) % samples
        yield [array[places] for array in inputs]


def arrays_of(inputs: Inputs, *, reads: int) -> list[np.ndarray]:
    """Give a network's inputs as arrays.

    Raises:
        ValueError: If they are not as many as the network reads.
    """
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    if len(given) != reads:
        raise ValueError(
            f"the network reads {reads} tensors, and {len(given)} were given: a batch to "
            f"calibrate with is what the network reads, without labels"
        )
    return [np.ascontiguousarray(tensor.detach().cpu().numpy()) for tensor in given]


def _quantise(whole: Path, path: Path, batches: Iterable[Inputs]) -> None:
    onnx = import_extra("onnx", _EXTRA)
    quantization = import_extra("onnxruntime.quantization", _EXTRA)
    shaping = import_extra("onnxruntime.quantization.shape_inference", _EXTRA)
    samples = _Samples(onnx.load(str(whole), load_external_data=False).graph.input, batches)
    tidy = whole.with_name("tidy.onnx")
    try:
        with _silent():
            # It joins operators, and gives each convolution a bias of its own: one that shares its
            # bias would stay in float.
            shaping.quant_pre_process(str(whole), str(tidy), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(tidy),
                str(path),
                samples,
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(OPERATORS),
                per_channel=True,
                reduce_range=saturates(),
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
            )
    except _NoSamples:
        raise ValueError("int8 needs at least one batch of inputs to calibrate with") from None
    except _WrongSamples as error:
        raise ValueError(str(error)) from None
    except Exception as error:
        raise CannotQuantise(f"ONNX Runtime cannot quantise the network: {error}") from error


class _NoSamples(Exception):
    """The batches were used up before the first."""


class _WrongSamples(Exception):
    """A batch is not what the network reads."""


class _Samples:
    """What the quantiser asks for inputs, a part at a time."""

    def __init__(self, wanted: Sequence[Any], batches: Iterable[Inputs]) -> None:
        self._names = [one.name for one in wanted]
        sizes = [one.type.tensor_type.shape.dim for one in wanted]
        self._sizes = [tuple(int(axis.dim_value) for axis in axes) for axes in sizes]
        self._feeds = self._all(batches)
        self._any = False

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Give the inputs of one run by name, or None after the last."""
        feeds = next(self._feeds, None)
        if feeds is None and not self._any:
            raise _NoSamples
        self._any = True
        return feeds

    def _all(self, batches: Iterable[Inputs]) -> Iterator[dict[str, np.ndarray]]:
        for batch in batches:
            try:
                arrays = arrays_of(batch, reads=len(self._names))
            except ValueError as error:
                raise _WrongSamples(str(error)) from None
            for part in in_parts(arrays, self._sizes):
                yield dict(zip(self._names, part, strict=True))


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what the quantiser says to its developers to itself."""
    root, disabled = logging.getLogger(), logging.root.manager.disable
    handlers = list(root.handlers)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers  # the first `logging.warning` adds one, disabled or not
