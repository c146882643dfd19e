"""`latprune check` and `export` judge and write what a finished run left, in its precision."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import latprune as lp
from latprune.batches import inputs_of_first
from latprune.cli.job import Source
from latprune.cli.options.data import Labelled
from latprune.latency.timing import Comparison, Measurement
from latprune.report.counting import network_macs
from latprune.tasks.models import load_model
from tests import blocks
from tests.cli.conftest import FORMULA, accuracy_of, latprune, with_ratio
from tests.graph.test_branching import kept_without
from tests.test_surgery import a_plan

if TYPE_CHECKING:
    from typer.testing import Result

    from tests.cli.conftest import Disk


@pytest.mark.parametrize(("ratio", "code"), [(0.69, 0), (0.75, 4)])
def test_check_leaves_with_what_the_clock_says(
    disk: Disk,
    pruned: tuple[Path, Result],
    monkeypatch: pytest.MonkeyPatch,
    ratio: float,
    code: int,
) -> None:
    out, _ = pruned
    with_ratio(monkeypatch, ratio)

    saved = ("--pruned", str(out / "pruned.safetensors"))
    found = latprune("check", *disk.trained, *disk.data, *saved, "--json")

    assert found.exit_code == code
    assert json.loads(found.stdout)["ratio"] == ratio
    assert json.loads(found.stdout)["small"]["accuracy"] == accuracy_of(out)


def test_check_counts_layers_that_had_to_stay_as_whole(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    options = ("--budget", "80%", "--keep", "0", "--out", str(out))
    assert latprune("prune", *disk.trained, *FORMULA, *options).exit_code == 0
    with_ratio(monkeypatch, 0.69)

    found = latprune("check", *disk.trained, "--pruned", str(out), "--json")

    said = json.loads(found.stdout)
    assert said["widths"] == json.loads((out / "report.json").read_text())["widths"]
    assert said["small"]["macs"] == json.loads((out / "report.json").read_text())["small"]["macs"]


@pytest.mark.parametrize("is_noted", [True, False])
def test_check_counts_no_layers_of_branches_that_went(
    is_noted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, dense, example = (
        tmp_path / "net.safetensors",
        blocks.Residuals(),
        torch.zeros(1, 3, 12, 12),
    )
    graph = lp.trace(dense, example, branches=True, keep=["stem"])
    kept = kept_without(graph, ["blocks.1"], share=0.5)
    plan = replace(a_plan(graph), kept={name: tuple(at) for name, at in kept.items()})
    notes = {"traced": {"branches": True, "keep": ["stem"]}} if is_noted else {}
    small = lp.cut(dense, graph, plan)
    lp.save(small, file, graph=graph, plan=plan, notes=notes)
    with_ratio(monkeypatch, 0.69)

    of_file = f"{blocks.__file__}:Residuals"
    options = ("--input", "3x12x12", "--pruned", str(file), "--json")
    found = latprune("check", "--model", of_file, *options)

    said = json.loads(found.stdout)
    assert said["removed"] == ["blocks.1"]
    assert said["small"]["macs"] == network_macs(graph, plan.widths)
    assert ("stem.0" in said["widths"]) is not is_noted


def test_a_network_is_found_in_the_folder_that_prune_wrote(
    disk: Disk, pruned: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_ratio(monkeypatch, 0.69)

    assert latprune("check", *disk.trained, "--pruned", str(pruned[0])).exit_code == 0
    refused = latprune("check", *disk.trained, "--pruned", str(tmp_path))
    assert refused.exit_code == 2
    assert "a folder without pruned.safetensors" in " ".join(
        refused.stderr.replace("│", " ").split()
    )


def test_check_says_if_the_plan_was_made_for_another_machine(
    disk: Disk, pruned: tuple[Path, Result], tmp_path: Path
) -> None:
    out, _ = pruned
    dense = load_model(disk.model[1])
    plan = lp.load_plan(out / "pruned.safetensors")
    elsewhere = replace(plan, target=replace(plan.target, device="another machine"))
    small = lp.load(out / "pruned.safetensors", dense)
    graph = lp.trace(dense, torch.zeros(1, 3, 16, 16))
    lp.save(small, tmp_path / "other.safetensors", graph=graph, plan=elsewhere)

    found = latprune("check", *disk.model, "--pruned", str(tmp_path / "other.safetensors"))

    assert "another machine" in " ".join(found.stderr.split())


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--on", "ssh://pi"), "Invalid value for --on: only onnxruntime can be timed"),
        ((), "Invalid value for --pruned"),
    ],
)
def test_a_plan_that_a_device_cannot_run_is_put_down_to_an_option_of_check(
    disk: Disk, pruned: tuple[Path, Result], tmp_path: Path, option: tuple[str, ...], said: str
) -> None:
    dense, file = load_model(disk.model[1]), tmp_path / "other.safetensors"
    plan = lp.load_plan(pruned[0] / "pruned.safetensors")
    small = lp.load(pruned[0] / "pruned.safetensors", dense)
    graph = lp.trace(dense, torch.zeros(1, 3, 16, 16))
    other = replace(plan, target=replace(plan.target, runtime="eager", precision="int8"))
    lp.save(small, file, graph=graph, plan=other)

    found = latprune("check", *disk.model, "--pruned", str(file), *option)

    assert found.exit_code == 2
    assert said in " ".join(found.stderr.replace("│", " ").split())


def test_an_untrained_dense_network_is_not_judged(
    pruned: tuple[Path, Result], disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = pruned
    monkeypatch.setattr("latprune.cli.job.Source.is_trained", False)

    saved = ("--pruned", str(out / "pruned.safetensors"))
    found = latprune("check", *disk.model, *disk.data, *saved, "--json")

    said: dict[str, Any] = json.loads(found.stdout)
    assert said["dense"]["accuracy"] == {}
    assert said["small"]["accuracy"] == accuracy_of(out)


def test_an_exported_network_computes_the_same_without_latprune(
    disk: Disk, pruned: tuple[Path, Result], tmp_path: Path
) -> None:
    out, _ = pruned
    to = tmp_path / "new" / "net.onnx"

    saved = ("--pruned", str(out / "pruned.safetensors"))
    found = latprune("export", *disk.model, *saved, "--to", str(to), "--json")

    assert json.loads(found.stdout)["file"] == str(to)
    small = lp.load(out / "pruned.safetensors", load_model(disk.model[1])).eval()
    pictures = torch.rand(1, 3, 16, 16)
    session = onnxruntime.InferenceSession(to)
    (read,) = session.run(None, {session.get_inputs()[0].name: pictures.numpy()})
    np.testing.assert_allclose(read, small(pictures).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_pruned_network_brings_the_size_of_its_input(
    disk: Disk, pruned: tuple[Path, Result], tmp_path: Path
) -> None:
    to = tmp_path / "net.onnx"

    saved = ("--pruned", str(pruned[0] / "pruned.safetensors"))
    latprune("export", "--model", disk.model[1], *saved, "--to", str(to))

    assert onnxruntime.InferenceSession(to).get_inputs()[0].shape[1:] == [3, 16, 16]


def test_a_pruned_network_brings_its_number_of_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "run", ("--model", "timm:resnet18", "--input", "3x32x32")
    options = ("--classes", "3", "--budget", "80%", "--out", str(out))
    assert latprune("prune", *model, *FORMULA, *options).exit_code == 0
    with_ratio(monkeypatch, 0.69)

    assert latprune("check", *model, "--pruned", str(out)).exit_code == 0
    assert latprune("check", *model, "--pruned", str(out), "--classes", "4").exit_code == 1


def test_another_size_than_the_planned_one_is_said(
    disk: Disk, pruned: tuple[Path, Result], capsys: pytest.CaptureFixture[str]
) -> None:
    file = pruned[0] / "pruned.safetensors"
    other = Source(disk.model[1], input=(3, 24, 24))

    assert other.for_pruned(file) == other
    assert "planned for an input of 3x16x16; this is 3x24x24" in capsys.readouterr().err
    assert Source(disk.model[1], input=(3, 16, 16)).for_pruned(file).input == (3, 16, 16)
    assert capsys.readouterr().err == ""


def test_a_network_is_exported_in_int8_with_data_to_calibrate(
    disk: Disk, pruned: tuple[Path, Result], tmp_path: Path
) -> None:
    to = tmp_path / "net.onnx"
    saved = ("--pruned", str(pruned[0] / "pruned.safetensors"))
    options = ("--precision", "int8", "--calibration", "2", "--to", str(to), "--json")

    found = latprune("export", *disk.model, *disk.data, *saved, *options)

    assert json.loads(found.stdout)["bytes"] == to.stat().st_size
    assert b"QuantizeLinear" in to.read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--precision", "int8"], "--data"),
        (["--precision", "int4"], "fp32, fp16 or int8"),
        (["--precision", "fp16", "--to", "net.xml"], "fp16 is written as .onnx"),
        (["--precision", "int8", "--to", "net.pt2"], ".onnx or .xml"),
    ],
)
def test_an_export_that_cannot_be_is_refused_before_it_begins(
    disk: Disk, pruned: tuple[Path, Result], options: list[str], said: str
) -> None:
    saved = ("--pruned", str(pruned[0] / "pruned.safetensors"), "--to", "net.onnx")

    found = latprune("export", *disk.model, *saved, *options)

    assert found.exit_code == 2
    assert said in " ".join(found.stderr.replace("│", " ").split())


def test_a_plan_for_int8_is_checked_and_exported_in_int8(
    disk: Disk, pruned: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Comparison(Measurement(1.0, 0.01, 9), Measurement(0.6, 0.01, 9), 0.6, 0.001, 0.0003)
    monkeypatch.setattr("latprune.report.comparison.compare", lambda *_, **__: clock)
    file, dense = tmp_path / "int8.safetensors", load_model(disk.model[1])
    plan = lp.load_plan(pruned[0] / "pruned.safetensors")
    small = lp.load(pruned[0] / "pruned.safetensors", dense)
    graph = lp.trace(dense, torch.zeros(1, 3, 16, 16))
    int8 = replace(plan, target=lp.Target.here("onnxruntime", precision="int8"))
    lp.save(small, file, graph=graph, plan=int8)

    checked = latprune("check", *disk.model, *disk.data, "--pruned", str(file), "--json")
    without = latprune("check", *disk.model, "--pruned", str(file))
    refused = latprune("export", *disk.model, "--pruned", str(file), "--to", "net.onnx")

    said = json.loads(checked.stdout)
    assert said["small"]["accuracy_as_shipped"].keys() == {"top1"}
    assert said["unjudged"] == ""
    assert "accuracy in int8 was not measured" in " ".join(without.stdout.split())
    assert refused.exit_code == 2


def test_what_is_judged_in_int8_is_calibrated_as_what_is_exported(
    disk: Disk, pruned: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = Labelled(data=Path(disk.data[1]), train_batch=4)
    network = Source(disk.model[1], input=(3, 16, 16)).open()
    data = pictures.open(network)
    assert data is not None
    exported = data.calibration(2)
    given: list[Any] = []

    def capture(*_: object, calibration: Any, **__: object) -> None:
        given.append(calibration)
        raise KeyboardInterrupt

    monkeypatch.setattr("latprune.cli.pruning.prune", capture)
    monkeypatch.setattr("latprune.report.targets.check_everywhere", capture)
    saved = ("--pruned", str(pruned[0]))
    options = ("--budget", "70%", "--out", str(tmp_path / "run"))
    monkeypatch.setattr("latprune.batches.calibrating", lambda *asked: asked)
    latprune("prune", *disk.trained, *disk.data, *FORMULA, *options)
    latprune("check", *disk.trained, *disk.data, *saved)

    in_prune, (in_check, *_) = given
    for loader in (in_prune, in_check):
        assert all(map(torch.equal, inputs_of_first(loader, 2), exported))
    prepare = network.preprocessing.evaluation()
    files = (disk.folder / "pictures" / "train").rglob("*.png")
    plain = [prepare(Image.open(file).convert("RGB")) for file in files]
    for picture in torch.cat(exported):
        assert any(torch.equal(picture, one) for one in plain)


def test_a_plan_for_fp16_is_exported_in_fp16_as_onnx(
    disk: Disk, pruned: tuple[Path, Result], tmp_path: Path
) -> None:
    file, dense = tmp_path / "fp16.safetensors", load_model(disk.model[1])
    plan = lp.load_plan(pruned[0] / "pruned.safetensors")
    small = lp.load(pruned[0] / "pruned.safetensors", dense)
    graph = lp.trace(dense, torch.zeros(1, 3, 16, 16))
    fp16 = replace(plan, target=lp.Target("a GPU", "tensorrt", "11.0", precision="fp16"))
    lp.save(small, file, graph=graph, plan=fp16)

    asked = ("export", *disk.model, "--pruned", str(file), "--to")
    for name, *options in (("half.onnx",), ("whole.onnx", "--precision", "fp32"), ("net.pt2",)):
        assert latprune(*asked, str(tmp_path / name), *options).exit_code == 0

    half, whole = (
        onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"])
        for name in ("half.onnx", "whole.onnx")
    )
    assert half.get_inputs()[0].type == "tensor(float16)"
    assert whole.get_inputs()[0].type == "tensor(float)"


@pytest.mark.parametrize(
    ("options", "batch", "said"),
    [
        ((), 2, "planned for int8, batch 2; this is fp32, batch 2"),
        (("--batch", "3"), 3, "this is fp32, batch 3"),
    ],
)
def test_a_file_has_the_plans_batch_and_says_what_it_has_not_of_the_plan(
    disk: Disk,
    pruned: tuple[Path, Result],
    tmp_path: Path,
    options: tuple[str, ...],
    batch: int,
    said: str,
) -> None:
    file, to, dense = tmp_path / "two.safetensors", tmp_path / "net.onnx", load_model(disk.model[1])
    plan = lp.load_plan(pruned[0] / "pruned.safetensors")
    small = lp.load(pruned[0] / "pruned.safetensors", dense)
    graph = lp.trace(dense, torch.zeros(1, 3, 16, 16))
    two = replace(plan, target=lp.Target.here("onnxruntime", precision="int8", batch=2))
    lp.save(small, file, graph=graph, plan=two)
    asked = ("export", *disk.model, "--pruned", str(file), "--to", str(to), "--precision", "fp32")

    found = latprune(*asked, *options)

    assert onnxruntime.InferenceSession(to).get_inputs()[0].shape == [batch, 3, 16, 16]
    assert f"MB, fp32, batch {batch}) agrees" in " ".join(found.stdout.split())
    assert said in " ".join(found.stderr.split())


def test_a_precision_that_a_runtime_lacks_is_wrong_usage(disk: Disk) -> None:
    options = ("--runtime", "eager", "--precision", "int8", "--budget", "70%")
    found = latprune("plan", *disk.model, *options)

    assert found.exit_code == 2
    assert "does not offer" in " ".join(found.stderr.replace("│", " ").split())


def test_a_file_of_another_kind_is_not_exported(disk: Disk, tmp_path: Path) -> None:
    found = latprune(
        "export", *disk.model, "--pruned", "x.safetensors", "--to", str(tmp_path / "net.tflite")
    )

    assert found.exit_code == 2
    assert ".onnx" in found.stderr
