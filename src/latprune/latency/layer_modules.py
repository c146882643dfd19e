"""Single layers as torch modules, timed by calling them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from latprune.latency.layer_sizes import input_shape, second_shape
from latprune.latency.profiled import Profile
from latprune.modes import copied, copies_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from latprune.graph.layers import LayerShape
    from latprune.latency.target import Target

    Inputs = tuple[Tensor, ...]

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class LayerModule(nn.Module):
    """One layer with all that belongs to it; reads `x`, and `r` where it reads two tensors."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.shape = shape
        self.main = _main(shape)
        self.norm = _norm(shape) if shape.norm else None
        self.activation = None if shape.activation is None else _activation(shape.activation)
        self.eval()

    def forward(self, x: Tensor, r: Tensor | None = None) -> Tensor:
        """Run the layer.

        Args:
            x: Of `input_shape`.
            r: Of `second_shape`.
        """
        kind = self.shape.kind
        if self.main is not None:
            x = self.main(x)
        elif kind == "concat":
            x = torch.cat([x] if r is None else [x, r], dim=-1 if self.shape.last else 1)
        elif kind == "mean":
            x = x.mean(dim=tuple(range(2, 2 + len(self.shape.size))), keepdim=True)
        elif r is not None:
            x = x + r if kind == "add" else x * r
        if self.norm is not None:
            x = self.norm(x)
        if self.shape.adds:
            assert r is not None
            x = x + r
        if self.activation is not None:
            x = self.activation(x)
        return x


def layer_inputs(shape: LayerShape, *, batch: int) -> tuple[Tensor, ...]:
    """Give random tensors that a `LayerModule` reads."""
    sizes, second = input_shape(shape, batch=batch), second_shape(shape, batch=batch)
    if shape.kind == "concat" and second is not None:
        axis = len(sizes) - 1 if shape.last else 1
        sizes = (*sizes[:axis], sizes[axis] - second[axis], *sizes[axis + 1 :])
    return tuple(torch.randn(given) for given in (sizes, second) if given and 0 not in given)


def _main(shape: LayerShape) -> nn.Module | None:
    if shape.kind == "linear":
        return _linear(shape)
    if shape.kind == "conv":
        return _convolution(shape)
    if shape.kind in _POOLS:
        return _POOLS[shape.kind](shape.kernel, shape.stride, shape.padding)
    return None


def _norm(shape: LayerShape) -> nn.Module:
    axes = 0 if shape.kind == "linear" else len(shape.size)
    return _NORMS[max(axes, 1)](shape.out_channels)


def _linear(shape: LayerShape) -> nn.Module:
    return nn.Linear(shape.in_channels, shape.out_channels, bias=shape.bias)


def _convolution(shape: LayerShape) -> nn.Module:
    kinds = _TRANSPOSED if shape.transposed else _CONVOLUTIONS
    return kinds[len(shape.kernel)](
        shape.in_channels,
        shape.out_channels,
        shape.kernel,
        stride=shape.stride,
        padding=shape.padding,
        dilation=shape.dilation,
        groups=shape.groups,
        bias=shape.bias,
    )


def _activation(name: str) -> nn.Module:
    try:
        return _ACTIVATIONS[name]()
    except KeyError:
        known = ", ".join(sorted(_ACTIVATIONS))
        raise ValueError(f"the activation {name!r} has no module here; known: {known}") from None


class TimedCall:
    """A layer that is timed by calling it; see `Profiled`.

    Args:
        time_ms: Runs the layer once and gives the time it took, in milliseconds.
        warm: As in `Profiled`.
        overhead_ms: What every call takes beside its layer; a tenth of the time always stays.
    """

    def __init__(
        self, time_ms: Callable[[], float], *, warm: bool, overhead_ms: float = 0.0
    ) -> None:
        self.warm = warm
        self._time_ms, self._overhead_ms = time_ms, overhead_ms
        self._times_ms: list[float] = []

    def run(self) -> None:
        """Run the layer once."""
        self._times_ms.append(self._time_ms())

    def profile(self) -> Profile:
        """Give the times of all runs, as those of one kernel."""
        times_ms = np.array([self._times_ms])
        left_ms = np.maximum(times_ms - self._overhead_ms, 0.1 * times_ms)
        return Profile(["layer"], ["call"], left_ms)


def cast(
    module: nn.Module, inputs: Sequence[Tensor], dtype: torch.dtype
) -> tuple[nn.Module, Inputs]:
    """Give a copy of a network in evaluation mode, and its inputs, in another precision."""
    small = copied(module).eval().to(dtype)
    return small, tuple(t.to(dtype) if t.is_floating_point() else t for t in copies_of(inputs))


def dtype_of(target: Target) -> torch.dtype:
    """Give what a target computes in."""
    return _DTYPES[target.precision]


_CONVOLUTIONS: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Callable[..., nn.Module]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
_POOLS: dict[str, Callable[..., nn.Module]] = {"max_pool": nn.MaxPool2d, "avg_pool": nn.AvgPool2d}
_NORMS: dict[int, Callable[..., nn.Module]] = {
    1: nn.BatchNorm1d,
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "clamp": nn.ReLU6,
    "clamp_min": nn.ReLU,
    "hardtanh": nn.ReLU6,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "softplus": nn.Softplus,
}
