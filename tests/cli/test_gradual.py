"""`latprune prune --steps` prunes while it trains, and `--config` brings options from a file."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest
import torch

import latprune as lp
from latprune.gradual import GradualPruning
from latprune.tasks.models import load_model
from tests.cli.conftest import latprune

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

    from tests.cli.conftest import Disk

# 3 epochs of 4 batches
TRAINING = ("--epochs", "3", "--steps", "3", "--train-precision", "no")
COURSE = ("--runtime", "synthetic", "--budget", "70%", *TRAINING)


def pruned(disk: Disk, out: Path, *options: str) -> Result:
    command = (*disk.trained, *disk.data, *COURSE, "--every", "2", "--out", str(out), "--json")
    return latprune("prune", *command, *options)


def words(found: Result) -> str:
    return " ".join(found.stderr.replace("│", " ").split())


def test_a_network_is_pruned_while_it_is_trained_and_the_clock_decides(
    disk: Disk, tmp_path: Path
) -> None:
    found = pruned(disk, tmp_path / "run")

    said = json.loads(found.stdout)
    small = lp.load(tmp_path / "run" / "pruned.safetensors", load_model(disk.model[1]))
    assert found.exit_code == 0
    assert said["met"]
    assert said == json.loads((tmp_path / "run" / "report.json").read_text())
    assert sum(p.numel() for p in small.parameters()) == said["small"]["parameters"]
    assert "train and prune" in found.stderr


def test_interrupted_the_same_command_goes_on_to_the_same_network(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = GradualPruning.step, 0

    def interrupted(pruning: GradualPruning) -> lp.Plan | None:
        nonlocal calls
        calls += 1
        if calls == 5:
            signal.raise_signal(signal.SIGINT)
        return step(pruning)

    pruned(disk, tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        patch.setattr(GradualPruning, "step", interrupted)
        stopped = pruned(disk, tmp_path / "run")
    resumed = pruned(disk, tmp_path / "run")

    assert stopped.exit_code == 130
    assert "same command" in words(stopped)
    assert resumed.exit_code == 0
    dense = load_model(disk.model[1])
    one, other = (
        lp.load(tmp_path / run / "pruned.safetensors", dense).state_dict()
        for run in ("unbroken", "run")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_course_may_not_use_the_folder(disk: Disk, tmp_path: Path) -> None:
    pruned(disk, tmp_path / "run")

    refused = pruned(disk, tmp_path / "run", "--every", "1")

    assert refused.exit_code == 2
    assert "every was 2, is 1" in words(refused)


def test_the_gradients_score_by_the_criterion_that_is_named(disk: Disk, tmp_path: Path) -> None:
    found = pruned(disk, tmp_path / "run", "--criterion", "relative_taylor_squared")

    asked = json.loads((tmp_path / "run" / "run.json").read_text())
    assert found.exit_code == 0
    assert asked["criterion"] == "relative_taylor_squared"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--every", "5"), "3 epochs of 4 batches"),
        (("--criterion", "fisher"), "the gradients of training score by"),
        (("--criterion", "tailor"), "did you mean taylor?"),
        (("--branches",), "--branches"),
        (("--epochs", "0"), "--epochs above 0"),
        (("--label-smoothing", "1.5"), "--label-smoothing"),
        (("--optimizer", "magic"), "--optimizer"),
        (("--optimizer", "adam"), "did you mean adamw?"),
        (("--lr", "-1"), "lr is above 0, not -1.0"),
        (("--train-precision", "int8"), "--train-precision"),
        (("--auto-augment", "magic"), "--auto-augment"),
        (("--table", "elsewhere.jsonl"), "--on"),
    ],
)
def test_what_cannot_be_is_wrong_usage(
    disk: Disk, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    found = pruned(disk, tmp_path / "run", *options)

    assert found.exit_code == 2
    assert said in words(found)


@pytest.mark.parametrize("option", [("--every", "40"), ("--soft",)])
def test_what_is_said_of_cuts_needs_cuts(
    disk: Disk, tmp_path: Path, option: tuple[str, ...]
) -> None:
    command = (*disk.trained, *disk.data, "--budget", "70%", "--out", str(tmp_path / "run"))
    found = latprune("prune", *command, *option)

    assert found.exit_code == 2
    assert f"{option[0]}: it is about the cuts of --steps" in words(found).replace("'", "")
    assert not (tmp_path / "run").exists()


def test_steps_without_data_are_wrong_usage(disk: Disk, tmp_path: Path) -> None:
    found = latprune("prune", *disk.trained, *COURSE, "--out", str(tmp_path))

    assert found.exit_code == 2
    assert "--data" in words(found)


def test_several_processes_that_do_not_train_together_are_refused(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = latprune("prune", *disk.trained, "--budget", "70%", "--out", str(tmp_path))

    assert found.exit_code == 2
    assert "--steps" in words(found)


def test_a_config_gives_options_and_the_command_line_has_the_last_word(
    disk: Disk, tmp_path: Path
) -> None:
    config = tmp_path / "recipe.toml"
    config.write_text(
        f"""
        model = '{disk.model[1]}'
        input = "3x16x16"
        budget = "90%"
        runtime = "synthetic"
        epochs = 3
        lr = 0.5
        label-smoothing = 0.1
        keep = ["0"]
        soft = true
        out = '{tmp_path / "run"}'
        """
    )
    options = ("--budget", "70%", "--steps", "2", "--every", "2")
    found = latprune("prune", "--config", str(config), *disk.data, *options)

    asked = json.loads((tmp_path / "run" / "run.json").read_text())
    assert found.exit_code == 0
    assert asked["budget"] == "70%"
    assert (asked["lr"], asked["label_smoothing"], asked["keep"]) == (0.5, 0.1, ["0"])
    assert (asked["steps"], asked["soft"]) == (2, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [("learning-rate = 0.1", "learning-rate"), ("lr = ", "cannot be read"), ("lr = 'x'", "--lr")],
)
def test_a_config_that_says_something_else_is_wrong_usage(
    disk: Disk, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    command = (*disk.trained, "--config", str(tmp_path / "recipe.toml"), "--budget", "70%")

    found = latprune("prune", *command, "--out", str(tmp_path / "run"))

    assert found.exit_code == 2
    assert said in words(found)
    assert not (tmp_path / "run").exists()
