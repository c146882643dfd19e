from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import latprune as lp
from latprune import export
from latprune.errors import ExportDisagrees
from latprune.export import export_onnx, export_openvino, export_pt2
from latprune.latency import onnx_export
from latprune.latency.measuring import prepare
from latprune.latency.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Exporter = Callable[[nn.Module, Tensor | tuple[Any, ...], Path], None]

EXPORTERS: list[tuple[Exporter, str]] = [
    (export_onnx, "net.onnx"),
    (export_openvino, "net.xml"),
    (export_pt2, "net.pt2"),
]


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


class Packed(nn.Module):
    """Takes a list, a number of no axes, and a dict at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, pictures: list[Tensor], scale: Tensor, more: dict[str, Tensor]) -> Tensor:
        y: Tensor = self.conv(torch.cat(pictures)) * scale + self.conv(more["picture"])
        return y + more["shift"]


@pytest.mark.parametrize(("exporter", "name"), EXPORTERS)
def test_inputs_may_lie_in_lists_and_dicts_and_have_no_axes(
    exporter: Exporter, name: str, tmp_path: Path
) -> None:
    pictures = torch.randn(4, 1, 3, 8, 8)
    more = {"picture": torch.randn(1, 3, 8, 8), "shift": torch.tensor(0.5)}

    exporter(Packed(), (list(pictures), torch.tensor(2.0), more), tmp_path / "new" / name)

    assert (tmp_path / "new" / name).is_file()


def test_inputs_in_lists_and_dicts_are_written_in_fp16(tmp_path: Path) -> None:
    more = {"picture": torch.randn(1, 3, 8, 8), "shift": torch.tensor(0.5)}

    export_onnx(
        Packed(),
        ([torch.randn(1, 3, 8, 8)], torch.tensor(2.0), more),
        tmp_path / "net.onnx",
        precision="fp16",
    )

    read = onnxruntime.InferenceSession(tmp_path / "net.onnx").get_inputs()
    assert {one.type for one in read} == {"tensor(float16)"}


class Careless(nn.Module):
    """Takes more than it uses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


@pytest.mark.parametrize(("exporter", "name"), EXPORTERS[:2])
def test_networks_in_bfloat16_and_unused_inputs_are_refused_by_name(
    exporter: Exporter, name: str, tmp_path: Path
) -> None:
    example = torch.randn(1, 3, 8, 8), torch.ones(2)
    rounded = tuple(tensor.bfloat16() for tensor in example)

    with pytest.raises(ValueError, match="hold no networks in bfloat16: export copy"):
        exporter(Careless().bfloat16(), rounded, tmp_path / name)
    with pytest.raises(ValueError, match="reads 1 tensors, and 2 were given: leave out"):
        exporter(Careless(), example, tmp_path / name)


@pytest.fixture
def little_room() -> Iterator[None]:
    """A system on which no file grows beyond 4 kB: writing more fails as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize(("exporter", "name"), EXPORTERS)
def test_a_full_disk_is_said_to_be_the_systems_error(
    exporter: Exporter, name: str, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match="too large"):
        exporter(nn.Conv2d(3, 100, 5), torch.zeros(1, 3, 8, 8), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_what_openvino_cannot_write_is_said_to_be_the_systems_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(openvino, "save_model", full)

    with pytest.raises(OSError, match=r"cannot write net.xml, as on a full disk"):
        export_openvino(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8), tmp_path / "net.xml")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_networks_that_are_not_in_float32_are_refused_before_onnx_runtime_sees_them(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model, example = nn.Conv2d(3, 4, 3).to(dtype), torch.randn(1, 3, 8, 8).to(dtype)
    said = rf"weights in {str(dtype).removeprefix('torch.')}: give copy.deepcopy\(model\).float\(\)"
    target = Target.here("onnxruntime", batch=1, threads=1)

    with pytest.raises(ValueError, match=said):
        export_onnx(model, example, tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=said):
        export_onnx(model, example, tmp_path / "net.onnx", precision="int8", calibration=[example])
    with pytest.raises(ValueError, match=said):
        prepare(model, example, target)
    assert not list(tmp_path.iterdir())
    export_onnx(model, example, tmp_path / "net.onnx", precision="fp16")


def test_a_network_in_bfloat16_is_written_by_torch(tmp_path: Path) -> None:
    model, example = nn.Conv2d(3, 4, 3).bfloat16(), torch.randn(1, 3, 8, 8).bfloat16()

    export_pt2(model, example, tmp_path / "net.pt2")

    read = torch.export.load(tmp_path / "net.pt2").module()
    assert torch.equal(read(example), model(example))


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
def test_a_file_that_computes_something_else_is_not_written(
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

    with pytest.raises(ExportDisagrees, match="Nothing was written") as caught:
        exporter(Network(), example, tmp_path / name)
    assert caught.value.difference == pytest.approx(0.01, rel=0.05)
    assert list(tmp_path.iterdir()) == []


class Growing(nn.Module):
    """Computes something else with every call, which no file can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.calls


