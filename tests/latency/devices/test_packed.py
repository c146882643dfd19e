"""A device that files are carried to: pack here, time there, read here."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import venv
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import latprune as lp
from latprune.errors import DamagedResults, DeviceError, JobsPacked, StaleTable
from latprune.latency.devices import launch, runner
from latprune.latency.devices.packed import Packed, unpack
from latprune.latency.devices.packing import RUNNER, sources
from latprune.latency.sentinel import SENTINEL
from latprune.latency.table import LatencyTable
from latprune.latency.timing import Measurement
from tests.latency.devices.clock import RATIO, Clock

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = torch.zeros(1, 3, 16, 16)
GUARD = """
import sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "onnxscript", "safetensors"):
            raise ModuleNotFoundError(f"{name} is not on the device", name=name)

sys.meta_path.insert(0, Guard())
import runpy
jobs, results = sys.argv[1:]
sys.argv = ["runner.py", jobs, results]
try:
    runpy.run_path("runner.py", run_name="__main__")
finally:
    import latprune
    assert latprune.__file__.startswith(jobs), latprune.__file__
"""


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)),
    ).eval()


class Desk:
    """Where jobs are packed and results are read; the device is the folder `there`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.there = folder / "there"
        self.there.mkdir()
        self.jobs = self.there / "jobs.zip"
        self.results = self.there / "results.jsonl"
        self.table: Path | None = None
        self.model = tiny()
        self.graph = lp.trace(self.model, EXAMPLE)

    def measure(self) -> LatencyTable:
        device = Packed(self.table, jobs=self.jobs, then=["latprune", "measure"])
        return lp.measure(self.model, self.graph, EXAMPLE, device.target(), device=device)

    def pack(self) -> JobsPacked:
        with pytest.raises(JobsPacked) as packed:
            self.measure()
        return packed.value

    def run(self) -> int | str:
        return runner.run(str(self.jobs), str(self.results))

    def unpack(self) -> lp.Unpacked:
        found = unpack(self.results, folder=self.folder)
        self.table = found.table.path
        return found

    @property
    def keys(self) -> list[str]:
        return [line["job"] for line in self.lines if "job" in line]

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.results.read_text().splitlines()]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def desk(tmp_path: Path, clock: Clock) -> Desk:
    return Desk(tmp_path)


def test_after_two_rounds_nothing_is_missing(desk: Desk) -> None:
    rounds = []
    for _ in range(2):
        rounds.append(desk.pack().round)
        assert desk.run() == 0
        assert desk.unpack().failed == ()

    table = desk.measure()

    assert rounds == [1, 2]
    assert table.target == lp.Target.here()  # this machine stood in for the device
    assert table.network(desk.graph).median_ms > 0
    plan = lp.plan(desk.graph, table, lp.magnitude(desk.model, desk.graph), lp.Budget(fraction=0.9))
    assert plan.predicted_ms <= 0.9 * plan.baseline_ms


