"""Write a network to a file that needs no latprune, and read it back to see that it agrees."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from latprune.errors import ExportDisagrees
from latprune.latency.onnx_export import export_network
from latprune.latency.onnx_sessions import open_session
from latprune.latency.runtimes.onnxruntime import feeds_of
from latprune.modes import evaluating

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    Inputs = Tensor | tuple[Tensor, ...]


def export_onnx(
    model: nn.Module, example: Inputs, path: str | os.PathLike[str], *, tolerance: float = 1e-4
) -> None:
    """Write a network as ONNX and check its outputs in ONNX Runtime against torch's.

    Args:
        model: Any network, exported in evaluation mode; its own mode does not change.
        example: Its input, or inputs; their sizes are fixed in the file.
        path: The file.
        tolerance: The largest difference allowed, relative to the largest output.

    Raises:
        ExportDisagrees: If the outputs differ by more; the file is removed.
        MissingExtra: If onnx, onnxscript or onnxruntime is not installed.
    """
    path = Path(path)
    export_network(model, example, path)
    session = open_session(path)
    found = session.run(None, feeds_of(session, example))
    _check(path, _outputs(model, example), found, tolerance=tolerance, reader="ONNX Runtime")


def export_pt2(
    model: nn.Module, example: Inputs, path: str | os.PathLike[str], *, tolerance: float = 1e-4
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
    inputs = example if isinstance(example, tuple) else (example,)
    with evaluating(model), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export speaks of its own future
        torch.export.save(torch.export.export(model, inputs), str(path))
        read = torch.export.load(str(path)).module()
        found = [tensor.cpu().numpy() for tensor in _tensors(read(*inputs))]
    _check(path, _outputs(model, example), found, tolerance=tolerance, reader="torch.export")


def _outputs(model: nn.Module, example: Inputs) -> list[np.ndarray]:
    inputs = example if isinstance(example, tuple) else (example,)
    with evaluating(model), torch.no_grad():
        return [tensor.cpu().numpy() for tensor in _tensors(model(*inputs))]


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
) -> None:
    if len(expected) != len(found):
        path.unlink(missing_ok=True)
        raise ExportDisagrees(
            f"the network has {len(expected)} outputs but {reader} finds {len(found)} in {path}, "
            "which was removed",
            difference=float("inf"),
        )
    difference = max(map(_difference, expected, found), default=0.0)
    if not difference <= tolerance:
        path.unlink(missing_ok=True)
        raise ExportDisagrees(
            f"the outputs that {reader} computes from {path} differ from the network's by "
            f"{difference:.1e} of the largest; {tolerance:.1e} is allowed. The file was removed.",
            difference=difference,
        )


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    """The largest difference, relative to the largest expected value; infinite for other sizes."""
    if expected.shape != found.shape:
        return float("inf")
    if expected.size == 0:
        return 0.0
    wide = expected.astype(np.float64)
    return float(np.abs(wide - found).max() / max(np.abs(wide).max(), 1e-30))
