"""Looking without cutting: `trace`, `plan` and `frontier` say what could be done."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from latprune.cli.job import Source
from tests.cli.conftest import FORMULA, latprune
from tests.networks import Plain

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Disk


def test_trace_says_what_can_go_and_what_stays_and_why(disk: Disk) -> None:
    said = json.loads(latprune("trace", *disk.model, "--json").stdout)
    text = latprune("trace", *disk.model).stdout

    assert said["groups"]
    for group in said["groups"]:
        assert f"{group['name']}: {group['channels']} channels" in text
    for frozen in said["frozen"]:
        assert frozen["reason"] in text


def test_trace_keeps_what_it_is_told_to(disk: Disk) -> None:
    free = json.loads(latprune("trace", *disk.model, "--json").stdout)
    kept = json.loads(latprune("trace", *disk.model, "--keep", "*", "--json").stdout)

    assert free["groups"]
    assert kept["groups"] == []
    assert {frozen["reason"] for frozen in kept["frozen"]} >= {"protected by keep="}


def test_branches_that_can_go_are_listed_and_may_go_if_asked(tmp_path: Path) -> None:
    factory = tmp_path / "net.py"
    factory.write_text("from tests.blocks import Residuals as network\n")
    model = ("--model", f"{factory}:network", "--input", "3x12x12")

    said = json.loads(latprune("trace", *model, "--json").stdout)
    text = latprune("trace", *model).stdout
    plans = [
        latprune("plan", *model, *FORMULA, "--budget", "60%", *options, "--json")
        for options in (["--branches"], ["--branches", "--criterion", "magnitude"], [])
    ]

    assert [branch["name"] for branch in said["branches"]] == [f"blocks.{i}" for i in range(3)]
    assert all(f"{branch['name']}: with" in text for branch in said["branches"])
    assert [found.exit_code for found in plans] == [0, 0, 3]
    for found in plans[:2]:
        assert 0 in [after for _, after in json.loads(found.stdout)["widths"].values()]


def test_plan_cuts_nothing_and_keeps_to_the_budget_by_its_own_prediction(disk: Disk) -> None:
    found = latprune("plan", *disk.trained, *disk.data, *FORMULA, "--budget", "80%", "--json")

    said = json.loads(found.stdout)
    assert found.exit_code == 0
    assert said["predicted_ms"] <= said["budget_ms"]
    assert said["budget_ms"] == pytest.approx(0.8 * said["baseline_ms"])
    assert said["criterion"] == "relative_gauss_newton"
    assert all(0 < after <= before for before, after in said["widths"].values())


def test_every_plan_is_made_from_the_same_pictures(disk: Disk) -> None:
    options = ("--budget", "80%", "--train-batch", "3", "--criterion", "fisher", "--json")
    said = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found = latprune("plan", *disk.trained, *disk.data[:2], *FORMULA, *options)
        said.append(json.loads(found.stdout)["value"])

    assert said[0] == said[1]


@pytest.mark.parametrize("criterion", ["taylor_squared", "fisher", "probe", "magnitude"])
def test_a_plan_can_be_made_by_every_criterion(disk: Disk, criterion: str) -> None:
    options = ("--budget", "80%", "--criterion", criterion, "--json")
    found = latprune("plan", *disk.trained, *disk.data, *FORMULA, *options)

    assert json.loads(found.stdout)["criterion"] == criterion


def test_plan_without_json_is_a_table(disk: Disk) -> None:
    found = latprune("plan", *disk.model, *FORMULA, "--budget", "80%")

    assert "channel group" in found.stdout
    assert "magnitude" in found.stdout


@pytest.mark.parametrize("solver", ["halp", "greedy", "uniform"])
def test_a_plan_can_be_compared_with_other_solvers(disk: Disk, solver: str) -> None:
    options = ("--budget", "80%", "--solver", solver, "--json")
    said = json.loads(latprune("plan", *disk.model, *FORMULA, *options).stdout)

    assert said["solver"] == solver
    assert said["predicted_ms"] <= said["budget_ms"]
    assert said["value"] <= said["bound"]


def test_a_solver_that_is_not_known_is_wrong_usage(disk: Disk) -> None:
    found = latprune("plan", *disk.model, *FORMULA, "--budget", "80%", "--solver", "luck")

    assert found.exit_code == 2
    assert "joint, halp" in " ".join(found.stderr.split())


def test_a_plan_is_made_by_one_solver(disk: Disk) -> None:
    found = latprune("plan", *disk.model, *FORMULA, "--budget", "80%", "--solver", "joint,uniform")

    assert found.exit_code == 2
    assert "one solver makes a plan" in " ".join(found.stderr.split())


def test_the_frontier_is_a_table_and_a_picture(disk: Disk, tmp_path: Path) -> None:
    picture = tmp_path / "frontier.png"
    found = latprune(
        "frontier", *disk.trained, *disk.data, *FORMULA, "--points", "5", "--plot", str(picture)
    )

    assert found.exit_code == 0
    assert "next 0.1 ms buys" in found.stdout
    assert "100.00 %" in found.stdout  # the dense network ends it
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_frontier_as_json_has_the_widths_of_every_point(disk: Disk) -> None:
    said = json.loads(latprune("frontier", *disk.model, *FORMULA, "--json").stdout)

    times = [point["predicted_ms"] for point in said["points"]]
    kept = [point["saliency"] for point in said["points"]]
    assert times == sorted(times)
    assert kept == sorted(kept)
    assert kept[-1] == pytest.approx(1)
    assert all(point["widths"] for point in said["points"])


@pytest.mark.parametrize(
    ("name", "said"), [("frontier.doc", "frontier.doc ends in none of"), ("no/f.png", "no folder")]
)
def test_a_picture_that_cannot_be_is_wrong_usage_before_anything_is_measured(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.setattr(Source, "open", None)

    found = latprune("frontier", *disk.model, *FORMULA, "--plot", str(tmp_path / name))

    assert found.exit_code == 2
    assert said in " ".join(found.stderr.replace("│", " ").split())


def test_a_frontier_is_shown_also_where_it_cannot_be_drawn(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)

    found = latprune("frontier", *disk.model, *FORMULA, "--plot", str(tmp_path / "f.png"))

    assert found.exit_code == 2
    assert "next 0.1 ms buys" in found.stdout


@pytest.mark.parametrize("command", ["trace", "plan", "frontier", "prune"])
def test_a_layer_to_keep_that_is_not_there_is_wrong_usage_and_claims_no_folder(
    tmp_path: Path, command: str
) -> None:
    factory = tmp_path / "net.py"
    factory.write_text("from tests.networks import Plain as network\n")
    options: dict[str, tuple[str, ...]] = {
        "trace": (),
        "plan": (*FORMULA, "--budget", "80%"),
        "frontier": FORMULA,
        "prune": (*FORMULA, "--budget", "80%", "--out", str(tmp_path / "run")),
    }
    model = ("--model", f"{factory}:network", "--input", "3x16x16")
    name = next(name for name, _ in Plain().named_modules() if name)

    found = latprune(command, *model, *options[command], "--keep", f"{name}x")

    assert found.exit_code == 2
    assert f"did you mean {name}" in " ".join(found.stderr.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("command", "options"), [("frontier", ()), ("plan", ("--budget", "100%"))])
@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_where_nothing_can_go_all_is_kept(
    disk: Disk, command: str, options: tuple[str, ...], as_json: tuple[str, ...]
) -> None:
    found = latprune(command, *disk.model, *FORMULA, *options, "--keep", "*", *as_json)

    assert found.exit_code == 0
    assert as_json or "100.00 %" in found.stdout
