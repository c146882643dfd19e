"""What the documentation shows is what there is, and runs."""

from __future__ import annotations

import runpy
from typing import TYPE_CHECKING

import pytest
import torch

import latprune as lp
from latprune.outputs import main_output
from latprune.tasks.digits import network
from tests.synthetic import Synthetic

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def in_a_folder_where_time_is_a_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATPRUNE_CACHE", str(tmp_path / "cache"))
    Synthetic(name="onnxruntime").install(monkeypatch)


def test_the_loop_of_the_documentation_prunes_digits_and_goes_on(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    main = runpy.run_path(str(repository / "examples" / "gradual.py"))["main"]

    for _ in range(2):
        main("kept", epochs=1)

    said = capsys.readouterr().out
    assert said.count("cut 10 of 10") == 1  # the second time all was done
    assert said.count("of the budget of 50%") == 2
    small = lp.load("small.safetensors", network())
    assert small(torch.zeros(1, 1, 16, 16)).shape == (1, 10)


def test_timms_parts_are_cut_along(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timm = pytest.importorskip("timm")

    runpy.run_path(str(repository / "examples" / "gradual_timm.py"))["main"](steps=8)

    assert "cut 4 of 4" in capsys.readouterr().out
    small = lp.load("average.safetensors", timm.create_model("resnet10t", num_classes=10))
    assert small(torch.zeros(1, 3, 64, 64)).shape == (1, 10)


@pytest.mark.filterwarnings("ignore")  # the frameworks' own
@pytest.mark.parametrize("framework", ["lightning", "transformers"])
def test_the_trainers_of_others_prune_digits(
    repository: Path, framework: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip(framework)
    example = runpy.run_path(str(repository / "examples" / f"gradual_{framework}.py"))

    example["main"](epochs=1)

    assert "of the budget of 50%" in capsys.readouterr().out
    small = lp.load("small.safetensors", example.get("Classifier", example["network"])())
    assert main_output(small.eval()(torch.zeros(1, 1, 16, 16))).shape == (1, 10)
    assert lp.load_plan("small.safetensors").budget == lp.Budget(fraction=0.5)


@pytest.mark.parametrize("page", ["README.md", "docs/gradual.md"])
def test_the_five_lines_shown_are_those_of_the_example(repository: Path, page: str) -> None:
    shown = (repository / page).read_text()
    code = (repository / "examples" / "gradual.py").read_text()

    added = [line[1:].strip() for line in shown.splitlines() if line.startswith("+")]
    assert len(added) == 5
    for line in added:
        assert line.split("(")[0] in code
