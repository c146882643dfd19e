"""ONNX models of single layers, built without torch.

A layer is timed among neighbours: what a runtime fuses, and in which layout the data lie, depends
on them. Convolutions and planar operators stand between two small convolutions of their own, whose
names begin with `CONTEXT`; their time is not the layer's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from latprune.errors import import_extra
from latprune.latency.layer_sizes import halves, input_shape, is_warm, output_size, second_shape
from latprune.latency.onnx_int8 import in_int8

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    from latprune.graph.layers import LayerShape

    _Builder: TypeAlias = Callable[["_LayerGraph", LayerShape, tuple[int, ...]], str]

CONTEXT = "context_"
"""What the names of nodes begin with that are only there for the layer's sake."""

WARM = "latprune.warm"
"""The metadata key under which a model says whether its layer is warm."""

_OPSET = 18
_IR_VERSION = 9
_EXTRA = "onnxruntime"
_SAMPLE = np.random.default_rng(0).standard_normal(65_521, dtype=np.float32)
_SHIFT = 2.0  # of what lies evenly about 0, to where it does not
_IMAGE_CHANNELS = 3  # a layer that reads so few reads the network's input, as it comes


def layer_model(
    shape: LayerShape,
    *,
    batch: int,
    in_context: bool = True,
    precision: str = "fp32",
    in_range: bool = False,
) -> bytes:
    """Build a model of one layer, with all that belongs to it.

    A norm adds no node to a layer with weights: a runtime folds it into the convolution, where its
    shift is the bias.

    Args:
        shape: The layer.
        batch: Samples per run.
        in_context: Whether planar layers stand between neighbours, or alone.
        precision: `int8` for a model that is quantised as a whole network would be; `fp16` for one
            that reads and computes in it; any other is a matter of the runtime, which gets float32.
        in_range: Whether what the layer reads begins at 0 where the layer is `rectified`, and else
            is no even range about it: a quantiser that comes later looks at that.

    Returns:
        A serialised ONNX model that reads `x`, and `r` where the layer reads two tensors. Its
        weights are random, of the size that training leaves.

    Raises:
        ValueError: For an activation that has no ONNX form here.
        MissingExtra: If onnx is not installed.
    """
    onnx = import_extra("onnx", _EXTRA)
    sizes = input_shape(shape, batch=batch)
    planar = len(sizes) == 4 and shape.kind != "linear" and not shape.last
    layer = _LayerGraph(
        onnx,
        in_context=in_context and planar,
        precision=precision,
        rectified=shape.rectified if in_range else None,
    )
    written = _KINDS[shape.kind](layer, shape, sizes)
    layer.note(WARM, str(is_warm(shape, batch=batch)))
    model = layer.finish(_activation(shape.activation)(layer, written), shape)
    if precision == "int8":
        model = in_int8(model, context=CONTEXT)
    return bytes(model.SerializeToString())


def warm_by(notes: Mapping[str, str]) -> bool:
    """Read off a model's metadata what `is_warm` said of its layer; False where it says nothing."""
    return notes.get(WARM) == str(True)


