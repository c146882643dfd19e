"""ONNX models of whole networks, exported from torch, and of single layers, built without it."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from latprune.errors import import_extra
from latprune.modes import evaluating

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

    from latprune.graph.layers import LayerShape

_OPSET = 18
_IR_VERSION = 9
_EXTRA = "onnxruntime"
_SAMPLE = np.random.default_rng(0).standard_normal(65_521, dtype=np.float32)


def layer_model(shape: LayerShape, *, batch: int) -> bytes:
    """Build a model of one layer, its activation included.

    A norm adds no node: a runtime folds it into the convolution, where its shift is the bias.

    Args:
        shape: The layer.
        batch: Samples per run.

    Returns:
        A serialised ONNX model that reads `x` and writes `y`. Its weights are random, of the
        size that training leaves.

    Raises:
        ValueError: For an activation that has no ONNX form here.
        MissingExtra: If onnx is not installed.
    """
    onnx = import_extra("onnx", _EXTRA)
    layer = _LayerGraph(onnx, input_shape(shape, batch=batch))
    contract = layer.linear if shape.kind == "linear" else layer.convolution
    _activation(shape.activation)(layer, contract(shape))
    return layer.finish()


def input_shape(shape: LayerShape, *, batch: int) -> tuple[int, ...]:
    """Give the shape of a layer's input: channels first for `conv`, last for `linear`."""
    if shape.kind == "linear":
        rows = (batch,) if shape.size in ((), (1,)) else (batch, *shape.size)
        return (*rows, shape.in_channels)
    return (batch, shape.in_channels, *shape.size)


class _LayerGraph:
    """The nodes and weights of one layer, as they come together."""

    def __init__(self, onnx: Any, sizes: tuple[int, ...]) -> None:
        self._helper = onnx.helper
        self._float = onnx.TensorProto.FLOAT
        self._sizes = sizes
        self._nodes: list[Any] = []
        self._weights: list[Any] = []

    def node(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """Append a node; return the name of what it writes."""
        written = f"v{len(self._nodes)}"
        self._nodes.append(self._helper.make_node(operator, inputs, [written], **attributes))
        return written

    def weights(self, *sizes: int, fan_in: int = 1) -> str:
        """Add a random tensor; return its name."""
        name = f"w{len(self._weights)}"
        values = np.resize(_SAMPLE / np.float32(math.sqrt(fan_in)), math.prod(sizes))
        self._weights.append(
            self._helper.make_tensor(name, self._float, sizes, values.tobytes(), raw=True)
        )
        return name

    def constant(self, value: float) -> str:
        """Add a number; return its name."""
        name = f"w{len(self._weights)}"
        self._weights.append(self._helper.make_tensor(name, self._float, (), [value]))
        return name

    def bias(self, shape: LayerShape) -> list[str]:
        """Add a bias where the layer, or the norm folded into it, has one."""
        return [self.weights(shape.out_channels)] if shape.bias or shape.norm else []

    def convolution(self, shape: LayerShape) -> str:
        """Append the convolution; return the name of what it writes."""
        channels = (shape.out_channels, shape.in_channels // shape.groups)
        if shape.transposed:
            channels = (shape.in_channels, shape.out_channels // shape.groups)
        fan_in = shape.in_channels // shape.groups * math.prod(shape.kernel)
        weight = self.weights(*channels, *shape.kernel, fan_in=fan_in)
        return self.node(
            "ConvTranspose" if shape.transposed else "Conv",
            ["x", weight, *self.bias(shape)],
            kernel_shape=shape.kernel,
            strides=shape.stride,
            pads=shape.padding * 2,
            dilations=shape.dilation,
            group=shape.groups,
        )

    def linear(self, shape: LayerShape) -> str:
        """Append the matrix product; return the name of what it writes."""
        read, written = shape.in_channels, shape.out_channels
        if len(self._sizes) == 2:
            weight = self.weights(written, read, fan_in=read)
            return self.node("Gemm", ["x", weight, *self.bias(shape)], transB=1)
        product = self.node("MatMul", ["x", self.weights(read, written, fan_in=read)])
        bias = self.bias(shape)
        return self.node("Add", [product, *bias]) if bias else product

    def finish(self) -> bytes:
        """Serialise the model; what its last node writes becomes `y`."""
        self._nodes[-1].output[:] = ["y"]
        graph = self._helper.make_graph(
            self._nodes,
            "layer",
            [self._helper.make_tensor_value_info("x", self._float, self._sizes)],
            [self._helper.make_tensor_value_info("y", self._float, None)],
            self._weights,
        )
        opset = self._helper.make_opsetid("", _OPSET)
        model = self._helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
        return bytes(model.SerializeToString())


def _activation(name: str | None) -> Callable[[_LayerGraph, str], str]:
    try:
        return _ACTIVATIONS[name]
    except KeyError:
        known = ", ".join(sorted(key for key in _ACTIVATIONS if key))
        raise ValueError(f"the activation {name!r} has no ONNX form here; known: {known}") from None


def _one(operator: str, **attributes: float) -> Callable[[_LayerGraph, str], str]:
    return lambda layer, value: layer.node(operator, [value], **attributes)


def _relu6(layer: _LayerGraph, value: str) -> str:
    return layer.node("Clip", [value, layer.constant(0.0), layer.constant(6.0)])


def _silu(layer: _LayerGraph, value: str) -> str:
    return layer.node("Mul", [value, layer.node("Sigmoid", [value])])


def _mish(layer: _LayerGraph, value: str) -> str:
    bent = layer.node("Tanh", [layer.node("Softplus", [value])])
    return layer.node("Mul", [value, bent])


def _gelu(layer: _LayerGraph, value: str) -> str:
    scaled = layer.node("Div", [value, layer.constant(math.sqrt(2.0))])
    raised = layer.node("Add", [layer.node("Erf", [scaled]), layer.constant(1.0)])
    return layer.node("Mul", [layer.node("Mul", [value, raised]), layer.constant(0.5)])


_ACTIVATIONS: dict[str | None, Callable[[_LayerGraph, str], str]] = {
    None: lambda _, value: value,
    "relu": _one("Relu"),
    "clamp_min": _one("Relu"),
    "clamp": _relu6,
    "hardtanh": _relu6,
    "relu6": _relu6,
    "silu": _silu,
    "gelu": _gelu,
    "mish": _mish,
    "hardswish": _one("HardSwish"),
    "hardsigmoid": _one("HardSigmoid", alpha=1 / 6, beta=0.5),
    "sigmoid": _one("Sigmoid"),
    "tanh": _one("Tanh"),
    "elu": _one("Elu"),
    "leaky_relu": _one("LeakyRelu", alpha=0.01),
    "softplus": _one("Softplus"),
}


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
        Exception: Whatever the `torch.export` exporter raises if neither can export it.
    """
    import_extra("onnx", _EXTRA)
    import_extra("onnxscript", _EXTRA)
    inputs = example if isinstance(example, tuple) else (example,)
    with evaluating(model):
        _export(model, inputs, path)


def _export(model: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        # Both exporters speak of their own future and of traced constants; whether the result
        # computes the same is not read off warnings but checked where it is handed out.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(model, inputs, str(path), dynamo=False, opset_version=_OPSET)
        except Exception:
            torch.onnx.export(model, inputs, str(path), dynamo=True, verbose=False)
