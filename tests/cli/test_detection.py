"""A detector from the command line: planned, pruned, judged again, exported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

import latprune as lp
from latprune.tasks.detection import Detector, load_detector
from tests import detectors
from tests.cli.conftest import FORMULA, latprune

if TYPE_CHECKING:
    from typer.testing import Result

TINY = f"{Path(detectors.__file__)}:tiny_ssd"


@dataclass(frozen=True)
class Run:
    """A pruned detector: options that name its model and data, its folder, what was said."""

    options: list[str]
    out: Path
    said: Result


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("detection")
    root = detectors.write_things(folder / "things")
    flat = detectors.Thing("disc", (9, 9, 9, 20))
    detectors.write_picture(root, "test0", [flat, detectors.Thing("square", (5, 5, 20, 20))])
    torch.manual_seed(0)
    save_file(load_detector(TINY).network.state_dict(), folder / "dense.safetensors")
    weights = ["--weights", str(folder / "dense.safetensors"), "--data", str(root)]
    options = ["--task", "detection", "--model", TINY, *weights, "--train-batch", "4"]
    out = folder / "run"
    told = ["--budget", "80%", "--epochs", "1", "--out", str(out), "--json"]
    return Run(options, out, latprune("prune", *options, *FORMULA, *told))


def test_a_detector_is_pruned_and_its_precision_reported(run: Run) -> None:
    report = json.loads(run.said.stdout)
    written = json.loads((run.out / "report.json").read_text())

    assert run.said.exit_code == 0
    assert report == written
    assert report["small"]["parameters"] < report["dense"]["parameters"]
    assert report["criterion"] == "relative_gauss_newton"
    for judged in (report["dense"]["accuracy"], report["small"]["accuracy"]):
        assert judged.keys() == {"map50", "map50_voc07"}


def test_boxes_that_were_dropped_are_told(run: Run) -> None:
    assert "1 box without area dropped (test0.png)" in " ".join(run.said.stderr.split())


def test_the_pruned_detector_comes_back_as_torchvisions(run: Run) -> None:
    detector = load_detector(TINY)
    small = lp.load(run.out / "pruned.safetensors", detector.network.eval())
    found = detector.assembled(small).eval()([torch.rand(3, 50, 70)])

    assert found[0].keys() == {"boxes", "scores", "labels"}


def test_a_pruned_detector_is_judged_again(run: Run) -> None:
    pruned = str(run.out / "pruned.safetensors")
    again = json.loads(latprune("check", *run.options, "--pruned", pruned, "--json").stdout)

    first = json.loads(run.said.stdout)
    for which in ("dense", "small"):
        assert again[which]["accuracy"] == first[which]["accuracy"]


def test_a_pruned_detector_is_exported_as_tensors(run: Run, tmp_path: Path) -> None:
    file, pruned = tmp_path / "small.onnx", run.out / "pruned.safetensors"
    export = ["export", "--task", "detection", "--model", TINY, "--pruned", str(pruned)]
    assert latprune(*export, "--precision", "fp32", "--to", str(file)).exit_code == 0

    detector = load_detector(TINY)
    images = torch.rand(1, 3, *detector.size)
    session = onnxruntime.InferenceSession(file)
    outputs = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        expected = lp.load(pruned, detector.network.eval())(images)
    for found, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("criterion", [None, "relative_fisher"])
def test_a_plan_scores_by_the_detectors_own_answers_or_loss(
    run: Run, criterion: str | None
) -> None:
    named = ("--criterion", criterion) if criterion else ()
    said = latprune("plan", *run.options, *FORMULA, "--budget", "80%", *named, "--json")

    assert said.exit_code == 0
    expected = criterion or "relative_gauss_newton"
    assert json.loads(said.stdout)["criterion"] == expected


def test_splits_are_named_on_the_command_line(run: Run) -> None:
    options = [*FORMULA, "--budget", "80%", "--train-split", "trainvol"]
    said = latprune("plan", *run.options, *options)

    assert said.exit_code == 1
    assert "no split 'trainvol'" in " ".join(said.stderr.split())


def test_a_detector_for_other_classes_says_how_to_build_it(run: Run) -> None:
    said = latprune("plan", *run.options, *FORMULA, "--budget", "80%", "--classes", "3")
    assert said.exit_code == 0
    bare = ["plan", "--task", "detection", "--model", TINY, "--classes", "5"]
    said = latprune(
        *bare, *FORMULA, "--budget", "80%", "--data", run.options[run.options.index("--data") + 1]
    )

    assert said.exit_code == 1
    assert "build it with --classes 3" in " ".join(said.stderr.split())


def test_a_data_set_of_hugging_faces_holds_no_boxes() -> None:
    asked = ["--task", "detection", "--model", TINY, *FORMULA, "--budget", "80%"]

    said = latprune("plan", *asked, "--data", "hf:somebody/boxes")

    assert said.exit_code == 1
    assert "only pictures with classes are read" in " ".join(said.stderr.split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--task", "dancing"], "none of classification, detection"),
        (["--task", "detection", "--input", "3x32x32"], "a size of its own"),
    ],
)
def test_what_a_detector_does_not_take_is_wrong_usage(options: list[str], words: str) -> None:
    said = latprune("plan", "--model", TINY, *FORMULA, "--budget", "80%", *options)

    assert said.exit_code == 2
    assert words in " ".join(said.stderr.replace("│", " ").split())


def test_a_classifier_is_no_detector(tmp_path: Path) -> None:
    factory = tmp_path / "plain.py"
    factory.write_text("from tests.networks import Plain\n")
    model = ["--model", f"{factory}:Plain"]
    said = latprune("plan", "--task", "detection", *model, *FORMULA, "--budget", "80%")

    assert said.exit_code == 1
    assert "not Plain" in said.stderr
    assert isinstance(load_detector(TINY), Detector)
