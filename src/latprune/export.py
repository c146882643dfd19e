"""Write a network to a file that needs no latprune, and read it back to see that it agrees."""

from __future__ import annotations

import io
import warnings
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from latprune.errors import ExportDisagrees, import_extra
from latprune.latency.layer_modules import cast
from latprune.latency.onnx_export import export_network, refuse_other_floats
from latprune.latency.onnx_sessions import open_session
from latprune.latency.openvino_int8 import Called, in_int8, runs_of
from latprune.latency.quantising import export_int8
from latprune.latency.runtimes.openvino import RUNTIME
from latprune.latency.shipping import Shipped
from latprune.latency.target import Target
from latprune.modes import copies_of, evaluating

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor, nn

    Inputs = Tensor | tuple[Any, ...]

TOLERANCE, TOLERANCE_FP16, TOLERANCE_INT8 = 1e-4, 0.05, 0.5


def export_onnx(
    model: nn.Module,
    example: Inputs,
    path: str | os.PathLike[str],
    *,
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    calibration: Iterable[Inputs] | None = None,
    tolerance: float | None = None,
) -> None:
    """Write a network as ONNX and check its outputs in ONNX Runtime against torch's.

    Args:
        model: Any network, exported in evaluation mode; its own mode does not change.
        example: Its input, or inputs, each a tensor or a list or dict of tensors; their sizes are
            fixed in the file.
        path: The file.
        precision: `int8` quantises the network; that needs `calibration`. In `fp16` the network
            reads, computes and writes half precision, as GPUs want it.
        calibration: Batches of inputs like `example`, of any number of samples, without labels:
            a few of those that the network was trained on.
        tolerance: The largest difference allowed. In fp32 it is the largest one on the example,
            relative to the largest output, by default 1e-4. In fp16 and int8 it is the root mean
            square of all differences, relative to that of the outputs: on the example, by default
            0.05, and on the first calibration batch, by default 0.5. A quantised ResNet-50 differs
            by about 0.05 and a MobileNetV2 by 0.2, whereas a network that computes something else
            differs by 1 and more.

    Raises:
        ExportDisagrees: If the outputs differ by more; an older file then stays as it was.
        OSError: If the file cannot be written; likewise.
        ValueError: For an unknown precision, networks in bfloat16, other weights than float32 where
            the precision is not `fp16`, inputs that the network makes no use of, or for int8
            without batches of the right kind.
        CannotQuantise: If the quantiser fails on the network.
        MissingExtra: If onnx, onnxscript or onnxruntime is not installed.
    """
    _export(_ONNX, model, example, Path(path), precision, calibration, tolerance)


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
        example: Its input, or inputs, each a tensor or a list or dict of tensors; their sizes are
            fixed in the file.
        path: The file, `NAME.xml`; its weights go to `NAME.bin` beside it.
        precision: `int8` quantises the network with NNCF; that needs `calibration`.
        calibration: As for `export_onnx`.
        tolerance: As for `export_onnx`.

    Raises:
        ExportDisagrees: If the outputs differ by more; older files then stay as they were.
        OSError: If a file cannot be written; likewise.
        ValueError: For an unknown precision, networks in bfloat16, inputs that the network makes no
            use of, or for int8 without batches of the right kind.
        CannotQuantise: If the quantiser fails on the network.
        MissingExtra: If openvino, nncf or onnx is not installed.
    """
    _export(_OPENVINO, model, example, Path(path), precision, calibration, tolerance)


class _Form(NamedTuple):
    """A kind of file that a runtime reads.

    Attributes:
        name: Of the kind.
        reader: The runtime.
        write: Writes a network as it reads `example`, calibrated with batches to int8, or in fp32.
        read: Opens what was written, as a session of ONNX Runtime.
        precisions: That it is written in.
    """

    name: str
    reader: str
    write: Callable[[nn.Module, Inputs, Path, Sequence[Inputs] | None], None]
    read: Callable[[Path], Any]
    precisions: tuple[str, ...]


def _export(
    form: _Form,
    model: nn.Module,
    example: Inputs,
    path: Path,
    precision: str,
    calibration: Iterable[Inputs] | None,
    tolerance: float | None,
) -> None:
    """Write a network, read it back, and keep it if it computes the same."""
    if precision not in form.precisions:
        *others, last = form.precisions
        offered = f"{', '.join(others)} or {last}"
        raise ValueError(f"{form.name} files are written in {offered}, not {precision!r}")
    if torch.bfloat16 in {t.dtype for t in (*model.parameters(), *_tensors(example))}:
        raise ValueError(
            f"{form.name} files hold no networks in bfloat16: export copy.deepcopy(model).float(), "
            "with an example in float32"
        )
    if form is _ONNX and precision != "fp16":
        refuse_other_floats(model)
    batches: list[Inputs] | None = None
    usual, by = TOLERANCE, _largest_difference
    written, reads = model, _tuple(example)
    if precision == "fp16":
        usual, by = TOLERANCE_FP16, _usual_difference
        written, _ = cast(model, (), torch.float16)
        reads = tree_map_only(torch.Tensor, _halved, reads)
    if precision == "int8":
        batches, usual, by = list(calibration or ()), TOLERANCE_INT8, _usual_difference
        if not batches:
            raise ValueError("int8 needs at least one batch of inputs to calibrate with")
    with _kept_if_sound(path) as file:
        # The exporters take a dict at the end for arguments by name, unless one follows.
        form.write(written, (*reads, {}) if isinstance(reads[-1], dict) else reads, file, batches)
        _check(
            path,
            _outputs(model, batches[0] if batches else example),
            Shipped(form.read(file), like=model, example=example).arrays(*_tuple(batches[0]))
            if batches
            else _run(form.read(file), reads),
            tolerance=usual if tolerance is None else tolerance,
            reader=form.reader,
            by=by,
        )


def _run(session: Any, inputs: Inputs) -> list[np.ndarray]:
    """Give what a session makes of exactly what its network was written with."""
    arrays = list(map(_array, _tensors(inputs)))
    names = [wanted.name for wanted in session.get_inputs()]
    found: list[np.ndarray] = session.run(None, dict(zip(names, arrays, strict=True)))
    return found


@contextmanager
def _kept_if_sound(path: Path) -> Iterator[Path]:
    """Lend a file's name in a folder beside it; what is in there takes its place if all went well.

    The name is the same, since a file may name others that hold its weights.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        yield Path(folder) / path.name
        beside = (file for file in Path(folder).iterdir() if file.name != path.name)
        for file in (*beside, Path(folder) / path.name):  # the one that names the others last
            file.replace(path.with_name(file.name))


