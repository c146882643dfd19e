"""`latprune prune --steps` under real launchers, in two processes that talk over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

import latprune as lp
from latprune.surgery import load_plan
from latprune.tasks.models import load_model

if TYPE_CHECKING:
    from torch import Tensor

    from tests.cli.conftest import Disk

ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# 3 epochs of 2 steps in each of 2 processes
TRAINING = ("--epochs", "3", "--steps", "3", "--every", "2", "--train-precision", "no")
COURSE = ("--budget", "70%", *TRAINING)
PATIENCE_S = 600  # of a machine that does something else meanwhile


@dataclass(frozen=True)
class Run:
    """A folder, and what its processes left in it, latency tables too.

    What others measured might make a plan's sum of layers another one.
    """

    disk: Disk
    folder: Path

    def start(self, *launcher: str, dies: str = "") -> subprocess.CompletedProcess[str]:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "seen").mkdir(exist_ok=True)
        made = ("--runtime", "synthetic", "--out", str(self.folder / "out"), "--json")
        command = ("tests.cli.launched", "prune", *self.disk.trained, *self.disk.data, *COURSE)
        return subprocess.run(
            [sys.executable, "-m", *launcher, "-m", *command, *made],
            cwd=Path(__file__).parents[2],
            env={
                **os.environ,
                "LATPRUNE_CACHE": str(self.folder / "cache"),
                "SEEN": str(self.folder / "seen"),
                "DIES": dies,
            },
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def weights(self, file: str) -> dict[str, Tensor]:
        dense = load_model(self.disk.model[1])
        return lp.load(self.folder / file, dense).state_dict()

    def plan(self, file: str) -> lp.Plan:
        return load_plan(self.folder / file)

    def steps(self) -> list[int]:
        return [int((self.folder / "seen" / f"{rank}.steps").read_text()) for rank in range(2)]


def assert_same(one: Run, first: str, other: Run, second: str) -> None:
    plan, same = one.plan(first), other.plan(second)
    assert (plan.kept, plan.budget, plan.target) == (same.kept, same.budget, same.target)
    assert plan.predicted_ms == pytest.approx(same.predicted_ms, rel=1e-9)  # sums of a table
    weights = other.weights(second)
    for name, tensor in one.weights(first).items():
        assert torch.equal(tensor, weights[name]), name


@pytest.fixture(scope="module")
def unbroken(disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What two processes of `accelerate launch` make if nobody disturbs them."""
    run = Run(disk, tmp_path_factory.mktemp("unbroken"))
    ended = run.start(*ACCELERATE, "--main_process_port", "0")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == json.loads((run.folder / "out/report.json").read_text())
    return run


def test_every_process_has_the_network_that_the_first_one_writes(unbroken: Run) -> None:
    for file in ("seen/1.safetensors", "out/pruned.safetensors"):
        assert_same(unbroken, "seen/0.safetensors", unbroken, file)
    assert unbroken.steps() == [6, 6]
    assert json.loads((unbroken.folder / "out/report.json").read_text())["met"]


def test_a_run_that_lost_a_process_fails_and_the_same_command_ends_it(
    unbroken: Run, tmp_path: Path
) -> None:
    run = Run(unbroken.disk, tmp_path)

    broken = run.start(*TORCHRUN, dies="1:5")
    resumed = run.start(*TORCHRUN)

    assert broken.returncode != 0
    assert "SIGKILL" in broken.stderr
    assert not broken.stdout
    assert resumed.returncode == 0, resumed.stderr
    assert run.steps() == [2, 2]  # the four before were kept
    for file in ("seen/1.safetensors", "out/pruned.safetensors"):
        assert_same(unbroken, "seen/0.safetensors", run, file)
