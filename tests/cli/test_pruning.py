"""`latprune prune` leaves a folder that loads, is left alone by others, and is gone on with."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import latprune as lp
from latprune.cli.folder import FolderTaken, RunFolder
from latprune.cli.job import Source
from latprune.tasks.models import load_model
from latprune.tuning.checkpoint import hash_of_weights
from tests.cli.conftest import FORMULA, latprune

if TYPE_CHECKING:
    from typer.testing import Result

    from tests.cli.conftest import Disk


@pytest.mark.parametrize(
    ("several", "names"),
    [
        (("--criterion", "taylor, fisher"), {"taylor", "fisher"}),
        (
            ("--criterion", "relative_taylor", "--solver", "joint, uniform"),
            {"relative_taylor, joint", "relative_taylor, uniform"},
        ),
    ],
)
def test_of_several_criteria_or_solvers_prune_keeps_the_best_and_says_so(
    disk: Disk, tmp_path: Path, several: tuple[str, ...], names: set[str]
) -> None:
    options = ("--budget", "70%", "--epochs", "0", *several, "--json")
    found = latprune(
        "prune", *disk.trained, *disk.data, *FORMULA, *options, "--out", str(tmp_path / "run")
    )

    said = json.loads(found.stdout)
    assert set(said["reranked"]) == names
    best = min(said["reranked"], key=said["reranked"].get)
    assert best in (said["criterion"], f"{said['criterion']}, {said['solver']}")


def test_prune_tunes_several_networks_on_trial(disk: Disk, tmp_path: Path) -> None:
    options = ("--budget", "70%", "--criterion", "taylor,relative_magnitude", "--json")
    tuning = ("--epochs", "1", "--train-precision", "no")
    asked = (*disk.trained, *disk.data, *FORMULA, *options, *tuning)

    said = [
        json.loads(latprune("prune", *asked, *trial, "--out", str(tmp_path / name)).stdout)
        for name, trial in (("as-cut", ()), ("on-trial", ("--trial-steps", "1")))
    ]

    as_cut, on_trial = (one["reranked"] for one in said)
    assert set(as_cut) == set(on_trial) == {"taylor", "relative_magnitude"}
    assert all(as_cut[name] != on_trial[name] for name in as_cut)
    another = latprune("prune", *asked, "--trial-steps", "2", "--out", str(tmp_path / "on-trial"))
    assert another.exit_code == 2
    assert "trial_steps was 1, is 2" in another.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--criterion", "taylor"], "there is one network"),
        ([], "there is one network"),
        (["--steps", "2", "--criterion", "relative_taylor"], "there is one network"),
        (["--criterion", "taylor,fisher", "--epochs", "0"], "give --data, and --epochs above 0"),
    ],
)
def test_a_trial_is_refused_where_there_is_nothing_to_try(
    disk: Disk, tmp_path: Path, options: list[str], said: str
) -> None:
    asked = (*disk.trained, *disk.data, *FORMULA, "--budget", "70%", "--trial-steps", "5", *options)
    found = latprune("prune", *asked, "--out", str(tmp_path / "run"))

    assert found.exit_code == 2
    assert said in " ".join(found.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--solver", "joint,magic"], "magic is none of"),
        (["--solver", "gredy"], "milp; did you mean greedy?"),
        (["--task", "detecting"], "classification, detection; did you mean detection?"),
        (["--criterion", "relative_fischer"], "did you mean relative_fisher?"),
        (["--solver", "joint,uniform"], "several solvers need --data"),
        (["--solver", "joint,uniform", "--steps", "3", "DATA"], "one solver chooses every cut"),
    ],
)
def test_several_solvers_are_refused_where_nothing_decides(
    disk: Disk, tmp_path: Path, options: list[str], said: str
) -> None:
    data = disk.data if "DATA" in options else ()
    given = [word for word in options if word != "DATA"]
    asked = (*disk.trained, *data, *FORMULA, "--budget", "70%", *given)

    found = latprune("prune", *asked, "--out", str(tmp_path / "run"))

    assert found.exit_code == 2
    assert said in " ".join(found.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("prune", ("--train-split", "train", "--budget", "70%", "--out", "DIR", "DATA")),
        ("plan", ("--test-split", "test", "--budget", "70%")),
        ("check", ("--train-split", "train", "--pruned", "PRUNED", "DATA")),
    ],
)
def test_the_splits_of_detectors_are_refused_for_classifiers(
    disk: Disk, pruned: tuple[Path, Result], tmp_path: Path, command: str, options: tuple[str, ...]
) -> None:
    known = {"DIR": str(tmp_path / "run"), "PRUNED": str(pruned[0])}
    data = disk.data if "DATA" in options else ()
    given = [known.get(word, word) for word in options if word != "DATA"]

    found = latprune(command, *disk.trained, *data, *given)

    assert found.exit_code == 2
    assert "it is for --task detection" in " ".join(found.stderr.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


def test_prune_writes_json_alone_to_stdout_and_leaves_with_its_verdict(
    pruned: tuple[Path, Result],
) -> None:
    out, found = pruned

    said = json.loads(found.stdout)

    assert said["met"]
    assert found.exit_code == 0
    assert said == json.loads((out / "report.json").read_text())
    assert said["verdict"] in " ".join((out / "report.txt").read_text().split())
    assert set(said["dense"]["accuracy"]) == {"top1"}
    assert 0 <= said["before_tuning"]["top1"] <= 1
    assert "measure" in found.stderr


def test_the_pruned_file_loads_into_a_freshly_built_network(
    disk: Disk, pruned: tuple[Path, Result]
) -> None:
    out, found = pruned

    small = lp.load(out / "pruned.safetensors", load_model(disk.model[1]))

    said = json.loads(found.stdout)
    assert sum(p.numel() for p in small.parameters()) == said["small"]["parameters"]


def test_the_same_command_again_gives_the_same_network_without_pruning_again(
    disk: Disk, pruned: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = pruned
    before = (out / "checkpoint" / "cut.safetensors").stat().st_mtime_ns
    weights = lp.load(out / "pruned.safetensors", load_model(disk.model[1])).state_dict()
    monkeypatch.setattr("latprune.bench.fit", never)

    options = ("--budget", "70%", "--epochs", "1", "--out", str(out))
    again = latprune("prune", *disk.trained, *disk.data, *FORMULA, *options)

    assert again.exit_code == 0
    assert (out / "checkpoint" / "cut.safetensors").stat().st_mtime_ns == before
    found = lp.load(out / "pruned.safetensors", load_model(disk.model[1])).state_dict()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_another_command_may_not_use_the_folder(disk: Disk, pruned: tuple[Path, Result]) -> None:
    out, _ = pruned

    options = ("--budget", "60%", "--epochs", "1", "--out", str(out))
    refused = latprune("prune", *disk.trained, *disk.data, *FORMULA, *options)

    assert refused.exit_code == 2
    assert "budget was 70%, is 60%" in " ".join(refused.stderr.replace("│", " ").split())


def test_other_weights_in_the_same_file_are_another_run(
    disk: Disk, pruned: tuple[Path, Result]
) -> None:
    out, _ = pruned
    file = disk.folder / "dense.safetensors"
    before = file.read_bytes()
    options = ("--budget", "70%", "--epochs", "1", "--out", str(out))
    try:
        save_file({name: 2 * tensor for name, tensor in load_file(file).items()}, file)
        refused = latprune("prune", *disk.trained, *disk.data, *FORMULA, *options)
    finally:
        file.write_bytes(before)

    assert refused.exit_code == 2
    assert "the hash of the weights was" in " ".join(refused.stderr.replace("│", " ").split())


def test_a_network_without_weights_is_the_same_every_time(disk: Disk) -> None:
    source = Source(disk.model[1])

    assert hash_of_weights(source.open().model) == hash_of_weights(source.open().model)


def test_the_same_files_by_other_paths_are_the_same_source(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Source(disk.model[1], disk.folder / "dense.safetensors")
    monkeypatch.chdir(disk.folder)

    here = Source("net.py:network", Path("dense.safetensors"))

    assert here.resolved() == there.resolved()
    assert Source("timm:resnet18").resolved().model == "timm:resnet18"


def test_a_file_is_no_folder_for_a_run(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()

    options = ("--budget", "60%", "--out", str(tmp_path / "taken"))
    refused = latprune("prune", *disk.model, *FORMULA, *options)

    assert refused.exit_code == 2
    assert "is a file" in refused.stderr


def test_what_the_system_refuses_is_one_line(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()

    options = ("--budget", "60%", "--out", str(tmp_path / "taken" / "run"))
    refused = latprune("prune", *disk.model, *FORMULA, *options)

    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[-1].startswith("error: ")
    assert "taken" in refused.stderr


def test_a_network_of_which_nothing_can_be_cut_is_not_called_too_narrow(disk: Disk) -> None:
    options = ("--budget", "60%", "--keep", "*")
    refused = latprune("plan", *disk.model, *FORMULA, *options)

    assert refused.exit_code == 3
    assert "why nothing of this network can be cut" in " ".join(refused.stderr.split())


def test_interrupted_in_tuning_the_same_command_goes_on_from_the_cut(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["prune", *disk.trained, *disk.data, *FORMULA, "--budget", "70%", "--epochs", "1"]
    with monkeypatch.context() as patch:
        patch.setattr("latprune.pipeline.tune", interrupt)
        stopped = latprune(*command, "--out", str(tmp_path))
    monkeypatch.setattr("latprune.bench.fit", never)

    resumed = latprune(*command, "--out", str(tmp_path))

    assert stopped.exit_code == 130
    assert "same command" in " ".join(stopped.stderr.split())
    assert resumed.exit_code == 0
    assert (tmp_path / "pruned.safetensors").is_file()


def test_a_budget_that_nothing_fits_is_said_with_the_floor(disk: Disk, tmp_path: Path) -> None:
    found = latprune(
        "prune", *disk.model, *FORMULA, "--budget", "0.001ms", "--out", str(tmp_path), "--json"
    )

    assert found.exit_code == 3
    assert found.stdout == ""
    assert "no network fits into 0.001 ms" in " ".join(found.stderr.split())


def test_a_folder_that_holds_no_network_yet_is_another_budgets(tmp_path: Path) -> None:
    RunFolder.claim(tmp_path / "run", "prune", {"budget": "1%"})

    raised = RunFolder.claim(tmp_path / "run", "prune", {"budget": "60%"})
    raised.checkpoint.mkdir()
    (raised.checkpoint / "cut.safetensors").touch()

    with pytest.raises(FolderTaken, match="budget was 60%, is 1%"):
        RunFolder.claim(tmp_path / "run", "prune", {"budget": "1%"})
    assert RunFolder.claim(tmp_path / "run", "prune", {"budget": "60%"}) == raised


def test_the_folder_of_another_command_is_not_compared_with_it(tmp_path: Path) -> None:
    folder = RunFolder.claim(tmp_path / "run", "prune", {"budget": "60%", "epochs": 5})
    folder.pruned.touch()

    with pytest.raises(FolderTaken, match=r"holds another run \(of prune, not of demo\)"):
        RunFolder.claim(tmp_path / "run", "demo", {"budget": "50%"})


@pytest.mark.parametrize(
    ("channels", "input", "said"),
    [
        (1, "1x16x16", None),
        (2, "2x16x16", "pictures have three channels, or one in grey"),
        (1, "3x16x16", "does not run on an input of 1x3x16x16"),
    ],
)
def test_pictures_come_in_the_networks_channels_or_are_refused(
    disk: Disk, tmp_path: Path, channels: int, input: str, said: str | None
) -> None:
    factory = tmp_path / "net.py"
    factory.write_text((disk.folder / "net.py").read_text().replace("(3, 32", f"({channels}, 32"))
    options = ("--input", input, "--budget", "70%", "--epochs", "1", "--train-precision", "no")

    found = latprune(
        *("prune", "--model", f"{factory}:network", *disk.data, *FORMULA, *options),
        *("--out", str(tmp_path / "run")),
    )

    assert (found.exit_code == 0) is (said is None)
    assert said is None or said in " ".join(found.stderr.split())
    assert ("Give its own, --input CxHxW" in found.stderr) is (input == "3x16x16")
    assert (tmp_path / "run").exists() is (said is None)


def test_a_network_that_is_all_frozen_is_not_tuned(disk: Disk, tmp_path: Path) -> None:
    factory = tmp_path / "net.py"
    lines = (disk.folder / "net.py").read_text().rstrip()
    assert lines.endswith(")")
    factory.write_text(f"{lines}.requires_grad_(False)\n")

    found = latprune(
        *("prune", "--model", f"{factory}:network", "--input", "3x16x16", *disk.data, *FORMULA),
        *("--budget", "70%", "--epochs", "1", "--out", str(tmp_path / "run")),
    )

    assert found.exit_code == 2
    assert "no parameter of the network takes gradients" in " ".join(found.stderr.split())
    assert not (tmp_path / "run").exists()


WORKS = """
import sys, pathlib
from latprune.cli.folder import RunFolder
folder = RunFolder.claim(pathlib.Path(sys.argv[1]), "prune", {"budget": "60%"})
with folder.held():
    print("at work", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-c", WORKS, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"at work\n"
        for budget in ("60%", "50%"):
            with pytest.raises(FolderTaken, match="Another process is at work"):
                RunFolder.claim(out, "prune", {"budget": budget})
        process.communicate(b"")

    assert json.loads((out / "run.json").read_text())["budget"] == "60%"
    with RunFolder.claim(out, "prune", {"budget": "60%"}).held():
        pass


def ended(*arguments: str) -> tuple[int, str]:
    result = latprune(*arguments)
    return result.exit_code, result.stderr


@pytest.mark.skipif(
    sys.platform != "linux" or torch.accelerator.is_available(), reason="forks after autograd"
)
# Python 3.12 and later warn of any fork beside threads.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_run_holds_its_folder_until_its_end(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (*disk.trained, *FORMULA, "--budget", "70%", "--out", str(tmp_path / "run"))
    keep, seen = RunFolder.keep, []

    def while_at_work(folder: RunFolder, *given: Any, **named: Any) -> None:
        with multiprocessing.get_context("fork").Pool(1) as another:
            seen.append(another.apply(ended, ("prune", *asked)))
        keep(folder, *given, **named)

    monkeypatch.setattr(RunFolder, "keep", while_at_work)

    assert latprune("prune", *asked).exit_code == 0
    ((exit_code, said),) = seen
    assert exit_code == 2
    assert "Another process is at work" in " ".join(said.replace("│", " ").split())


def never(*_: object, **__: object) -> None:
    raise AssertionError("this was done before")


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("share", ["2", "0", "nan"])
def test_a_crop_that_is_no_share_is_wrong_usage(disk: Disk, tmp_path: Path, share: str) -> None:
    options = ("--budget", "70%", "--crop-pct", share, "--out", str(tmp_path / "run"))
    refused = latprune("prune", *disk.trained, *FORMULA, *options)

    assert refused.exit_code == 2
    assert "--crop-pct" in refused.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("option", ["--lr", "--warmup-epochs", "--weight-decay", "--clip-norm"])
def test_a_number_that_is_not_finite_is_wrong_usage(
    disk: Disk, tmp_path: Path, option: str, value: str
) -> None:
    options = ("--budget", "70%", option, value, "--out", str(tmp_path / "run"))
    refused = latprune("prune", *disk.trained, *FORMULA, *options)

    assert refused.exit_code == 2
    assert f"{float(value)} is no number" in " ".join(refused.stderr.replace("│", " ").split())
    assert not (tmp_path / "run").exists()
