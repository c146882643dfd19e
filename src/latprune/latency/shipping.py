"""A network as it ships: what a target runs, called like the module it was made from."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from latprune.latency.layer_modules import cast, dtype_of
from latprune.latency.onnx_sessions import open_session
from latprune.latency.openvino_int8 import Called, in_int8, runs_of
from latprune.latency.quantising import arrays_of, export_int8, in_parts
from latprune.modes import copies_of, evaluating

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from latprune.latency.target import Target

    Inputs = Tensor | tuple[Tensor, ...]


def as_shipped(
    model: nn.Module, example: Inputs, target: Target, batches: Iterable[Inputs]
) -> nn.Module | None:
    """Make what a target runs in another precision than fp32.

    For `compile`, and for fp16 everywhere, that is the network in eager PyTorch, in the target's
    precision: the sums run in another order, the roundings are the same. So do they on a GPU: the
    network stays where it is.

    Args:
        model: Any network; it stays as it is.
        example: Its input, or inputs, of the target's batch.
        target: Says runtime, precision and threads.
        batches: To calibrate int8 with: inputs like `example`, of any number of samples, no labels.

    Returns:
        The network; None for a target whose precision the network has already, for one that this
        processor cannot compute in, and for int8 without a batch.

    Raises:
        ValueError: If a batch does not have as many tensors as the network reads.
        CannotQuantise: If the quantiser fails on the network.
        MissingExtra: If a library is not installed.
    """
    if target.precision == "fp32":
        return None
    if target.runtime.startswith(("eager", "compile")) or target.precision == "fp16":
        return Rounded(model, target)
    batches = list(batches)
    if target.runtime == "openvino":
        return _shipped_to_openvino(model, example, target, batches)
    if target.precision != "int8" or not batches:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_int8(model, example, path, batches)
        session = open_session(path, threads=target.threads)
    return Shipped(session, like=model, example=example)


def _shipped_to_openvino(
    model: nn.Module, example: Inputs, target: Target, batches: Sequence[Inputs]
) -> Shipped | None:
    from latprune.latency.runtimes.openvino import RUNTIME

    # A processor without instructions for a precision computes in another one, and says nothing.
    if target.precision not in RUNTIME.precisions or (target.precision == "int8" and not batches):
        return None
    network = RUNTIME.read_network(model, example)
    if target.precision == "int8":
        network = in_int8(network, runs_of(network, batches), correct=True)
    return Shipped(Called(RUNTIME.open_request(network, target)), like=model, example=example)


class Rounded(nn.Module):
    """A copy of a network in a target's precision that reads and returns fp32."""

    def __init__(self, model: nn.Module, target: Target) -> None:
        super().__init__()
        self._dtype = dtype_of(target)
        self.small, _ = cast(model, (), self._dtype)

    def forward(self, *inputs: Tensor) -> Any:
        """Run the network.

        Args:
            inputs: As the module reads them, [n, ...].

        Returns:
            What the module returns, floating-point tensors in fp32.
        """
        outputs = self.small(*(_rounded(tensor, self._dtype) for tensor in inputs))
        return tree_map_only(Tensor, lambda tensor: _rounded(tensor, torch.float32), outputs)


def _rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


class Shipped(nn.Module):
    """A session of fixed sizes that is called like the module it was made from.

    Any number of samples is read, in as many runs as it takes.
    """

    def __init__(self, session: Any, *, like: nn.Module, example: Inputs) -> None:
        """Wrap a session.

        Args:
            session: Of a network exported with `example`: ONNX Runtime's, or one like it.
            like: The module that was exported.
            example: Its input, or inputs.
        """
        super().__init__()
        # Whoever judges a network asks its parameters where it lies.
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)
        self._session = session
        self._names = [wanted.name for wanted in session.get_inputs()]
        self._sizes = [tuple(wanted.shape) for wanted in session.get_inputs()]
        inputs = example if isinstance(example, tuple) else (example,)
        with evaluating(like), torch.no_grad():
            self._structure = tree_flatten(like(*copies_of(inputs)))[1]
        self.eval()

    def forward(self, *inputs: Tensor) -> Any:
        """Run the session.

        Args:
            inputs: As the module reads them, [n, ...] for any n.

        Returns:
            What the module returns, for n samples, on the CPU.
        """
        outputs = map(torch.from_numpy, self.arrays(*inputs))
        return tree_unflatten(list(outputs), self._structure)

    def arrays(self, *inputs: Tensor) -> list[np.ndarray]:
        """Run the session and give its outputs one after another.

        Args:
            inputs: As for `forward`.
        """
        arrays = arrays_of(inputs, reads=len(self._names))
        runs = [
            self._session.run(None, dict(zip(self._names, part, strict=True)))
            for part in in_parts(arrays, self._sizes)
        ]
        outputs: list[np.ndarray] = runs[0]
        if len(runs) > 1:
            outputs = [np.concatenate(parts)[: len(arrays[0])] for parts in zip(*runs, strict=True)]
        elif [array.shape for array in arrays] != self._sizes:
            outputs = [output[: len(arrays[0])] for output in outputs]
        return outputs
