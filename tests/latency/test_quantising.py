"""Whole networks in int8: the file, what it is calibrated with, and how it is called."""

from __future__ import annotations

import logging
import platform
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from latprune.errors import CannotQuantise
from latprune.latency import quantising
from latprune.latency.onnx_sessions import ProfiledSession
from latprune.latency.quantising import export_int8, in_parts, saturates
from latprune.latency.shipping import as_shipped
from latprune.latency.target import Target

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Network(nn.Module):
    """Two outputs under names, as a detector has."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return {"map": x, "logits": self.head(x.mean((2, 3)))}


INT8 = Target("a CPU", "onnxruntime", "1", precision="int8", batch=2)


@pytest.fixture
def example() -> Tensor:
    return torch.randn(2, 3, 12, 12)


def test_a_quantised_network_computes_with_integers(example: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    export_int8(Network(), example, path, [torch.randn(5, 3, 12, 12)])

    session = ProfiledSession(path.read_bytes(), threads=1)
    session.run()
    operators = session.profile().operators

    assert operators.count("QLinearConv") == 2
    assert "Conv" not in operators


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_what_ships_is_called_like_the_network_with_any_number_of_samples(
    samples: int, example: Tensor
) -> None:
    model = Network()
    shipped = as_shipped(model, example, INT8, [torch.randn(32, 3, 12, 12)])
    assert shipped is not None

    x = torch.randn(samples, 3, 12, 12)
    with torch.no_grad():
        expected = model(x)
    found = shipped(x)

    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert (found[name] - value).norm() < 0.1 * value.norm()
    assert next(shipped.parameters()).device == torch.device("cpu")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "eager", "compile"])
def test_a_target_in_fp32_ships_no_other_network(runtime: str, example: Tensor) -> None:
    fp32 = Target("a CPU", runtime, "1", batch=2)

    assert as_shipped(Network(), example, fp32, [example]) is None


@pytest.mark.parametrize("runtime", ["eager", "compile"])
def test_what_torch_runs_in_bf16_needs_no_calibration_and_returns_fp32(
    runtime: str, example: Tensor
) -> None:
    model = Network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shipped = as_shipped(model, example, Target("a CPU", runtime, "1", precision="bf16"), [])
    assert shipped is not None

    with torch.no_grad():
        expected, found = model.eval()(example), shipped(example)

    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], found[name].bfloat16().float())
        assert 0 < (found[name] - value).norm() < 0.05 * value.norm()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.dtype == before[name].dtype


def test_a_batch_with_labels_is_refused(example: Tensor, tmp_path: Path) -> None:
    labelled: Any = (example, torch.zeros(2))

    with pytest.raises(ValueError, match=r"reads 1 tensors, and 2 were given.*without labels"):
        export_int8(Network(), example, tmp_path / "network.onnx", [labelled])


def test_without_a_batch_there_is_nothing_to_calibrate_with(
    example: Tensor, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        export_int8(Network(), example, tmp_path / "network.onnx", [])


def test_what_the_quantiser_fails_on_is_an_error_with_its_reason(
    example: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **options: object) -> None:
        raise KeyError("no such operator")

    monkeypatch.setattr(onnxruntime.quantization, "quantize_static", fails)

    with pytest.raises(CannotQuantise, match="no such operator"):
        export_int8(Network(), example, tmp_path / "network.onnx", [example])


def test_the_quantiser_says_nothing_and_leaves_nothing_but_the_file(
    example: Tensor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers, disabled = list(logging.getLogger().handlers), logging.root.manager.disable

    export_int8(Network(), example, tmp_path / "network.onnx", [example])

    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"]
    assert logging.getLogger().handlers == handlers
    assert logging.root.manager.disable == disabled


@pytest.mark.parametrize(
    ("machine", "flags", "cuts_off"),
    [
        ("x86_64", ["avx2"], True),
        ("x86_64", ["avx2", "avx512f"], True),
        ("x86_64", ["avx2", "avx_vnni"], False),
        ("AMD64", ["avx512f", "avx512_vnni"], False),
        ("aarch64", ["asimd"], False),
    ],
)
def test_weights_have_seven_bits_where_sums_of_eight_are_cut_off(
    machine: str, flags: Sequence[str], cuts_off: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(quantising, "instruction_sets", lambda: frozenset(flags))

    assert saturates() is cuts_off


@given(samples=st.integers(1, 9), batch=st.integers(1, 4))
def test_parts_hold_every_sample_once_and_then_begin_again(samples: int, batch: int) -> None:
    x, y = np.arange(samples * 2).reshape(samples, 2), np.arange(samples)

    parts = list(in_parts([x, y], [(batch, 2), (batch,)]))

    assert all(part[0].shape == (batch, 2) for part in parts)
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts])[:samples], x)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts])[:samples], y)
    assert sum(len(part[1]) for part in parts) < samples + batch


def test_inputs_of_the_very_sizes_stay_whole() -> None:
    x, scale = np.zeros((4, 3)), np.ones(1)

    ((whole, same),) = in_parts([x, scale], [(4, 3), (1,)])

    assert whole is x
    assert same is scale
