from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from latprune.graph.layers import LayerShape
from latprune.latency.layer_modules import LayerModule, layer_inputs
from latprune.latency.onnx_layers import layer_model
from latprune.latency.profiled import random_input
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
    "linear with a sum": LayerShape("linear", 9, 4, (5,), adds=True),
    "the end of a residual": replace(conv(4, 6), stride=(2, 2), adds=True),
    "norm": LayerShape("norm", 6, 6, (5, 5), norm=True, activation="relu"),
    "activation": LayerShape("activation", 6, 6, (5, 5), activation="relu"),
    "sum": LayerShape("add", 6, 6, (5, 5)),
    "sum of tokens": LayerShape("add", 6, 6, (5,), last=True),
    "product": LayerShape("mul", 6, 6, (5, 5)),
    "gate": LayerShape("gate", 6, 6, (5, 5)),
    "concatenation": LayerShape("concat", 7, 7, (5, 5)),
    "concatenation of one channel": LayerShape("concat", 1, 1, (5, 5)),
    "maximum": LayerShape("max_pool", 6, 6, (7, 7), (3, 3), (2, 2), (1, 1)),
    "average": LayerShape("avg_pool", 6, 6, (6, 6), (2, 2), (2, 2), (0, 0)),
    "mean": LayerShape("mean", 6, 6, (5, 5)),
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


@pytest.mark.parametrize("name", SHAPES)
def test_a_layer_between_neighbours_runs(name: str) -> None:
    model = layer_model(SHAPES[name], batch=2)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    (y,) = session.run(
        None, {x.name: np.ones(x.shape, dtype=np.float32) for x in session.get_inputs()}
    )

    assert np.isfinite(y).all()


@pytest.mark.parametrize(
    "shape",
    [*SHAPES.values(), *(replace(conv(4, 4), activation=name) for name in ACTIVATIONS)],
    ids=[*SHAPES, *ACTIVATIONS],
)
def test_a_layer_in_fp16_reads_and_computes_about_the_same_in_it(shape: LayerShape) -> None:
    written = []
    for precision, dtype in (("fp32", np.float32), ("fp16", np.float16)):
        model = layer_model(shape, batch=2, in_context=False, precision=precision)
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        read = {x.name: random_input(x.shape).astype(dtype) for x in session.get_inputs()}
        written.append(session.run(None, read)[0])

    whole, half = written
    assert (whole.dtype, half.dtype) == (np.float32, np.float16)
    assert np.linalg.norm(half.astype(np.float32) - whole) <= 0.01 * np.linalg.norm(whole)


def outputs(shape: LayerShape) -> tuple[np.ndarray, np.ndarray]:
    """ONNX Runtime's and torch's output of one layer with the same weights."""
    model = onnx.load_from_string(layer_model(shape, batch=2, in_context=False))
    torch.manual_seed(0)
    inputs = [5 * values for values in layer_inputs(shape, batch=2)]
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    module = LayerModule(shape)
    arrays = [onnx.numpy_helper.to_array(stored) for stored in model.graph.initializer]
    weights = [torch.tensor(array) for array in arrays if array.ndim]
    if shape.kind == "norm":
        assert module.norm is not None
        scale, shift, mean, variance = weights
        stored = {"weight": scale, "bias": shift, "running_mean": mean, "running_var": variance}
        module.norm.load_state_dict(stored, strict=False)
    else:
        # Torch's norm starts out as nearly the identity, and the folded bias takes its place.
        module = LayerModule(replace(shape, norm=False, bias=shape.bias or shape.norm))
        for parameter, values in zip(module.parameters(), weights, strict=True):
            transposed = parameter.dim() == 2 and values.shape != parameter.shape
            parameter.data = values.T if transposed else values
    with torch.no_grad():
        expected = module(*inputs).numpy()
    feeds = {
        wanted.name: values.numpy()
        for wanted, values in zip(session.get_inputs(), inputs, strict=True)
    }
    return session.run(None, feeds)[0], expected
