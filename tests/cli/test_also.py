"""`--also`: one network, several targets, a budget for each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import latprune as lp
from tests.cli.conftest import FORMULA, latprune, with_ratio

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

    from tests.cli.conftest import Disk

TWO_BUDGETS = ("--budget", "80%", "--also", "2 threads=60%")


@pytest.fixture(scope="module")
def pruned(disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A finished run: its folder, and what the command said."""
    out = tmp_path_factory.mktemp("also") / "run"
    options = (*disk.trained, *FORMULA, *TWO_BUDGETS, "--out", str(out), "--json")
    return out, latprune("prune", *options)


def test_the_network_is_within_both_budgets_and_reported_on_both_targets(
    pruned: tuple[Path, Result],
) -> None:
    out, found = pruned

    said = json.loads(found.stdout)
    (also,) = said["also"]
    assert found.exit_code == 0
    assert (said["target"]["threads"], also["target"]["threads"]) == (1, 2)
    assert said["budget"] == {"fraction": 0.8}
    assert also["budget"] == {"fraction": 0.6}
    assert said["used"] == pytest.approx(also["used"] * 0.6 / 0.8)  # one clock for both
    assert also["used"] <= 1
    assert said == json.loads((out / "report.json").read_text())


def test_the_tighter_budget_decides(
    disk: Disk, pruned: tuple[Path, Result], tmp_path: Path
) -> None:
    options = ("--threads", "2", "--budget", "60%", "--out", str(tmp_path), "--json")
    alone = latprune("prune", *disk.trained, *FORMULA, *options)

    assert json.loads(alone.stdout)["widths"] == json.loads(pruned[1].stdout)["widths"]


def test_the_text_says_which_budget_is_the_tighter_one(pruned: tuple[Path, Result]) -> None:
    text = " ".join((pruned[0] / "report.txt").read_text().split())

    assert "synthetic" in text
    assert "1 thread," in text
    assert "2 threads," in text
    assert "Tighter is the budget of 60% in synthetic, fp32, 2 threads." in text
    assert text.count("channel group") == 1


def test_the_same_command_goes_on_and_other_budgets_are_refused(
    disk: Disk, pruned: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = pruned
    command = ("prune", *disk.trained, *FORMULA, "--out", str(out))
    monkeypatch.setattr("latprune.bench.fit", never)

    again = latprune(*command, *TWO_BUDGETS)
    refused = latprune(*command, "--budget", "80%", "--also", "2 threads=50%")

    assert again.exit_code == 0
    assert refused.exit_code == 2
    assert "another run" in refused.stderr


@pytest.mark.parametrize(("ratio", "code"), [(0.59, 0), (0.7, 4)])
def test_check_times_the_network_on_all_targets_again(
    disk: Disk,
    pruned: tuple[Path, Result],
    monkeypatch: pytest.MonkeyPatch,
    ratio: float,
    code: int,
) -> None:
    with_ratio(monkeypatch, ratio)

    saved = ("--pruned", str(pruned[0] / "pruned.safetensors"))
    found = latprune("check", *disk.trained, *saved, "--json")

    said = json.loads(found.stdout)
    assert said["met"]
    assert [also["met"] for also in said["also"]] == [code == 0]
    assert found.exit_code == code


def test_a_plan_tells_what_every_target_is_predicted_to_take(disk: Disk) -> None:
    asked = ("plan", *disk.model, *FORMULA, *TWO_BUDGETS)

    said = json.loads(latprune(*asked, "--json").stdout)
    text = latprune(*asked).stdout

    (also,) = said["also"]
    assert also["target"]["threads"] == 2
    assert also["predicted_ms"] <= also["budget_ms"]
    assert f"{also['predicted_ms']:.3f} ms predicted" in " ".join(text.split())
    assert "2 threads" in text


def test_a_plan_by_a_solver_of_one_budget_refuses_further_ones(disk: Disk) -> None:
    found = latprune("plan", *disk.model, *FORMULA, *TWO_BUDGETS, "--solver", "halp")

    assert found.exit_code == 2
    assert "halp takes one budget" in " ".join(found.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--also", "2 threads"], "reads like openvino=12ms"),
        (["--also", "2 threads=0.5"], "a budget reads like"),
        (["--also", "openvine=12ms"], "'openvine' is no runtime (onnxruntime, openvino"),
        (["--also", "=12ms"], "no number of threads (2 threads)"),
        (["--also", "0 threads=12ms"], "no number of threads"),
        (["--also", "int8=12ms"], "does not offer"),
        (["--also", "1 thread=12ms"], "has a budget already"),
        (["--also", "2 threads=12ms", "--also", "2 threads=50%"], "has a budget already"),
        (["--also", "2 threads=50%", "--solver", "halp"], "halp takes one budget"),
        (["--also", "2 threads=50%", "--table", "x.jsonl"], "reach it by --on"),
    ],
)
def test_what_cannot_be_read_or_met_is_wrong_usage_before_anything_is_measured(
    disk: Disk, tmp_path: Path, options: list[str], said: str
) -> None:
    budget = ("--budget", "80%", "--out", str(tmp_path / "run"))

    found = latprune("prune", *disk.model, *FORMULA, *budget, *options)

    assert found.exit_code == 2
    assert said in " ".join(found.stderr.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


def test_a_further_budget_that_nothing_fits_is_said_with_its_target(
    disk: Disk, tmp_path: Path
) -> None:
    options = (*TWO_BUDGETS[:2], "--also", "2 threads=0.001ms", "--out", str(tmp_path))

    found = latprune("prune", *disk.model, *FORMULA, *options)

    assert found.exit_code == 3
    assert "0.001 ms" in found.stderr


def test_settings_that_are_not_named_are_those_of_the_first_target() -> None:
    from latprune.cli.options.place import Settings
    from latprune.latency.devices.here import HERE

    also = ["onnxruntime, int8 = 12ms", "onnxruntime,1 thread=50%"]
    further = Settings(runtime="eager", batch=4, threads=2, also=also).further(HERE)

    targets = [(t.runtime, t.precision, t.batch, t.threads) for t in further]
    assert targets == [("onnxruntime", "int8", 4, 2), ("onnxruntime", "fp32", 4, 1)]
    assert list(further.values()) == [lp.Budget(ms=12), lp.Budget(fraction=0.5)]


def never(*_: object, **__: object) -> None:
    raise AssertionError("this was done before")
