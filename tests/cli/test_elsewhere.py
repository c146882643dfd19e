"""A user follows what the command line prints, and another device is measured."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest

from latprune.latency.devices import runner
from latprune.latency.table import LatencyTable
from tests.cli.conftest import latprune
from tests.latency.devices.clock import Clock

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

    from tests.cli.conftest import Disk

PACKED = 5


@pytest.fixture(autouse=True)
def own_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    monkeypatch.setenv("LATPRUNE_CACHE", str(tmp_path / "tables"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["net.py", "runner.py", "pictures.zip", "jobs"])
def test_jobs_take_no_other_files_place(disk: Disk, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")

    said = latprune("measure", *disk.model, "--pack", name)

    assert said.exit_code == 2
    assert "--pack" in said.stderr
    assert (tmp_path / name).read_text() == "mine"


def carried(packed: Result) -> str:
    """Do on the device what was printed, read the results, and give the command to go on with."""
    *_, there, _, here = packed.stdout.splitlines()
    _, _, _, *files = shlex.split(there)
    assert runner.run(*files[1:]) == 0
    found = latprune(*shlex.split(here)[1:])
    assert found.exit_code == 0
    (after,) = [line for line in found.stdout.splitlines() if line.startswith("go on with: ")]
    return after.removeprefix("go on with: ")


@pytest.mark.parametrize("name", ["my jobs.zip", "bob's.zip", "a:b.zip"])
def test_what_is_printed_can_be_pasted_whatever_files_are_called(
    disk: Disk, tmp_path: Path, name: str
) -> None:
    packed = latprune("measure", *disk.model, "--pack", name)

    *_, copied, there, _, _ = packed.stdout.splitlines()
    over_there = " ".join(shlex.split(there)[2:])  # as ssh joins words for the other shell
    assert (tmp_path / shlex.split(copied)[1]).is_file()
    assert shlex.split(copied)[1].startswith("./") == (":" in name)
    assert shlex.split(over_there) == ["python3", "runner.py", name, "results.jsonl"]


def finished(first: list[str]) -> tuple[list[Result], Result]:
    """Carry until nothing is missing: the rounds, and the result."""
    rounds: list[Result] = []
    found = latprune(*first)
    while found.exit_code == PACKED:
        rounds.append(found)
        found = latprune(*shlex.split(carried(found))[1:])
    return rounds, found


def test_what_is_printed_leads_to_a_table_and_a_plan(disk: Disk, tmp_path: Path) -> None:
    rounds, measured = finished(["measure", *disk.model, "--pack", "jobs.zip"])
    (table,) = (tmp_path / "tables").iterdir()
    plan = ["plan", *disk.model, "--budget", "90%", "--table", str(table), "--pack", "jobs.zip"]
    more, planned = finished([*plan, "--no-branches"])

    assert [said.stdout.split(",")[0] for said in rounds] == ["round 1 of 2", "round 2 of 2"]
    assert "takes 0.900 ms" in measured.stdout
    assert planned.exit_code == 0
    assert all("went to jobs.zip" in said.stdout for said in more)
    assert "budget 90%" in planned.stdout


def test_a_runner_of_ones_own_is_not_replaced(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "runner.py").write_text("train()\n")

    found = latprune("measure", *disk.model, "--pack", "jobs.zip")

    assert found.exit_code == 2
    assert "runner.py is not latprune's" in " ".join(found.stderr.replace("│", "").split())
    assert (tmp_path / "runner.py").read_text() == "train()\n"


def test_as_json_the_steps_are_data(disk: Disk) -> None:
    packed = latprune("measure", *disk.model, "--pack", "jobs.zip", "--json")

    said = json.loads(packed.stdout)
    assert packed.exit_code == PACKED
    assert (said["packed"], said["runner"], said["round"]) == ("jobs.zip", "runner.py", 1)


def test_results_can_go_to_a_table_of_ones_own(disk: Disk, tmp_path: Path) -> None:
    latprune("measure", *disk.model, "--pack", "jobs.zip")
    runner.run("jobs.zip", "results.jsonl")

    found = latprune("measure", "--unpack", "results.jsonl", "--table", "pi.jsonl", "--json")

    said = json.loads(found.stdout)
    assert said["table"] == "pi.jsonl"
    assert said["next"].endswith("--pack jobs.zip --table pi.jsonl")
    assert len(LatencyTable.read(tmp_path / "pi.jsonl")) > 0


def test_options_that_reading_results_would_ignore_are_wrong_usage(tmp_path: Path) -> None:
    ignored = ("--model", "m", "--threads", "2", "--pack", "jobs.zip", "--table", "t", "--json")

    found = latprune("measure", "--unpack", "results.jsonl", *ignored)

    said = " ".join(found.stderr.replace("│", " ").split())
    assert found.exit_code == 2
    assert "leave out" in said
    assert all((word in said) == (word in ignored[:6:2]) for word in ignored[::2])


def test_a_job_that_failed_on_the_device_is_said(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    latprune("measure", *disk.model, "--pack", "jobs.zip")
    monkeypatch.setattr(runner, "time_whole", lambda run, **_: 1 / 0)
    runner.run("jobs.zip", "results.jsonl")

    found = latprune("measure", "--unpack", "results.jsonl")

    assert found.exit_code == 1
    assert "failed there: ZeroDivisionError" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["measure"], "which network"),
        (["measure", "--model", "m", "--on", "pi"], "ssh://"),
        (["measure", "--model", "m", "--on", "ssh://pi", "--pack", "j.zip"], "leave out --table"),
        (["measure", "--model", "m", "--pack", "j.zip", "--runtime", "eager"], "only onnxruntime"),
        (
            ["plan", "--model", "m", "--budget", "1ms", "--pack", "j.zip"],
            "measure the device first",
        ),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(arguments: list[str], said: str) -> None:
    found = latprune(*arguments)

    assert found.exit_code == 2
    assert said in " ".join(found.stderr.replace("│", "").split())