def test_layers_are_timed_as_far_apart_there_as_they_would_be_here(
    desk: Desk, clock: Clock
) -> None:
    desk.pack()
    desk.run()

    weights = 16 * 3 * 9 + 16 * 4
    assert clock.aparts == {4 * weights // 2}


def test_a_runner_of_somebody_elses_is_not_replaced(desk: Desk) -> None:
    own = desk.there / RUNNER
    own.write_text("train()\n")

    with pytest.raises(DeviceError, match=r"runner\.py is not latprune's"):
        Packed(jobs=desk.jobs)

    assert own.read_text() == "train()\n"
    assert not desk.jobs.exists()


def test_a_runner_of_another_version_is_replaced(desk: Desk) -> None:
    desk.pack()
    ours = desk.there / RUNNER
    text = ours.read_text()
    ours.write_text(text + "# as it once was\n")

    desk.pack()

    assert ours.read_text() == text


def test_packing_that_is_interrupted_leaves_the_jobs_that_were_there(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(JobsPacked):
        desk.measure()
    before = desk.jobs.read_bytes()

    def interrupted(*_: object, **__: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("latprune.latency.devices.packing.lzma.compress", interrupted)
    with pytest.raises(KeyboardInterrupt):
        desk.measure()

    assert desk.jobs.read_bytes() == before
    assert {path.name for path in desk.there.iterdir()} == {desk.jobs.name, RUNNER}


def test_the_loop_closes_by_hand(desk: Desk) -> None:
    for _ in range(2):
        desk.pack()
        desk.run()
        desk.unpack()
    carried = 0
    while carried < 20:
        device = Packed(desk.table, jobs=desk.jobs)
        try:
            pruned = lp.prune(
                desk.model,
                EXAMPLE,
                "70%",
                target=device.target(),
                device=device,
                checkpoint=desk.folder / "checkpoint",
            )
            break
        except JobsPacked:
            carried += 1
            assert desk.run() == 0
            desk.unpack()

    assert 1 < carried < 20
    assert pruned.report.ratio == pytest.approx(RATIO, abs=1e-4)
    table = desk.measure()
    timed = [cut.widths for cut in table.every_cut[desk.graph.key]]
    assert timed.count(pruned.plan.widths) >= 2  # in the loop, and after


def test_what_the_device_needs_comes_with_the_jobs(desk: Desk) -> None:
    desk.pack()

    done = subprocess.run(
        [sys.executable, "-I", "-c", GUARD, desk.jobs.name, desk.results.name],
        cwd=desk.there,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "everything is timed" in done.stderr
    assert desk.unpack().table.network(desk.graph).median_ms > 0


def test_a_python_with_numpy_and_onnx_runtime_alone_is_enough(desk: Desk) -> None:
    python = str(desk.folder / "venv" / "bin" / "python")
    venv.create(desk.folder / "venv", with_pip=True)
    command = [python, "-m", "pip", "install", "--quiet", "numpy", "onnxruntime"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=180)
    except subprocess.SubprocessError as error:
        pytest.skip(f"pip cannot install onnxruntime here: {error}")
    desk.pack()

    done = subprocess.run(
        [python, RUNNER, desk.jobs.name, desk.results.name],
        cwd=desk.there,
        capture_output=True,
        text=True,
        check=False,
        env={},
    )

    assert done.returncode == 0, done.stderr
    assert desk.unpack().added == len(desk.keys)


def test_no_packed_source_imports_what_a_device_lacks() -> None:
    allowed = {"latprune", "numpy", "__future__", *sys.stdlib_module_names}

    for name, source in sources().items():
        tree = ast.parse(source, feature_version=(3, 10))
        top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        imported = {
            module.partition(".")[0]
            for node in top
            for module in (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
        }
        assert imported <= allowed, name


def test_a_runner_that_was_killed_goes_on_and_drops_the_half_written_line(desk: Desk) -> None:
    desk.pack()
    desk.run()
    whole = desk.keys
    lines = desk.results.read_bytes().splitlines(keepends=True)
    desk.results.write_bytes(b"".join(lines[:6]) + lines[6][:20])

    assert desk.run() == 0

    assert sorted(desk.keys) == sorted(whole)


def test_ctrl_c_keeps_what_is_done(
    desk: Desk, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.pack()
    monkeypatch.setattr(runner, "_TOGETHER", 2)
    clock.interrupts_after = 3
    assert desk.run() == 130
    first = desk.keys
    clock.interrupts_after = None
    assert desk.run() == 0

    assert len(first) == 1 + 2 * 2  # the sentinel, and two parts
    assert desk.keys[: len(first)] == first
    assert len(set(desk.keys)) == len(desk.keys)


def test_a_job_that_fails_is_named_and_the_others_are_timed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.pack()
    read = runner._Files.read
    broken = next(
        job["models"][0]
        for job in json.loads(zipfile.ZipFile(desk.jobs).read("manifest.json"))["jobs"]
    )
    with monkeypatch.context() as patch:
        patch.setattr(
            runner._Files, "read", lambda files, name: b"?" if name == broken else read(files, name)
        )
        assert desk.run() == 1

    found = desk.unpack()
    (sentence,) = found.failed
    assert "DecodeError" in sentence
    assert found.added == len(desk.keys) - 1
    assert desk.run() == 0  # tried again
    assert desk.unpack().failed == ()
    assert desk.unpack().added == 0  # reading twice changes nothing


def test_results_of_another_device_are_not_added_to(desk: Desk) -> None:
    desk.pack()
    write_header(desk, device="another")

    assert "holds what was timed on" in str(desk.run())


def test_jobs_for_a_known_device_are_refused_by_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.pack()
    desk.run()
    desk.unpack()
    desk.pack()
    monkeypatch.setattr(runner, "processor", lambda: "another")

    assert "these jobs are for" in str(desk.run())


def test_results_at_a_pace_of_their_own_are_brought_to_the_tables(desk: Desk) -> None:
    first, narrow, wide = (replace(SENTINEL, in_channels=width) for width in (64, 32, 96))
    file = desk.folder / "table.jsonl"
    table = LatencyTable.open(file, lp.Target.here())
    table.add(SENTINEL, Measurement(1.0, 0.01, 24))
    table.add(narrow, Measurement(0.5, 0.01, 24))
    write_header(desk)
    slower = [
        {"shape": first.to_json(), **Measurement(1.25, 0.01, 24).to_json()},
        {"shape": wide.to_json(), **Measurement(1.5 * 1.25, 0.01, 24).to_json()},
        {"network": "a", **Measurement(7 * 1.25, 0.01, 24).to_json()},
    ]
    with desk.results.open("a") as lines:
        lines.writelines(json.dumps({"job": str(n), **one}) + "\n" for n, one in enumerate(slower))

    found = unpack(desk.results, table_file=file)

    assert found.added == 2
    for known in (found.table, LatencyTable.read(file)):
        times = {shape.in_channels: round(known[shape].median_ms, 9) for shape in known}
        assert times == {64: 1.0, 32: 0.5, 96: 1.5}
        assert known.networks["a"].median_ms == pytest.approx(7.0)
    assert unpack(desk.results, table_file=file).added == 0


def test_a_table_of_other_settings_is_refused(desk: Desk) -> None:
    desk.pack()
    desk.run()
    desk.unpack()

    with pytest.raises(StaleTable, match="2 threads"):
        Packed(desk.table).target(threads=2)


def test_what_is_missing_without_a_file_to_pack_to_is_an_error(desk: Desk) -> None:
    desk.pack()
    desk.run()
    desk.unpack()

    with pytest.raises(DeviceError, match="--pack"):
        lp.measure(
            desk.model,
            desk.graph,
            EXAMPLE,
            Packed(desk.table).target(),
            device=Packed(desk.table),
        )


def write_header(desk: Desk, **changes: object) -> None:
    target = {**lp.Target.here().to_json(), **changes}
    header = {"format": "latprune-results", "version": 1, "target": target}
    desk.results.write_text(json.dumps(header) + "\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: the file is empty"),
        ("nonsense\n", "line 1"),
        ('{"format": "latprune-table", "version": 1}\n', "not 'latprune-results'"),
        ('{"format": "latprune-results", "version": 2}\n', "version 2 is not version 1"),
    ],
)
def test_a_file_that_holds_no_results_is_refused(desk: Desk, text: str, said: str) -> None:
    desk.results.write_text(text)

    with pytest.raises(DamagedResults, match=said):
        unpack(desk.results, folder=desk.folder)


def test_an_empty_line_says_nothing(desk: Desk) -> None:
    desk.pack()
    desk.run()
    header, *others = desk.results.read_text().splitlines()
    desk.results.write_text("\n".join([header, "", *others, ""]) + "\n")

    assert desk.unpack().added == len(others) - sum("then" in line for line in others)


def test_a_damaged_line_is_named(desk: Desk) -> None:
    write_header(desk)
    with desk.results.open("a") as file:
        file.write('{"then": []}\n{"job": "a", "shape": {}, "median_ms"\n{"job": "b"}\n')

    with pytest.raises(DamagedResults, match="line 3"):
        unpack(desk.results, folder=desk.folder)


def test_a_line_without_a_measurement_is_named_by_its_job(desk: Desk) -> None:
    write_header(desk)
    with desk.results.open("a") as file:
        file.write('{"job": "abc", "shape": {}, "median_ms": -1, "iqr_ms": 0, "runs": 1}\n')

    with pytest.raises(DamagedResults, match="job abc"):
        unpack(desk.results, folder=desk.folder)


def test_results_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DamagedResults, match="no such file"):
        unpack(tmp_path / "results.jsonl")


def test_the_runner_without_its_two_files_says_how_to_call_it() -> None:
    assert "jobs.zip results.jsonl" in str(launch.launch([]))


def test_an_old_python_is_told_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 8, 0))

    assert "3.10 is needed" in str(launch.launch(["jobs.zip", "results.jsonl"]))


def test_jobs_that_are_missing_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "jobs.zip"

    assert f"error: there is no file {missing}" in str(launch.launch([str(missing), "-"]))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9, 1.0])
def test_jobs_that_are_damaged_are_named(desk: Desk, share: float) -> None:
    desk.pack()
    whole = desk.jobs.read_bytes()
    middle = int(share * (len(whole) - 40))
    for damaged in (whole[:middle], whole[:middle] + bytes(40) + whole[middle + 40 :]):
        desk.jobs.write_bytes(damaged)

        found = str(launch.launch([str(desk.jobs), "-"]))

        assert found.startswith(f"error: {desk.jobs} is damaged")
        assert "copy it here again" in found


def test_something_else_than_jobs_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "jobs.zip").write_text("no zip")

    assert "error: File is not a zip" in str(runner.run(str(tmp_path / "jobs.zip"), "-"))
