"""Layers in int8: what ONNX Runtime's quantiser makes of them, in milliseconds instead of seconds.

A tensor between operators becomes a pair QuantizeLinear, DequantizeLinear; ONNX Runtime fuses the
pairs around an operator into its integer form (QLinearConv, QLinearAdd, …). Activations are uint8,
weights int8 with one scale per channel: with int8 activations ONNX Runtime 1.31 leaves every other
convolution in float. Scales are made up, and differ from tensor to tensor as real ones do.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from latprune.errors import import_extra

CONTRACTIONS = ("Conv", "Gemm", "MatMul")
POINTWISE = ("Add", "Mul", "Sigmoid", "LeakyRelu", "GlobalAveragePool", "Concat")
MOVEMENTS = (
    *("MaxPool", "AveragePool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"),
    *("Split", "Slice", "Resize", "Pad"),
)
CLAMPS = ("Relu", "Clip")
OPERATORS = (*CONTRACTIONS, *POINTWISE, *MOVEMENTS, *CLAMPS)
"""What is quantised. Only what ONNX Runtime has integer kernels for on the CPU, or what moves
integers about: anything else would be quantised for the worse and computed in float."""

_EXTRA = "onnxruntime"
_SCALE = 1 / 16  # of an activation; about what random weights on normal inputs write
_CLAMPED = 6 / 255  # of an activation between 0 and 6, or above 0
_MIDDLE = 128  # the zero of an activation of both signs


def in_int8(model: Any, *, context: str) -> Any:
    """Quantise a layer's model.

    Args:
        model: An `onnx.ModelProto` in float32 of few nodes, in order of execution, each tensor with
            a name of its own.
        context: What the names of nodes begin with that are no part of the layer; so will the
            names of those that quantise its inputs.

    Returns:
        A new model that reads and writes float32.

    Raises:
        MissingExtra: If onnx is not installed.
    """
    onnx = import_extra("onnx", _EXTRA)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    _Int8Layer(onnx, made.graph, context).rewrite()
    return made


class _Scale(NamedTuple):
    """What the integers of an activation mean."""

    scale: float
    zero: int


class _Int8Layer:
    """A graph on its way from float32 to int8."""

    def __init__(self, onnx: Any, graph: Any, context: str) -> None:
        self._onnx, self._graph, self._context = onnx, graph, context
        read = onnx.numpy_helper.to_array
        self._stored = {tensor.name: read(tensor) for tensor in graph.initializer}
        self._scales: dict[str, _Scale] = {}
        self._nodes: list[Any] = []
        self._new: list[Any] = []

    def rewrite(self) -> None:
        """Quantise the graph in place."""
        inputs = [wanted.name for wanted in self._graph.input]
        for name in inputs:
            self._mark(name)
        self._decide()
        for name in inputs:
            self._pair(name, named=f"{self._context}{name}")
        for node in self._nodes:
            self._emit(node)
        for wanted in self._graph.output:
            wanted.name = self._read(wanted.name)
        self._replace(self._graph.node, self._new)
        used = {name for node in self._new for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        self._replace(self._graph.initializer, kept)

    def _decide(self) -> None:
        """Mark the tensors that become integers; drop the clamps that quantising does by itself."""
        reads = Counter(name for node in self._graph.node for name in node.input)
        written: dict[str, Any] = {}
        for node in self._graph.node:
            source, result = node.input[0], node.output[0]
            clamped = node.op_type in CLAMPS and source in self._scales
            if clamped and reads[source] == 1 and source in written:
                written[result] = written.pop(source)
                written[result].output[0] = result
                del self._scales[source]
                self._mark(result, clamped=True)
                continue
            written[result] = node
            self._nodes.append(node)
            if node.op_type in (*CONTRACTIONS, *POINTWISE):
                for name in (*node.input, result):
                    if name not in self._stored:
                        by = written.get(name)
                        self._mark(name, clamped=by is not None and by.op_type in CLAMPS)
            elif node.op_type in (*MOVEMENTS, *CLAMPS) and source in self._scales:
                self._scales[result] = self._scales[source]

    def _mark(self, name: str, *, clamped: bool = False) -> None:
        """Make an activation integers, with a scale unlike the others'."""
        differs = 1 + 0.01 * len(self._scales)
        made = _Scale(_CLAMPED / differs, 0) if clamped else _Scale(_SCALE * differs, _MIDDLE)
        self._scales.setdefault(name, made)

    def _emit(self, node: Any) -> None:
        """Append a node that reads what was dequantised, and quantise what it writes."""
        inputs = list(node.input)
        for place, name in enumerate(inputs):
            inputs[place] = self._read(name)
            if name in self._stored and node.op_type in (*CONTRACTIONS, *POINTWISE):
                inputs[place] = self._constant(node, place)
        del node.input[:]
        node.input.extend(inputs)
        self._new.append(node)
        if node.output[0] in self._scales:
            self._pair(node.output[0], named=node.name)

    def _read(self, name: str) -> str:
        return f"dq_{name}" if name in self._scales else name

    def _pair(self, name: str, *, named: str) -> None:
        """Append the pair that makes an activation integers; it costs what its writer costs."""
        scale, zero = self._scales[name]
        by = [
            self._store(f"{name}_scale", np.float32(scale)),
            self._store(f"{name}_zero", np.uint8(zero)),
        ]
        self._node("QuantizeLinear", [name, *by], f"{name}_q", named=f"{named}_q")
        self._node("DequantizeLinear", [f"{name}_q", *by], f"dq_{name}")

    def _constant(self, node: Any, place: int) -> str:
        """Store a weight, a bias, or another operand as integers; give what dequantises it."""
        name = node.input[place]
        values = self._stored[name]
        if node.op_type not in CONTRACTIONS:
            scale = np.float32(max(float(np.abs(values).max()), 1e-6) / 127)
            integers = np.round(values / scale + _MIDDLE).astype(np.uint8)
            return self._dequantised(name, integers, scale, axis=None)
        axis = _channel_axis(node)
        scales = _channel_scales(self._stored[_original(node.input[1])], axis)
        if place == 1:
            shape = [1] * values.ndim
            shape[axis] = -1
            integers = np.round(values / scales.reshape(shape)).astype(np.int8)
            return self._dequantised(name, integers, scales, axis=axis)
        scales = (scales * self._scales[_original(node.input[0])].scale).astype(np.float32)
        integers = np.round(values / scales).clip(-(2**31), 2**31 - 1).astype(np.int32)
        return self._dequantised(name, integers, scales, axis=0)

    def _dequantised(
        self, name: str, integers: np.ndarray, scales: Any, *, axis: int | None
    ) -> str:
        zeros = np.zeros_like(scales, dtype=integers.dtype)
        inputs = [
            self._store(f"{name}_q", integers),
            self._store(f"{name}_scale", scales),
            self._store(f"{name}_zero", zeros if axis is not None else np.uint8(_MIDDLE)),
        ]
        written = f"dq_{name}"
        if axis is None:
            self._node("DequantizeLinear", inputs, written)
        else:
            self._node("DequantizeLinear", inputs, written, axis=axis)
        return written

    def _store(self, name: str, values: Any) -> str:
        array = np.asarray(values)
        self._graph.initializer.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def _node(
        self, operator: str, inputs: list[str], written: str, *, named: str = "", **attributes: int
    ) -> None:
        name = named or written
        made = self._onnx.helper.make_node(operator, inputs, [written], name=name, **attributes)
        self._new.append(made)

    @staticmethod
    def _replace(field: Any, values: list[Any]) -> None:
        kept = list(values)
        del field[:]
        field.extend(kept)


def _original(name: str) -> str:
    return name.removeprefix("dq_")


def _channel_axis(node: Any) -> int:
    """The axis of a weight that has one entry per channel written."""
    if node.op_type == "Gemm":
        return 0 if any(given.name == "transB" and given.i for given in node.attribute) else 1
    return 0 if node.op_type == "Conv" else 1


def _channel_scales(weight: np.ndarray, axis: int) -> np.ndarray:
    others = tuple(place for place in range(weight.ndim) if place != axis)
    # To 64, not 127, as on a processor that `saturates`; the time is the same.
    scales: np.ndarray = np.maximum(np.abs(weight).max(axis=others), 1e-6) / 64
    return scales.astype(np.float32)
