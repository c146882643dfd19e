"""Write a network to a file that needs no latprune, and read it back to see that it agrees."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from latprune.errors import ExportDisagrees, import_extra
from latprune.latency.onnx_export import export_network
from latprune.latency.onnx_sessions import open_session
from latprune.latency.openvino_int8 import Called, in_int8, runs_of
from latprune.latency.quantising import export_int8
from latprune.latency.runtimes.onnxruntime import feeds_of
from latprune.latency.runtimes.openvino import RUNTIME
from latprune.latency.shipping import Shipped
from latprune.latency.target import Target
from latprune.modes import evaluating

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor, nn

    Inputs = Tensor | tuple[Tensor, ...]

TOLERANCE, TOLERANCE_INT8 = 1e-4, 0.5


def export_onnx(
    model: nn.Module,
    example: Inputs,
    path: str | os.PathLike[str],
    *,
    precision: Literal["fp32", "int8"] = "fp32",
    calibration: Iterable[Inputs] | None = None,
    tolerance: float | None = None,
) -> None:
    """Write a network as ONNX and check its outputs in ONNX Runtime against torch's.

    Args:
        model: Any network, exported in evaluation mode; its own mode does not change.
        example: Its input, or inputs; their sizes are fixed in the file.
        path: The file.
        precision: `int8` quantises the network; that needs `calibration`.
        calibration: Batches of inputs like `example`, of any number of samples, without labels:
            a few of those that the network was trained on.
        tolerance: The largest difference allowed. In fp32 it is the largest one on the example,
            relative to the largest output, by default 1e-4. In int8 it is the root mean square of
            all differences on the first calibration batch, relative to that of the outputs, by
            default 0.5: a quantised ResNet-50 differs by about 0.05 and a MobileNetV2 by 0.2,
            whereas a network that computes something else differs by 1 and more.

    Raises:
        ExportDisagrees: If the outputs differ by more; the file is removed.
        ValueError: For an unknown precision, or for int8 without batches of the right kind.
        CannotQuantise: If the quantiser fails on the network.
        MissingExtra: If onnx, onnxscript or onnxruntime is not installed.
    """
    path = Path(path)
    if precision == "int8":
        allowed = TOLERANCE_INT8 if tolerance is None else tolerance
        _export_int8(model, example, path, list(calibration or ()), tolerance=allowed)
        return
    if precision != "fp32":
        raise ValueError(f"ONNX files are written in fp32 or int8, not {precision!r}")
    export_network(model, example, path)
    session = open_session(path)
    found = session.run(None, feeds_of(session, example))
    _check(
        path,
        _outputs(model, example),
        found,
        tolerance=TOLERANCE if tolerance is None else tolerance,
    )


def _export_int8(
    model: nn.Module,
    example: Inputs,
    path: Path,
    batches: Sequence[Inputs],
    *,
    tolerance: float,
) -> None:
    export_int8(model, example, path, batches)
    shipped = Shipped(open_session(path), like=model, example=example)
    found = [tensor.numpy() for tensor in _tensors(shipped(*_tuple(batches[0])))]
    expected = _outputs(model, batches[0])
    _check(path, expected, found, tolerance=tolerance, by=_usual_difference)


def export_openvino(
    model: nn.Module,
    example: Inputs,
    path: str | os.PathLike[str],
    *,
    precision: Literal["fp32", "int8"] = "fp32",
    calibration: Iterable[Inputs] | None = None,
    tolerance: float | None = None,
) -> None:
    """Write a network for OpenVINO and check the outputs of what OpenVINO reads against torch's.

    Args:
        model: Any network, exported in evaluation mode; its own mode does not change.
        example: Its input, or inputs; their sizes are fixed in the file.
        path: The file, `NAME.xml`; its weights go to `NAME.bin` beside it.
        precision: `int8` quantises the network with NNCF; that needs `calibration`.
        calibration: As for `export_onnx`.
        tolerance: As for `export_onnx`.

    Raises:
        ExportDisagrees: If the outputs differ by more; the files are removed.
        ValueError: For an unknown precision, or for int8 without batches of the right kind.
        CannotQuantise: If the quantiser fails on the network.
        MissingExtra: If openvino, nncf or onnx is not installed.
    """
    if precision not in ("fp32", "int8"):
        raise ValueError(f"OpenVINO files are written in fp32 or int8, not {precision!r}")
    path = Path(path)
    openvino = import_extra("openvino", "openvino")
    network = RUNTIME.read_network(model, example)
    batches = [example]
    if precision == "int8":
        batches = list(calibration or ())
        if not batches:
            raise ValueError("int8 needs at least one batch of inputs to calibrate with")
        network = in_int8(network, runs_of(network, batches), correct=True)
    openvino.save_model(network, str(path), compress_to_fp16=False)
    target = Target("this CPU", RUNTIME.name, RUNTIME.version(), threads=1)
    read = Called(RUNTIME.open_request(RUNTIME.read_file(path), target))
    shipped = Shipped(read, like=model, example=example)
    found = [tensor.numpy() for tensor in _tensors(shipped(*_tuple(batches[0])))]
    usual, by = (TOLERANCE, None) if precision == "fp32" else (TOLERANCE_INT8, _usual_difference)
    try:
        _check(
            path,
            _outputs(model, batches[0]),
            found,
            tolerance=usual if tolerance is None else tolerance,
            reader="OpenVINO",
            by=by,
        )
    except ExportDisagrees:
        path.with_suffix(".bin").unlink(missing_ok=True)
        raise


def export_pt2(
    model: nn.Module, example: Inputs, path: str | os.PathLike[str], *, tolerance: float = TOLERANCE
) -> None:
    """Write a network with `torch.export` and check the outputs of what `torch.export.load` reads.

    Args:
        model: Any network, exported in evaluation mode; its own mode does not change.
        example: Its input, or inputs; their sizes are fixed in the file.
        path: The file; its name ends in `.pt2`.
        tolerance: The largest difference allowed, relative to the largest output.

    Raises:
        ExportDisagrees: If the outputs differ by more; the file is removed.
        Exception: Whatever `torch.export` raises for what it cannot capture.
    """
    path = Path(path)
    inputs = _tuple(example)
    with evaluating(model), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export speaks of its own future
        torch.export.save(torch.export.export(model, inputs), str(path))
        read = torch.export.load(str(path)).module()
        found = [tensor.cpu().numpy() for tensor in _tensors(read(*inputs))]
    expected = _outputs(model, example)
    _check(path, expected, found, tolerance=tolerance, reader="torch.export")


def _outputs(model: nn.Module, example: Inputs) -> list[np.ndarray]:
    inputs = _tuple(example)
    with evaluating(model), torch.no_grad():
        return [tensor.cpu().numpy() for tensor in _tensors(model(*inputs))]


def _tuple(inputs: Inputs) -> tuple[Tensor, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


def _tensors(output: object) -> Iterator[Tensor]:
    """The tensors of a nested output, in the order in which exporters flatten it."""
    for leaf in tree_leaves(output):
        if isinstance(leaf, torch.Tensor):
            yield leaf


def _check(
    path: Path,
    expected: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
    *,
    tolerance: float,
    reader: str = "ONNX Runtime",
    by: Callable[[np.ndarray, np.ndarray], float] | None = None,
) -> None:
    if len(expected) != len(found):
        path.unlink(missing_ok=True)
        raise ExportDisagrees(
            f"the network has {len(expected)} outputs but {reader} finds {len(found)} in {path}, "
            "which was removed",
            difference=float("inf"),
        )
    difference = max(map(by or _largest_difference, expected, found), default=0.0)
    if not difference <= tolerance:
        path.unlink(missing_ok=True)
        raise ExportDisagrees(
            f"the outputs that {reader} computes from {path} differ from the network's by "
            f"{difference:.1e} of {'their size' if by else 'the largest'}; {tolerance:.1e} is "
            f"allowed. The file was removed.",
            difference=difference,
        )


def _largest_difference(expected: np.ndarray, found: np.ndarray) -> float:
    """The largest difference, relative to the largest expected value; infinite for other sizes."""
    if expected.shape != found.shape:
        return float("inf")
    if expected.size == 0:
        return 0.0
    wide = expected.astype(np.float64)
    return float(np.abs(wide - found).max() / max(np.abs(wide).max(), 1e-30))


def _usual_difference(expected: np.ndarray, found: np.ndarray) -> float:
    """The root mean square difference, relative to that of the values; infinite for other sizes."""
    if expected.shape != found.shape:
        return float("inf")
    wide = expected.astype(np.float64)
    return float(np.linalg.norm(wide - found)) / max(float(np.linalg.norm(wide)), 1e-30)
