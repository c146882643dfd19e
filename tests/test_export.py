from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from latprune import export
from latprune.errors import ExportDisagrees
from latprune.export import export_onnx, export_pt2

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Exporter = Callable[[nn.Module, Tensor | tuple[Tensor, ...], Path], None]

EXPORTERS: list[tuple[Exporter, str]] = [(export_onnx, "net.onnx"), (export_pt2, "net.pt2")]


class Network(nn.Module):
    """A convolution with a norm whose statistics matter, two inputs, nested outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        nn.init.uniform_(self.norm.running_mean, 1.0, 2.0)  # type: ignore[arg-type]
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y = self.drop(self.norm(self.conv(x)))
        return y * scale, {"mean": y.mean((2, 3))}


@pytest.fixture
def example() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, 8, 8), torch.tensor([2.0])


@pytest.mark.parametrize(("exporter", "name"), EXPORTERS)
def test_a_network_is_written_and_keeps_its_modes(
    exporter: Exporter, name: str, example: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    model = Network().train()
    model.norm.eval()

    exporter(model, example, tmp_path / name)

    assert (tmp_path / name).stat().st_size > 0
    assert model.training
    assert not model.norm.training


def test_an_onnx_file_computes_the_same_in_a_session_of_its_own(
    example: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    model = Network().eval()
    export_onnx(model, example, tmp_path / "net.onnx")

    session = onnxruntime.InferenceSession(
        tmp_path / "net.onnx", providers=["CPUExecutionProvider"]
    )
    names = [wanted.name for wanted in session.get_inputs()]
    found = session.run(None, dict(zip(names, [t.numpy() for t in example], strict=True)))

    with torch.no_grad():
        expected, nested = model(*example)
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], nested["mean"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("exporter", "name"), EXPORTERS)
def test_a_file_that_computes_something_else_is_refused_and_removed(
    exporter: Exporter,
    name: str,
    example: tuple[Tensor, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = export._outputs

    def off(model: nn.Module, example: tuple[Tensor, Tensor]) -> list[np.ndarray]:
        return [output + 0.01 * np.abs(output).max() for output in expected(model, example)]

    monkeypatch.setattr(export, "_outputs", off)

    with pytest.raises(ExportDisagrees, match="removed") as caught:
        exporter(Network(), example, tmp_path / name)
    assert caught.value.difference == pytest.approx(0.01, rel=0.05)
    assert not (tmp_path / name).exists()


class Growing(nn.Module):
    """Computes something else with every call, which no file can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.calls


def test_what_tracing_froze_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(ExportDisagrees):
        export_onnx(Growing(), torch.ones(1, 4), tmp_path / "net.onnx")


def test_nan_never_agrees(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    nn.init.constant_(model.weight, float("nan"))

    with pytest.raises(ExportDisagrees):
        export_onnx(model, torch.ones(1, 4), tmp_path / "net.onnx")


def test_the_newer_exporter_takes_over_where_the_older_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.onnx.export

    def without_torchscript(*args: Any, dynamo: bool, **options: Any) -> object:
        if not dynamo:
            raise RuntimeError("gone")
        return whole(*args, dynamo=dynamo, **options)

    monkeypatch.setattr(torch.onnx, "export", without_torchscript)

    export_onnx(nn.Linear(4, 4), torch.ones(1, 4), tmp_path / "net.onnx")

    assert (tmp_path / "net.onnx").exists()
