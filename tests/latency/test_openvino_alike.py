"""Networks quantised for timing as NNCF quantised one of their structure in other widths."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latprune.graph.layers import LayerShape
from latprune.latency import openvino_alike
from latprune.latency.onnx_layers import layer_model
from latprune.latency.openvino_alike import Alike
from latprune.latency.openvino_int8 import in_int8, runs_of
from latprune.latency.runtimes.openvino import RUNTIME
from latprune.latency.target import Target

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import openvino

INT8 = Target("a CPU", "openvino", "1", precision="int8")


class Network(nn.Module):
    """A residual network with a depthwise convolution, whose blocks have widths of their own."""

    def __init__(self, *, wide: int, trunk: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, trunk, 3), nn.BatchNorm2d(trunk), activation())
        self.block = nn.Sequential(
            nn.Conv2d(trunk, wide, 1),
            nn.BatchNorm2d(wide),
            activation(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide),
            activation(),
            nn.Conv2d(wide, trunk, 1),
        )
        self.head = nn.Linear(trunk, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        logits: Tensor = self.head((x + self.block(x)).mean((2, 3)))
        return logits


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Whatever NNCF was asked to quantise."""
    models: list[Any] = []

    def counting(model: Any, runs: Sequence[Any], *, correct: bool) -> Any:
        models.append(model)
        return in_int8(model, runs, correct=correct)

    monkeypatch.setattr(openvino_alike, "in_int8", counting)
    return models


@pytest.fixture
def example() -> Tensor:
    return torch.randn(1, 3, 14, 14) + 0.5  # as pictures, not even about 0


def test_a_network_in_other_widths_runs_the_kernels_that_nncf_gives_it(
    asked: list[Any], example: Tensor
) -> None:
    alike = Alike()
    alike.in_int8(*read(Network(wide=32, trunk=16), example))
    model, runs = read(Network(wide=24, trunk=40), example)

    found = alike.in_int8(model, runs)

    assert len(asked) == 1
    assert kernels(found, example) == kernels(in_int8(model, runs, correct=False), example)
    assert any(kernel.lower().endswith("i8") for _, kernel in kernels(found, example))


def test_its_integers_mean_about_what_they_should(example: Tensor) -> None:
    alike, network = Alike(), Network(wide=32, trunk=16)
    model, runs = read(network, example)
    alike.in_int8(model, runs)

    found = answer(alike.in_int8(model, runs), example)
    expected = answer(model, example)

    assert 0 < np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


def test_channels_whose_weights_are_zero_are_no_matter(asked: list[Any], example: Tensor) -> None:
    alike = Alike()
    for wide in (32, 24):
        network = Network(wide=wide, trunk=16)
        for weight in network.block[-1].parameters():
            nn.init.zeros_(weight)
        found = alike.in_int8(*read(network, example))

    assert len(asked) == 1
    assert np.isfinite(answer(found, example)).all()


def test_a_model_stays_as_it_is(example: Tensor) -> None:
    alike = Alike()
    model, runs = read(Network(wide=32, trunk=16), example)
    before = [operator.get_friendly_name() for operator in model.get_ordered_ops()]
    for _ in range(2):
        alike.in_int8(model, runs)

    assert [operator.get_friendly_name() for operator in model.get_ordered_ops()] == before


def test_another_structure_and_inputs_of_another_sign_are_for_nncf(
    asked: list[Any], example: Tensor
) -> None:
    alike = Alike()
    model, runs = read(Network(wide=32, trunk=16), example)
    for _ in range(2):
        alike.in_int8(model, runs)
        alike.in_int8(model, [[np.abs(array) for array in arrays] for arrays in runs])
        alike.in_int8(*read(Network(wide=32, trunk=16, activation=nn.SiLU), example))

    assert len(asked) == 3


def test_a_depthwise_convolution_is_no_model_for_a_grouped_one(
    asked: list[Any], tmp_path: Path
) -> None:
    alike, path = Alike(), tmp_path / "layer.onnx"
    for groups in (16, 4, 16, 4):
        shape = LayerShape(
            "conv",
            16,
            16,
            (14, 14),
            kernel=(3, 3),
            stride=(1, 1),
            padding=(1, 1),
            dilation=(1, 1),
            groups=groups,
        )
        path.write_bytes(layer_model(shape, batch=1, in_range=True))
        model = RUNTIME.read_file(path)
        alike.in_int8(
            model, [[np.ones(tuple(one.get_shape()), np.float32)] for one in model.inputs]
        )

    assert len(asked) == 2


def test_a_single_channel_is_no_model_for_several(asked: list[Any], example: Tensor) -> None:
    alike = Alike()
    for wide in (1, 24, 1, 32):
        alike.in_int8(*read(Network(wide=wide, trunk=16), example))

    assert len(asked) == 2


def test_what_cannot_be_put_elsewhere_is_for_nncf_every_time(
    monkeypatch: pytest.MonkeyPatch, example: Tensor
) -> None:
    count = 0

    def otherwise(model: Any, runs: Sequence[Any], *, correct: bool) -> Any:
        nonlocal count
        count += 1
        return read(Network(wide=32, trunk=16, activation=nn.SiLU), example)[0]

    monkeypatch.setattr(openvino_alike, "in_int8", otherwise)
    alike = Alike()
    for _ in range(3):
        alike.in_int8(*read(Network(wide=32, trunk=16), example))

    assert count == 3


def read(network: nn.Module, example: Tensor) -> tuple[openvino.Model, list[list[np.ndarray]]]:
    model = RUNTIME.read_network(network.eval(), example)
    return model, runs_of(model, [example])


def kernels(model: openvino.Model, example: Tensor) -> Counter[tuple[str, str]]:
    request = RUNTIME.open_request(model, INT8)
    request.infer([example.numpy()])
    run = (one for one in request.profiling_info if one.exec_type != "undef")
    return Counter((one.node_type, one.exec_type) for one in run)


def answer(model: openvino.Model, example: Tensor) -> np.ndarray:
    request = RUNTIME.open_request(model, INT8)
    return np.array(next(iter(request.infer([example.numpy()]).values())))
