from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from latprune.graph.layers import LayerShape
from latprune.latency.onnx_model import input_shape, layer_model
from latprune.latency.runtimes.eager import layer_module
from tests.latency.synthetic import conv

ACTIVATIONS = [
    *("relu", "clamp_min", "clamp", "relu6", "hardtanh", "silu", "mish", "gelu", "hardswish"),
    *("hardsigmoid", "sigmoid", "tanh", "elu", "leaky_relu", "softplus"),
]
SHAPES = {
    "plain": conv(5, 7),
    "pointwise": conv(6, 4, kernel=1),
    "strided": replace(conv(4, 8), stride=(2, 1)),
    "dilated": replace(conv(4, 8), dilation=(2, 2), padding=(2, 2)),
    "depthwise": conv(6, 6, groups=6),
    "grouped": conv(6, 12, groups=3),
    "one axis": LayerShape("conv", 3, 5, (9,), (3,), (1,), (1,), (1,), bias=True),
    "transposed": replace(conv(4, 6, groups=2), transposed=True, stride=(2, 2)),
    "linear": LayerShape("linear", 9, 4, (1,), bias=True),
    "linear on tokens": LayerShape("linear", 9, 4, (5,), bias=True, activation="gelu"),
    "linear without bias": LayerShape("linear", 9, 4, (5,)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_layers_model_computes_what_torch_does(name: str) -> None:
    shape = SHAPES[name]

    np.testing.assert_allclose(*outputs(shape), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_computes_what_torch_does(activation: str) -> None:
    shape = replace(conv(4, 6, kernel=1), activation=activation)

    np.testing.assert_allclose(*outputs(shape), rtol=1e-3, atol=1e-3)


def test_an_activation_without_a_form_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(ValueError, match=r"'snake' has no ONNX form here; known: .*relu"):
        layer_model(replace(conv(4, 4), activation="snake"), batch=1)


def outputs(shape: LayerShape) -> tuple[np.ndarray, np.ndarray]:
    """ONNX Runtime's and torch's output of one layer with the same weights."""
    model = onnx.load_from_string(layer_model(shape, batch=2))
    x = 5 * np.random.default_rng(0).standard_normal(input_shape(shape, batch=2), np.float32)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    # Torch's norm starts out as nearly the identity, and the folded bias takes its place.
    module = layer_module(replace(shape, norm=False, bias=shape.bias or shape.norm))
    arrays = [onnx.numpy_helper.to_array(stored) for stored in model.graph.initializer]
    weights = [torch.tensor(array) for array in arrays if array.ndim]
    for parameter, values in zip(module.parameters(), weights, strict=True):
        transposed = parameter.dim() == 2 and values.shape != parameter.shape
        parameter.data = values.T if transposed else values
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    return session.run(None, {"x": x})[0], expected
