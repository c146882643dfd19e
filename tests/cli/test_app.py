"""The commands do what they say, in one line of JSON or words, and leave with the right code."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
import torch

import latprune as lp
from latprune.cli import main
from latprune.latency.timing import Comparison, Measurement
from latprune.tasks.models import load_model
from tests.cli.conftest import latprune

if TYPE_CHECKING:
    from typer.testing import Result

    from tests.cli.conftest import Disk

FORMULA = ("--runtime", "synthetic")


@pytest.fixture(scope="module")
def pruned(disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A finished run: its folder, and what the command said."""
    out = tmp_path_factory.mktemp("out") / "run"
    options = ("--budget", "70%", "--epochs", "1", "--out", str(out), "--json")
    return out, latprune("prune", *disk.trained, *disk.data, *FORMULA, *options)


def test_version_is_the_packages() -> None:
    assert latprune("--version").stdout == f"latprune {lp.__version__}\n"


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
        latprune("plan", *model, *FORMULA, "--budget", "60%", option, "--json")
        for option in ("--branches", "--no-branches")
    ]

    assert [branch["name"] for branch in said["branches"]] == [f"blocks.{i}" for i in range(3)]
    assert all(f"{branch['name']}: with" in text for branch in said["branches"])
    assert [found.exit_code for found in plans] == [0, 3]
    assert 0 in [after for _, after in json.loads(plans[0].stdout)["widths"].values()]


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


def test_plan_cuts_nothing_and_keeps_to_the_budget_by_its_own_prediction(disk: Disk) -> None:
    found = latprune("plan", *disk.trained, *disk.data, *FORMULA, "--budget", "80%", "--json")

    said = json.loads(found.stdout)
    assert found.exit_code == 0
    assert said["predicted_ms"] <= said["budget_ms"]
    assert said["budget_ms"] == pytest.approx(0.8 * said["baseline_ms"])
    assert said["criterion"] == "taylor"
    assert all(0 < after <= before for before, after in said["widths"].values())


@pytest.mark.parametrize("criterion", ["taylor_squared", "fisher", "probe", "magnitude"])
def test_a_plan_can_be_made_by_every_criterion(disk: Disk, criterion: str) -> None:
    options = ("--budget", "80%", "--criterion", criterion, "--json")
    found = latprune("plan", *disk.trained, *disk.data, *FORMULA, *options)

    assert json.loads(found.stdout)["criterion"] == criterion


def test_of_several_criteria_prune_keeps_the_better_one_and_says_so(
    disk: Disk, tmp_path: Path
) -> None:
    options = ("--budget", "70%", "--epochs", "0", "--criterion", "taylor, fisher", "--json")
    found = latprune(
        "prune", *disk.trained, *disk.data, *FORMULA, *options, "--out", str(tmp_path / "run")
    )

    said = json.loads(found.stdout)
    assert set(said["reranked"]) == {"taylor", "fisher"}
    assert said["criterion"] == min(said["reranked"], key=said["reranked"].get)


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


def test_a_picture_of_no_known_format_is_wrong_usage(disk: Disk, tmp_path: Path) -> None:
    found = latprune("frontier", *disk.model, *FORMULA, "--plot", str(tmp_path / "frontier.doc"))

    assert found.exit_code == 2
    assert "doc" in found.stderr


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


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--model", "timm:no_such_network"], "no_such_network"),
        (["--model", "net"], "timm:NAME"),
        (["--weights", "no_such_file.safetensors"], "no_such_file.safetensors"),
        (["--data", "no_such_folder"], "no_such_folder"),
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


@pytest.mark.parametrize(("ratio", "code"), [(0.69, 0), (0.75, 4)])
def test_check_leaves_with_what_the_clock_says(
    disk: Disk,
    pruned: tuple[Path, Result],
    monkeypatch: pytest.MonkeyPatch,
    ratio: float,
    code: int,
) -> None:
    out, _ = pruned
    clock = Comparison(Measurement(1.0, 0.01, 9), Measurement(ratio, 0.01, 9), ratio, 0.001, 0.0003)
    monkeypatch.setattr("latprune.report.comparison.compare", lambda *_, **__: clock)

    saved = ("--pruned", str(out / "pruned.safetensors"))
    found = latprune("check", *disk.trained, *disk.data, *saved, "--json")

    assert found.exit_code == code
    assert json.loads(found.stdout)["ratio"] == ratio
    assert json.loads(found.stdout)["small"]["accuracy"] == accuracy_of(out)


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
        (["--precision", "int4"], "fp32 or int8"),
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


def test_without_its_libraries_the_command_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)

    with pytest.raises(SystemExit, match=r"pip install 'latprune\[cli\]'"):
        main()


def accuracy_of(out: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((out / "report.json").read_text())["small"]["accuracy"]
    return found


def never(*_: object, **__: object) -> None:
    raise AssertionError("this was done before")


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
