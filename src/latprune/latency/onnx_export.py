"""Whole networks as ONNX files."""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils._pytree import tree_leaves

from latprune.errors import CannotExport, import_extra
from latprune.modes import copies_of, evaluating

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

_OPSET = 18
_EXTRA = "onnxruntime"
STDERR = 2


def export_network(model: nn.Module, example: Tensor | tuple[Tensor, ...], path: Path) -> None:
    """Write a whole network, in evaluation mode, as an ONNX file.

    The TorchScript exporter comes first, since it is five times faster (a ResNet-50 in 1.3 s, not
    6), which counts in a loop that exports every candidate; what it cannot export, and every model
    once it is gone from torch, goes through the `torch.export` one.

    Args:
        model: Any network; it is left in the mode in which it came.
        example: Its input, or its inputs as a tuple.
        path: The file; weights beyond 2 GB go to files beside it.

    Raises:
        MissingExtra: If onnx or onnxscript is not installed.
        CannotExport: If neither can export it.
        OSError: If the file cannot be written.
        ValueError: If there are inputs that the network makes no use of: the file has none such.
    """
    onnx = import_extra("onnx", _EXTRA)
    import_extra("onnxscript", _EXTRA)
    inputs = example if isinstance(example, tuple) else (example,)
    with evaluating(model):
        _export(model, inputs, path)
    given = sum(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(inputs))
    if given > 1:  # reading a large file again takes a while
        reads = len(onnx.load(str(path), load_external_data=False).graph.input)
        if reads != given:
            raise ValueError(
                f"the network reads {reads} tensors, and {given} were given: leave out of the "
                f"example, and of what its forward takes, what it makes no use of"
            )


def refuse_other_floats(model: nn.Module) -> None:
    """Refuse a network whose weights are not float32, before anything is written.

    ONNX Runtime has no kernels for convolutions in float64, and what it computes in float16 agrees
    with torch to no more than that is worth.

    Raises:
        ValueError: If there are other floating-point parameters; it says what to do.
    """
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    if dtypes:
        found = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise ValueError(
            f"ONNX Runtime is given networks in float32, and this one has weights in {found}: give "
            f"copy.deepcopy(model).float(), with an example in float32"
        )


def _export(model: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        # Both exporters speak of their own future and of traced constants; whether the result
        # computes the same is not read off warnings but checked where it is handed out.
        warnings.simplefilter("ignore")
        try:
            with _without_dump():
                given = copies_of(inputs)
                torch.onnx.export(model, given, str(path), dynamo=False, opset_version=_OPSET)
        except Exception as older:
            if isinstance(older, OSError) and older.errno is not None:
                raise  # the disk's, not the network's; one without a number is of missing source
            try:
                torch.onnx.export(model, copies_of(inputs), str(path), dynamo=True, verbose=False)
            except Exception as newer:
                raise CannotExport([_reason(older), _reason(newer)]) from newer


def _reason(error: BaseException) -> str:
    """Give the first line of what was at the bottom of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextmanager
def _without_dump() -> Iterator[None]:
    """Keep the TorchScript exporter from printing whole the graph of what it fails on.

    The other exporter may well manage; where it does not, its own error says why. No setting of
    torch's does that: what goes to the descriptor of standard error goes nowhere meanwhile.
    """
    getattr(torch._C, "_jit_set_onnx_log_output_stream", str)("stderr")
    try:
        kept = os.dup(STDERR)
    except OSError:  # there is none, as under pythonw
        yield
        return
    with Path(os.devnull).open("wb") as nowhere:
        try:
            os.dup2(nowhere.fileno(), STDERR)
            yield
        finally:
            os.dup2(kept, STDERR)
            os.close(kept)