class _LayerGraph:
    """The nodes and weights of one layer, as they come together."""

    def __init__(
        self, onnx: Any, *, in_context: bool, precision: str, rectified: bool | None = None
    ) -> None:
        self.precision = precision
        self._rectified = rectified
        self._helper = onnx.helper
        half = precision == "fp16"
        self._dtype = np.dtype("float16" if half else "float32")
        self._float = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
        self._integer = onnx.TensorProto.INT64
        self._in_context = in_context
        self._inputs: list[Any] = []
        self._notes: dict[str, str] = {}
        self._nodes: list[Any] = []
        self._weights: list[Any] = []

    def read(self, name: str, sizes: tuple[int, ...], *, apart: bool = False) -> str:
        """Add an input; return its name, or that of what its neighbour makes of it.

        Args:
            name: Of the input.
            sizes: Of what the layer reads.
            apart: Whether a convolution would swallow the layer: then a pooling that does nothing
                stands between them. (In int8 it swallows only what costs nothing.)
        """
        if not self._in_context or sizes[1] <= _IMAGE_CHANNELS or set(sizes[2:]) == {1}:
            self._inputs.append(self._helper.make_tensor_value_info(name, self._float, sizes))
            return name
        plane = (sizes[0], 1, *sizes[2:])
        self._inputs.append(self._helper.make_tensor_value_info(name, self._float, plane))
        written = self._neighbour(name, channels=sizes[1], reads=1, shift=self._rectified is False)
        if self._rectified:
            conv, written = written, f"{CONTEXT}{len(self._nodes)}"
            self._append("Relu", [conv], written, {})
        if apart and self.precision != "int8":
            conv, written = written, f"{CONTEXT}{len(self._nodes)}"
            self._append("MaxPool", [conv], written, {"kernel_shape": [1, 1]})
        return written

    def _neighbour(
        self,
        name: str,
        *,
        channels: int,
        reads: int,
        stride: int = 1,
        kernel: int = 1,
        shift: bool = False,
    ) -> str:
        """Append a convolution; depthwise if it reads as many channels as it writes."""
        groups = channels if reads == channels else 1
        written = f"{CONTEXT}{len(self._nodes)}"
        inputs = [name, self.weights(channels, reads // groups, kernel, kernel)]
        if shift:
            inputs.append(self.constant(_SHIFT, channels))
        attributes = {
            "kernel_shape": [kernel] * 2,
            "strides": [stride] * 2,
            "pads": [kernel // 2] * 4,
            "group": groups,
        }
        self._append("Conv", inputs, written, attributes)
        return written

    def node(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """Append a node; return the name of what it writes."""
        written = f"v{len(self._nodes)}"
        self._append(operator, inputs, written, attributes)
        return written

    def _append(
        self, operator: str, inputs: list[str], written: str, attributes: dict[str, Any]
    ) -> None:
        made = self._helper.make_node(operator, inputs, [written], name=written, **attributes)
        self._nodes.append(made)

    def weights(self, *sizes: int, fan_in: int = 1) -> str:
        """Add a random tensor; return its name."""
        name = f"w{len(self._weights)}"
        values = np.resize(_SAMPLE / np.float32(math.sqrt(fan_in)), math.prod(sizes))
        self._weights.append(
            self._helper.make_tensor(
                name, self._float, sizes, values.astype(self._dtype).tobytes(), raw=True
            )
        )
        return name

    def constant(self, value: float, *sizes: int) -> str:
        """Add a number, or a tensor that is full of it; return its name."""
        name = f"w{len(self._weights)}"
        values = [value] * math.prod(sizes)
        self._weights.append(self._helper.make_tensor(name, self._float, sizes, values))
        return name

    def note(self, key: str, value: str) -> None:
        """Add an entry to the model's metadata."""
        self._notes[key] = value

    def integers(self, *values: int) -> str:
        """Add a list of integers, such as a shape; return its name."""
        name = f"w{len(self._weights)}"
        self._weights.append(self._helper.make_tensor(name, self._integer, (len(values),), values))
        return name

    def bias(self, shape: LayerShape) -> list[str]:
        """Add a bias where the layer, or the norm folded into it, has one."""
        return [self.weights(shape.out_channels)] if shape.bias or shape.norm else []

    def finish(self, written: str, shape: LayerShape) -> Any:
        """Make the model; it gives what was written last, or what a neighbour reads of it."""
        if self._in_context and shape.kind != "mean":
            written = self._read_by_a_neighbour(written, shape)
        graph = self._helper.make_graph(
            self._nodes,
            "layer",
            self._inputs,
            [self._helper.make_tensor_value_info(written, self._float, None)],
            self._weights,
        )
        opset = self._helper.make_opsetid("", _OPSET)
        model = self._helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
        self._helper.set_model_props(model, self._notes)
        return model

    def _read_by_a_neighbour(self, written: str, shape: LayerShape) -> str:
        """Append a convolution that hardly takes time; return what it writes.

        A quantiser gives channels that a depthwise one reads scales of their own; runtimes leave
        those of more than a point in float.
        """
        size = output_size(shape) if shape.kernel else shape.size
        channels, stride = shape.out_channels, max(size)
        if self._rectified is None:
            return self._neighbour(written, channels=channels, reads=channels, stride=stride)
        if not shape.to_depthwise:
            return self._neighbour(written, channels=1, reads=channels, stride=stride)
        return self._neighbour(written, channels=channels, reads=channels, stride=stride, kernel=3)


# ------------------------------------------------------------------ the kinds of layers


def _convolution(layer: _LayerGraph, shape: LayerShape, sizes: tuple[int, ...]) -> str:
    channels = (shape.out_channels, shape.in_channels // shape.groups)
    if shape.transposed:
        channels = (shape.in_channels, shape.out_channels // shape.groups)
    fan_in = shape.in_channels // shape.groups * math.prod(shape.kernel)
    weight = layer.weights(*channels, *shape.kernel, fan_in=fan_in)
    written = layer.node(
        "ConvTranspose" if shape.transposed else "Conv",
        [layer.read("x", sizes), weight, *layer.bias(shape)],
        kernel_shape=shape.kernel,
        strides=shape.stride,
        pads=shape.padding * 2,
        dilations=shape.dilation,
        group=shape.groups,
    )
    return _sum(layer, shape, written, batch=sizes[0])


def _linear(layer: _LayerGraph, shape: LayerShape, sizes: tuple[int, ...]) -> str:
    read, written = shape.in_channels, shape.out_channels
    x = layer.read("x", sizes)
    if len(sizes) == 2:
        weight = layer.weights(written, read, fan_in=read)
        product = layer.node("Gemm", [x, weight, *layer.bias(shape)], transB=1)
    elif layer.precision == "int8" and (bias := layer.bias(shape)):
        product = _gemm_on_rows(layer, [x, layer.weights(read, written, fan_in=read), *bias], sizes)
    else:
        product = layer.node("MatMul", [x, layer.weights(read, written, fan_in=read)])
        if bias := layer.bias(shape):
            product = layer.node("Add", [product, *bias])
    return _sum(layer, shape, product, batch=sizes[0])


def _gemm_on_rows(layer: _LayerGraph, inputs: list[str], sizes: tuple[int, ...]) -> str:
    """A product and its bias in one operator, as the quantiser finds them."""
    x, *weights = inputs
    rows = layer.node("Reshape", [x, layer.integers(-1, sizes[-1])])
    return layer.node(
        "Reshape", [layer.node("Gemm", [rows, *weights]), layer.integers(*sizes[:-1], -1)]
    )


def _sum(layer: _LayerGraph, shape: LayerShape, written: str, *, batch: int) -> str:
    if not shape.adds:
        return written
    second = second_shape(shape, batch=batch)
    assert second is not None
    return layer.node("Add", [written, layer.read("r", second)])


def _norm(layer: _LayerGraph, shape: LayerShape, sizes: tuple[int, ...]) -> str:
    x, channels = layer.read("x", sizes, apart=True), shape.in_channels
    scale, shift, mean = (layer.weights(channels) for _ in range(3))
    return layer.node("BatchNormalization", [x, scale, shift, mean, layer.constant(1.0, channels)])


def _pair(operator: str) -> _Builder:
    def build(layer: _LayerGraph, shape: LayerShape, sizes: tuple[int, ...]) -> str:
        second, apart = second_shape(shape, batch=sizes[0]), operator == "Add"
        assert second is not None
        x = layer.read("x", sizes, apart=apart)
        return layer.node(operator, [x, layer.read("r", second, apart=apart)])

    return build


def _concat(layer: _LayerGraph, shape: LayerShape, sizes: tuple[int, ...]) -> str:
    parts = zip("xr", halves(sizes, last=shape.last), strict=True)
    return layer.node(
        "Concat",
        [layer.read(name, part) for name, part in parts if 0 not in part],
        axis=-1 if shape.last else 1,
    )


def _pool(operator: str) -> _Builder:
    def build(layer: _LayerGraph, shape: LayerShape, sizes: tuple[int, ...]) -> str:
        return layer.node(
            operator,
            [layer.read("x", sizes)],
            kernel_shape=shape.kernel,
            strides=shape.stride,
            pads=shape.padding * 2,
        )

    return build


def _mean(layer: _LayerGraph, shape: LayerShape, sizes: tuple[int, ...]) -> str:
    del shape
    return layer.node("GlobalAveragePool", [layer.read("x", sizes)])


_KINDS: dict[str, _Builder] = {
    "conv": _convolution,
    "linear": _linear,
    "norm": _norm,
    "activation": lambda layer, _, sizes: layer.read("x", sizes, apart=True),
    "add": _pair("Add"),
    "mul": _pair("Mul"),
    "gate": _pair("Mul"),
    "concat": _concat,
    "max_pool": _pool("MaxPool"),
    "avg_pool": _pool("AveragePool"),
    "mean": _mean,
}


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


def _hardswish(layer: _LayerGraph, value: str) -> str:
    if layer.precision != "int8":
        return layer.node("HardSwish", [value])
    # The quantiser finds the two operators that it consists of.
    return layer.node("Mul", [value, layer.node("HardSigmoid", [value], alpha=1 / 6, beta=0.5)])


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
    "hardswish": _hardswish,
    "hardsigmoid": _one("HardSigmoid", alpha=1 / 6, beta=0.5),
    "sigmoid": _one("Sigmoid"),
    "tanh": _one("Tanh"),
    "elu": _one("Elu"),
    "leaky_relu": _one("LeakyRelu", alpha=0.01),
    "softplus": _one("Softplus"),
}
