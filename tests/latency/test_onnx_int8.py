"""A layer in int8 is what the quantiser and ONNX Runtime make of it inside a whole network."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from latprune.graph.tracing import trace
from latprune.latency.onnx_layers import layer_model
from latprune.latency.onnx_sessions import ProfiledSession
from latprune.latency.profiled import kernels_inside, random_input
from latprune.latency.quantising import export_int8
from tests.latency.test_onnx_layers import SHAPES

if TYPE_CHECKING:
    from pathlib import Path

AT_THE_ENDS = Counter({"QuantizeLinear": 1, "DequantizeLinear": 1, "Transpose": 2, "Flatten": 1})


class Mixed(nn.Module):
    """What the published networks do not have together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.left, self.right = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 24, 1)
        self.norm = nn.BatchNorm2d(40)
        self.grouped = nn.Conv2d(40, 40, 3, padding=1, groups=4)
        self.up = nn.Conv2d(40, 32, 1)
        self.wide, self.narrow = nn.Linear(32, 48), nn.Linear(48, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu6(self.stem_norm(self.stem(x))), 3, 2, 1)
        x = torch.cat([F.silu(self.left(x)), F.leaky_relu(self.right(x))], 1)
        x = F.avg_pool2d(self.grouped(F.relu(self.norm(x))), 2)
        x = torch.sigmoid(self.up(x)).flatten(2).transpose(1, 2).contiguous()
        x = x + self.narrow(F.gelu(self.wide(x)))
        return self.head(x[:, 0])  # type: ignore[no-any-return]


def published(name: str) -> nn.Module:
    model: nn.Module = torchvision.models.get_model(name, weights=None)
    return model


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_a_networks_operators_are_its_layers_and_the_conversions_at_either_end(
    name: str, tmp_path: Path
) -> None:
    whole, layers = operators(published(name), tmp_path)

    assert whole - layers == AT_THE_ENDS
    assert layers - whole == Counter()


def test_what_no_layer_is_alone_stays_outside(tmp_path: Path) -> None:
    whole, layers = operators(Mixed(), tmp_path)

    moved = ("Transpose", "Reshape", "Slice", "Gather", "Squeeze", "Flatten")
    outside = {name for name in whole - layers if name not in moved}
    assert outside <= {"QuantizeLinear", "DequantizeLinear"}
    assert layers - whole == Counter()


@pytest.mark.parametrize(
    "name",
    [
        *("plain", "pointwise", "strided", "depthwise", "grouped", "linear", "linear on tokens"),
        *("the end of a residual", "sum", "product", "concatenation", "average"),
    ],
)
def test_a_layer_in_int8_computes_about_what_it_does_in_fp32(name: str) -> None:
    fp32, int8 = (output(name, precision) for precision in ("fp32", "int8"))

    assert np.linalg.norm(fp32 - int8) <= 0.1 * np.linalg.norm(fp32)


@pytest.mark.parametrize("name", SHAPES)
def test_every_kind_of_layer_runs_in_int8_between_neighbours(name: str) -> None:
    session = ProfiledSession(layer_model(SHAPES[name], batch=2, precision="int8"), threads=1)

    session.run()

    found = session.profile()
    assert "Conv" not in {found.operators[kernel] for kernel in kernels_inside(found)}


def operators(model: nn.Module, folder: Path) -> tuple[Counter[str], Counter[str]]:
    """What runs in a network that the quantiser made, and in all of its layers' models."""
    model.eval()
    example = torch.randn(1, 3, 64, 64)
    export_int8(model, example, folder / "network.onnx", [example])
    layers = Counter[str]()
    for layer in trace(model, example).layers:
        layers += executed(layer_model(layer.shape, batch=1, precision="int8"), alone=True)
    return executed((folder / "network.onnx").read_bytes(), alone=False), layers


def executed(model: bytes, *, alone: bool) -> Counter[str]:
    session = ProfiledSession(model, threads=1)
    session.run()
    found = session.profile()
    kernels = kernels_inside(found) if alone else range(len(found.operators))
    return Counter(found.operators[kernel] for kernel in kernels)


def output(name: str, precision: str) -> np.ndarray:
    model = layer_model(SHAPES[name], batch=2, in_context=False, precision=precision)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feeds = {wanted.name: random_input(wanted.shape) for wanted in session.get_inputs()}
    found: np.ndarray = session.run(None, feeds)[0]
    return found
