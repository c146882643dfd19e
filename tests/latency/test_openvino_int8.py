"""Networks and layers in int8 as OpenVINO runs them, quantised by NNCF."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latprune.errors import CannotQuantise
from latprune.graph.tracing import trace
from latprune.latency.openvino_int8 import in_int8, runs_of
from latprune.latency.profiled import kernels_inside
from latprune.latency.runtimes.openvino import RUNTIME, OpenVino, ProfiledRequest
from latprune.latency.shipping import as_shipped
from latprune.latency.target import Target

if TYPE_CHECKING:
    import openvino

INT8 = Target("a CPU", "openvino", "1", precision="int8", batch=2)


class Network(nn.Module):
    """A residual network with a depthwise convolution; two outputs under names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32), nn.ReLU())
        self.deep = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.narrow = nn.Conv2d(32, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        x = x + self.narrow(torch.relu(self.deep(self.wide(x))))
        return {"logits": self.head(x.mean((2, 3))), "map": x}


@pytest.fixture
def model() -> nn.Module:
    return Network().eval()


@pytest.fixture
def example() -> Tensor:
    return torch.randn(2, 3, 14, 14) + 0.5  # as pictures, not even about 0


def test_a_network_in_int8_runs_the_kernels_of_its_layers(
    model: nn.Module, example: Tensor
) -> None:
    read = RUNTIME.read_network(model, example)
    request = RUNTIME.open_request(in_int8(read, runs_of(read, [example]), correct=False), INT8)
    request.infer([example.numpy()])
    whole = Counter(kernel.exec_type for kernel in convolutions(request))

    one_by_one: Counter[str] = Counter()
    for layer in trace(model, example).layers:
        if layer.shape.kind == "conv":
            profiled = ProfiledRequest(layer.shape, target=INT8)
            profiled.run()
            own = {
                profiled.profile().names[kernel] for kernel in kernels_inside(profiled.profile())
            }
            found = convolutions(profiled._request)
            one_by_one.update(kernel.exec_type for kernel in found if kernel.node_name in own)

    assert sum(whole.values()) == 4
    assert any(kernel.endswith("I8") for kernel in whole)
    assert one_by_one == whole


def test_a_layer_in_int8_is_timed_without_its_neighbours(model: nn.Module, example: Tensor) -> None:
    shape = trace(model, example).layers[1].shape
    profiled = ProfiledRequest(shape, target=INT8)
    profiled.run()

    names, _, times_ms = profiled.profile()
    inside = kernels_inside(profiled.profile())
    behind_x_and_a_relu = "v2"
    own = [place for place, name in enumerate(names) if name.startswith(behind_x_and_a_relu)]

    assert 0 < times_ms[inside].sum() == times_ms[own].sum() < times_ms.sum()


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_what_ships_is_called_like_the_network_with_any_number_of_samples(
    samples: int, model: nn.Module, example: Tensor
) -> None:
    shipped = as_shipped(model, example, INT8, [torch.randn(32, 3, 14, 14)])
    assert shipped is not None

    x = torch.randn(samples, 3, 14, 14)
    with torch.no_grad():
        expected, found = model(x), shipped(x)

    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert 0 < (found[name] - value).norm() < 0.1 * value.norm()


def test_without_a_batch_nothing_is_known_of_what_ships(model: nn.Module, example: Tensor) -> None:
    assert as_shipped(model, example, INT8, []) is None


BF16 = replace(INT8, precision="bf16")


def test_in_bf16_what_ships_needs_no_calibration(model: nn.Module, example: Tensor) -> None:
    if "bf16" not in RUNTIME.precisions:
        pytest.skip("this processor has no instructions for bf16")
    shipped = as_shipped(model, example, BF16, [])
    assert shipped is not None

    with torch.no_grad():
        expected, found = model(example), shipped(example)

    for name, value in expected.items():
        assert 0 < (found[name] - value).norm() < 0.05 * value.norm()


def test_where_the_processor_has_no_bf16_nothing_is_said_of_it(
    model: nn.Module, example: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenVino, "precisions", ("fp32", "int8"))

    assert as_shipped(model, example, BF16, []) is None


def test_the_quantiser_says_nothing(
    model: nn.Module, example: Tensor, capfd: pytest.CaptureFixture[str]
) -> None:
    RUNTIME.prepare(model, example, INT8)()

    assert capfd.readouterr() == ("", "")


def test_a_batch_with_labels_is_refused(model: nn.Module, example: Tensor) -> None:
    read = RUNTIME.read_network(model, example)

    with pytest.raises(ValueError, match=r"reads 1 tensors, and 2 were given.*without labels"):
        runs_of(read, [(example, torch.zeros(2))])


def test_what_the_quantiser_fails_on_is_an_error_with_its_reason(
    model: nn.Module, example: Tensor
) -> None:
    read = RUNTIME.read_network(model, example)

    with pytest.raises(CannotQuantise, match="NNCF cannot quantise the network: "):
        in_int8(read, [[np.zeros((2, 3, 7, 7), np.float32)]], correct=False)


def convolutions(request: openvino.InferRequest) -> list[openvino.ProfilingInfo]:
    return [kernel for kernel in request.profiling_info if "Convolution" in kernel.node_type]
