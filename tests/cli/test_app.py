"""The commands do what they say, in one line of JSON or words, and leave with the right code."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from safetensors.torch import load_file, save_file

import latprune as lp
from latprune.cli import main
from latprune.cli.app import app
from tests.cli.conftest import FORMULA, latprune

if TYPE_CHECKING:
    from tests.cli.conftest import Disk


def test_version_is_the_packages() -> None:
    assert latprune("--version").stdout == f"latprune {lp.__version__}\n"


def words_of_help() -> list[list[str]]:
    commands: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    tables = [["table", name] for name in vars(commands["table"])["commands"]]
    return [[*words, "--help"] for words in ([], *([name] for name in commands), *tables)]


@pytest.mark.parametrize(
    "words",
    [["--version"], *words_of_help(), ["prun"], ["plan"], ["prune", "--budgt", "50%"]],
    ids=" ".join,
)
def test_what_computes_nothing_does_not_wait_for_torch(words: list[str]) -> None:
    start = "import atexit, sys, latprune_command; atexit.register(lambda: print(*sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", f"{start}; latprune_command.main()", *words],
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )

    loaded = found.stdout.splitlines()[-1].split()
    assert found.returncode == (0 if words[-1] in ("--version", "--help") else 2)
    assert "latprune.cli.app" in loaded
    assert not {"torch", "numpy", "onnxruntime", "matplotlib"} & set(loaded)


def test_measure_says_what_the_network_takes_and_where_the_table_is(disk: Disk) -> None:
    found = latprune("measure", *disk.model, "--runtime", "eager", "--json")

    said = json.loads(found.stdout)
    assert found.exit_code == 0
    assert said["dense"]["median_ms"] > 0
    assert said["target"]["runtime"] == "eager"
    assert said["interpolation"]["points"] > 0
    assert 0 <= said["interpolation"]["median_error"] < 10
    assert "about" in found.stderr
    assert len(Path(said["table"]).read_text().splitlines()) > said["measurements"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--budget", "50"],
        ["--budget", "50%", "--runtime", "abacus"],
        ["--budget", "50%", "--precision", "fp1"],
        ["--budget", "50%", "--input", "16x16"],
        ["--budget", "50%", "--criterion", "taylor"],
        ["--budget", "50%", "--criterion", "taste"],
        ["--budget", "50%", "--criterion", "taylor,fisher"],
        ["--budget", "50%", "--batch", "0"],
        [],
    ],
)
def test_wrong_usage_is_told_from_failure(disk: Disk, arguments: list[str]) -> None:
    found = latprune("plan", *disk.model, *arguments)

    assert found.exit_code == 2
    assert found.stdout == ""
    assert "--" in found.stderr


def test_a_runtime_of_a_near_name_is_asked_for(disk: Disk) -> None:
    found = latprune("plan", *disk.model, "--budget", "50%", "--runtime", "onnxruntme")

    assert found.exit_code == 2
    said = " ".join(found.stderr.replace("│", " ").split())
    assert "did you mean onnxruntime?" in said


def test_numbers_that_processors_are_slow_with_are_told_in_a_line(
    disk: Disk, tmp_path: Path
) -> None:
    weights = load_file(disk.folder / "dense.safetensors")
    weights["0.weight"][:2] = 1e-40
    save_file(weights, tmp_path / "slow.safetensors")
    options = ("--weights", str(tmp_path / "slow.safetensors"), "--budget", "70%")

    found = latprune("plan", *disk.model, *FORMULA, *options)

    assert found.exit_code == 0
    told = [line for line in found.stderr.splitlines() if "warning" in line]
    assert told == [line for line in told if "54 weights or statistics" in line]
    assert len(told) == 1
    assert told[0].endswith("They are set to zero, in the dense network, too")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--model", "timm:no_such_network"], "no_such_network"),
        (["--model", "net"], "timm:NAME"),
        (["--weights", "no_such_file.safetensors"], "no_such_file.safetensors"),
        (["--data", "no_such_folder"], "no_such_folder"),
        (["--data", "hf:"], "names no data set"),
    ],
)
def test_a_failure_is_one_line_without_a_traceback(
    disk: Disk, options: list[str], named: str
) -> None:
    found = latprune("plan", *disk.model, *FORMULA, "--budget", "50%", *options)

    last = found.stderr.splitlines()[-1]
    assert found.exit_code == 1
    assert found.stdout == ""
    assert last.startswith("error: ")
    assert named in last
    assert "Traceback" not in found.stderr


def test_debug_shows_where_it_failed(disk: Disk) -> None:
    with pytest.raises(lp.DamagedFile):
        latprune("--debug", "plan", *disk.model, "--weights", "nothing.pt", "--budget", "50%")


def test_without_its_libraries_the_command_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)

    with pytest.raises(SystemExit, match=r"pip install 'latprune\[cli\]'"):
        main()


def test_what_a_consoles_encoding_lacks_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    console = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(console, encoding="cp1252"))
    monkeypatch.setattr("sys.argv", ["latprune", "--version"])

    with pytest.raises(SystemExit):
        main()
    print("12 ms → 7 ms", flush=True)

    assert console.getvalue().decode("cp1252").splitlines()[-1] == "12 ms ? 7 ms"


def test_interrupted_before_a_command_runs_it_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("latprune.cli.app.app", interrupt)

    with pytest.raises(SystemExit) as left:
        main()

    assert left.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("imported", ["typer", "rich", "torch"])
def test_interrupted_during_an_import_it_says_so_in_a_line(tmp_path: Path, imported: str) -> None:
    (tmp_path / f"{imported}.py").write_text("raise KeyboardInterrupt\n", encoding="utf-8")
    start = "import sys; sys.path.insert(0, sys.argv.pop()); import latprune_command as command"
    traced = ("trace", "--model", "net")
    found = subprocess.run(
        [sys.executable, "-c", f"{start}; command.main()", *traced, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )

    assert (found.returncode, found.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize(
    "options",
    [["--input", "3x9999999x9999999"], ["--input", f"3x{10**20}x9"], ["--batch", "9999999999"]],
)
def test_an_input_that_no_memory_holds_is_a_failure_in_one_line(
    disk: Disk, options: list[str]
) -> None:
    found = latprune("plan", *disk.model, *FORMULA, "--budget", "50%", *options)

    assert found.exit_code == 1
    assert "does not fit into memory" in found.stderr.splitlines()[-1]