@pytest.mark.parametrize(("exporter", "name"), EXPORTERS)
def test_a_network_that_writes_into_what_it_is_given_is_written(
    exporter: Exporter, name: str, tmp_path: Path
) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x *= 255
            return self.conv(x)  # type: ignore[no-any-return]

    example = torch.rand(1, 3, 8, 8)
    before = example.clone()

    exporter(Scaled(), example, tmp_path / name)

    assert torch.equal(example, before)


def test_what_tracing_froze_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(ExportDisagrees):
        export_onnx(Growing(), torch.ones(1, 4), tmp_path / "net.onnx")


def test_nan_never_agrees(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    nn.init.constant_(model.weight, float("nan"))

    with pytest.raises(ExportDisagrees):
        export_onnx(model, torch.ones(1, 4), tmp_path / "net.onnx")


class HalfUndefined(nn.Module):
    """Its second output alone is not a number."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, (x - x) / (x - x)


@pytest.mark.parametrize(("exporter", "name"), EXPORTERS)
def test_nan_in_a_later_output_never_agrees(exporter: Exporter, name: str, tmp_path: Path) -> None:
    with pytest.raises(ExportDisagrees):
        exporter(HalfUndefined(), torch.ones(1, 4), tmp_path / name)


@pytest.mark.parametrize(("exporter", "name"), EXPORTERS)
def test_an_older_file_outlives_an_export_that_fails(
    exporter: Exporter, name: str, tmp_path: Path
) -> None:
    exporter(nn.Linear(4, 4), torch.ones(1, 4), tmp_path / name)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    with pytest.raises(ExportDisagrees):
        exporter(HalfUndefined(), torch.ones(1, 4), tmp_path / name)

    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_weights_in_files_of_their_own_come_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = onnx_export.export_network

    def apart(model: nn.Module, example: Tensor, path: Path) -> None:
        whole(model, example, path)
        network = onnx.load(path)
        onnx.save(network, path, save_as_external_data=True, location="w.bin", size_threshold=0)

    monkeypatch.setattr("latprune.export.export_network", apart)

    export_onnx(nn.Linear(4, 4), torch.ones(1, 4), tmp_path / "net.onnx")

    assert {file.name for file in tmp_path.iterdir()} == {"net.onnx", "w.bin"}
    assert onnxruntime.InferenceSession(tmp_path / "net.onnx").get_outputs()


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


class Merged(nn.Module):
    """Two kernels that are one by the time that they run: the older exporter fails on that."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.large = nn.Conv2d(4, 4, 7, padding=3, groups=4)
        self.small = nn.Conv2d(4, 4, 3, groups=4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.large.weight + F.pad(self.small.weight, (2, 2, 2, 2))
        return F.conv2d(self.stem(x).relu(), weight, self.large.bias, padding=3, groups=4)


def test_what_the_older_exporter_fails_on_is_not_printed_among_results(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export_onnx(Merged(), torch.randn(1, 3, 9, 9), tmp_path / "merged.onnx")

    assert capfd.readouterr() == ("", "")


class Bessel(nn.Module):
    """A function that ONNX has not."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.special.bessel_j0(x)
        return found


def test_what_no_exporter_writes_is_an_error_that_names_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(lp.CannotExport, match=r"bessel_j0.*The newer one: .*bessel_j0") as caught:
        export_onnx(Bessel(), torch.randn(1, 3), tmp_path / "bessel.onnx")

    assert len(str(caught.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")


class Classifier(nn.Module):
    """One input, and a size that a quantiser finds work in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_file_in_int8_runs_by_itself_near_the_network(tmp_path: Path) -> None:
    model, example = Classifier().eval(), torch.randn(1, 3, 8, 8)
    batches = [torch.randn(4, 3, 8, 8) for _ in range(2)]

    export_onnx(model, example, tmp_path / "net.onnx", precision="int8", calibration=batches)

    session = onnxruntime.InferenceSession(
        tmp_path / "net.onnx", providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {session.get_inputs()[0].name: batches[0][:1].numpy()})
    with torch.no_grad():
        expected = model(batches[0][:1]).numpy()
    assert 0 < np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)
    assert b"QuantizeLinear" in (tmp_path / "net.onnx").read_bytes()


def test_a_file_in_fp16_reads_computes_and_writes_it(tmp_path: Path) -> None:
    model, example = Classifier().train(), torch.randn(2, 3, 8, 8)

    export_onnx(model, example, tmp_path / "net.onnx", precision="fp16")

    session = onnxruntime.InferenceSession(
        tmp_path / "net.onnx", providers=["CPUExecutionProvider"]
    )
    assert session.get_inputs()[0].type == session.get_outputs()[0].type == "tensor(float16)"
    (found,) = session.run(None, {session.get_inputs()[0].name: example.half().numpy()})
    with torch.no_grad():
        expected = model.eval()(example).numpy()
    np.testing.assert_allclose(found, expected, atol=0.01)
    assert next(model.parameters()).dtype == torch.float32


def test_a_file_in_fp16_that_computes_something_else_is_not_written(tmp_path: Path) -> None:
    class Large(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + (x.mean() + 300.0) ** 2  # beyond what fp16 holds

    with pytest.raises(ExportDisagrees, match="Nothing was written"):
        export_onnx(Large(), torch.randn(1, 3, 8, 8), tmp_path / "net.onnx", precision="fp16")

    assert list(tmp_path.iterdir()) == []


def test_a_file_for_openvino_in_int8_runs_by_itself_near_the_network(tmp_path: Path) -> None:
    model, example = Classifier().eval(), torch.randn(1, 3, 8, 8)
    batches = [torch.randn(4, 3, 8, 8) for _ in range(2)]

    export_openvino(model, example, tmp_path / "net.xml", precision="int8", calibration=batches)

    compiled = openvino.compile_model(tmp_path / "net.xml", "CPU")
    (found,) = compiled([batches[0][:1].numpy()]).to_tuple()
    with torch.no_grad():
        expected = model(batches[0][:1]).numpy()
    assert 0 < np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)
    assert "FakeQuantize" in (tmp_path / "net.xml").read_text()


@pytest.mark.parametrize(("exporter", "name"), EXPORTERS[:2])
def test_a_file_in_int8_that_computes_something_else_is_not_written(
    exporter: Callable[..., None], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = export._outputs
    monkeypatch.setattr(export, "_outputs", lambda *given: [-one for one in expected(*given)])
    options: dict[str, Any] = {"precision": "int8", "calibration": [torch.randn(4, 3, 8, 8)]}

    with pytest.raises(ExportDisagrees, match="Nothing was written") as caught:
        exporter(Classifier(), torch.randn(1, 3, 8, 8), tmp_path / name, **options)

    assert caught.value.difference == pytest.approx(2.0, abs=0.1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("exporter", "name"), EXPORTERS[:2])
def test_int8_without_batches_and_other_precisions_are_refused(
    exporter: Callable[..., None], name: str, tmp_path: Path
) -> None:
    given: Any = (Classifier(), torch.randn(1, 3, 8, 8), tmp_path / name)
    unknown: Any = "int4"

    with pytest.raises(ValueError, match="at least one batch"):
        exporter(*given, precision="int8")
    with pytest.raises(ValueError, match="or int8, not 'int4'"):
        exporter(*given, precision=unknown)
    if exporter is export_openvino:
        with pytest.raises(ValueError, match="written in fp32 or int8, not 'fp16'"):
            exporter(*given, precision="fp16")
    assert list(tmp_path.iterdir()) == []