def _write_onnx(
    model: nn.Module, example: Inputs, path: Path, batches: Sequence[Inputs] | None
) -> None:
    if batches is None:
        export_network(model, example, path)
    else:
        export_int8(model, example, path, batches)


def _write_openvino(
    model: nn.Module, example: Inputs, path: Path, batches: Sequence[Inputs] | None
) -> None:
    openvino = import_extra("openvino", "openvino")
    network = RUNTIME.read_network(model, example)
    if batches is not None:
        network = in_int8(network, runs_of(network, batches), correct=True)
    try:
        openvino.save_model(network, str(path), compress_to_fp16=False)
    except RuntimeError as error:  # all that it says of a full disk is "iostream error"
        raise OSError(f"OpenVINO cannot write {path.name}, as on a full disk: {error}") from error


def _read_openvino(path: Path) -> Called:
    target = Target("this CPU", RUNTIME.name, RUNTIME.version(), threads=1)
    return Called(RUNTIME.open_request(RUNTIME.read_file(path), target))


_ONNX = _Form("ONNX", "ONNX Runtime", _write_onnx, open_session, ("fp32", "fp16", "int8"))
_OPENVINO = _Form("OpenVINO", "OpenVINO", _write_openvino, _read_openvino, ("fp32", "int8"))


def export_pt2(
    model: nn.Module, example: Inputs, path: str | os.PathLike[str], *, tolerance: float = TOLERANCE
) -> None:
    """Write a network with `torch.export` and check the outputs of what `torch.export.load` reads.

    Args:
        model: Any network, exported in evaluation mode; its own mode does not change.
        example: Its input, or inputs, each a tensor or a list or dict of tensors; their sizes are
            fixed in the file.
        path: The file; its name ends in `.pt2`.
        tolerance: The largest difference allowed, relative to the largest output.

    Raises:
        ExportDisagrees: If the outputs differ by more; an older file then stays as it was.
        OSError: If the file cannot be written; likewise.
        Exception: Whatever `torch.export` raises for what it cannot capture.
    """
    path = Path(path)
    with _kept_if_sound(path) as file:
        _check(
            path,
            _outputs(model, example),
            _outputs_of_pt2(model, example, file),
            tolerance=tolerance,
            reader="torch.export",
            by=_largest_difference,
        )


def _outputs_of_pt2(model: nn.Module, example: Inputs, file: Path) -> list[np.ndarray]:
    """Write a network with `torch.export`; give what it computes once it is read back."""
    inputs = _tuple(example)
    with evaluating(model), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export speaks of its own future
        # By way of memory: torch's own writer ends the process on a full disk.
        written = io.BytesIO()
        torch.export.save(torch.export.export(model, inputs), written)
        file.write_bytes(written.getbuffer())
        read = torch.export.load(str(file)).module()
        return [_array(tensor) for tensor in _tensors(read(*inputs))]


def _outputs(model: nn.Module, example: Inputs) -> list[np.ndarray]:
    inputs = _tuple(example)
    with evaluating(model), torch.no_grad():
        return [_array(tensor) for tensor in _tensors(model(*inputs))]


def _halved(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


def _array(tensor: Tensor) -> np.ndarray:
    """Give a tensor as NumPy has it, which knows no bfloat16."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()


def _tuple(inputs: Inputs) -> tuple[Any, ...]:
    own: tuple[Any, ...] = copies_of(inputs if isinstance(inputs, tuple) else (inputs,))
    return own


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
    reader: str,
    by: Callable[[np.ndarray, np.ndarray], float],
) -> None:
    if len(expected) != len(found):
        raise ExportDisagrees(
            f"the network has {len(expected)} outputs but {reader} finds {len(found)} in what was "
            f"to become {path}",
            difference=float("inf"),
        )
    # Python's `max` passes a NaN over that is not the first.
    difference = float(np.max([*map(by, expected, found)], initial=0.0))
    if not difference <= tolerance:
        share = "the largest" if by is _largest_difference else "their size"
        raise ExportDisagrees(
            f"the outputs that {reader} computes from what was to become {path} differ from the "
            f"network's by {difference:.1e} of {share}; {tolerance:.1e} is allowed. Nothing was "
            f"written.",
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
