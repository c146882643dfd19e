"""`latprune table` shows, compares, joins and checks tables, and damages none."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from latprune.cli.stairway import picture
from latprune.latency import runtimes
from latprune.latency.lines import kernels
from latprune.latency.sentinel import SENTINEL
from latprune.latency.staircase import lines_needed
from latprune.latency.table import LatencyTable
from latprune.latency.target import Target
from latprune.latency.timing import Measurement
from tests.cli.conftest import latprune
from tests.latency.synthetic import TARGET, Processor, conv, network

if TYPE_CHECKING:
    from pathlib import Path

    from latprune.graph.layers import LayerShape


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The table of a processor with steps of 8 read and 16 written."""
    return written(tmp_path / "table.jsonl", Processor(reads_step=8, writes_step=16))


def written(path: Path, processor: Processor, *, target: Target = TARGET) -> Path:
    shapes = (*lines_needed(network()), *(layer.shape for layer in network().layers))
    layers = {shape: Measurement(processor.ms(shape), 0.01, 10) for shape in shapes}
    whole = {network().key: Measurement(9.0, 0.1, 10)}
    LatencyTable.of(target, layers, networks=whole, every_cut={}).write(path)
    return path


def test_show_tells_target_counts_and_steps_in_80_columns(file: Path) -> None:
    found = latprune("table", "show", str(file))

    assert found.exit_code == 0
    assert TARGET.describe() in " ".join(found.stdout.split())
    assert "1 whole network" in found.stdout
    assert "conv 1x1" in found.stdout
    assert "●" in found.stdout
    assert max(len(line.rstrip()) for line in found.stdout.splitlines()) <= 80


def test_in_a_narrow_terminal_tables_are_lists(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    shown = latprune("table", "show", str(file))
    compared = latprune("table", "diff", str(file), str(file))

    picture_of = [line for line in shown.stdout.splitlines() if "●" in line or "ms" in line]
    assert "least ms 0." in " ".join(shown.stdout.split())
    assert "median 1.000" in " ".join(compared.stdout.split())
    for found in (shown, compared):
        assert max(len(line.rstrip()) for line in found.stdout.splitlines()) <= 40
        assert "…" not in found.stdout.replace(" … ", "")
    assert len(picture_of) > 20


@pytest.mark.parametrize("chosen", ["depthwise", "*wise conv", "4"])
def test_a_kernel_is_chosen_by_number_or_by_a_part_of_its_name(file: Path, chosen: str) -> None:
    listed = json.loads(latprune("table", "show", str(file), "--json").stdout)["kernels"]
    said = json.loads(latprune("table", "show", str(file), "--layer", chosen, "--json").stdout)

    names = [kernel["name"] for kernel in said["drawn"]]
    by_number = [kernel["name"] for kernel in listed if str(kernel["number"]) == chosen]
    assert names == (by_number or ["depthwise conv 3x3"])


def test_show_as_json_has_every_point_of_the_staircase(file: Path) -> None:
    said = json.loads(latprune("table", "show", str(file), "--layer", "conv 1x1", "--json").stdout)

    lines = {line["axis"]: line for line in said["drawn"][0]["lines"]}
    assert said["target"] == TARGET.to_json()
    assert (lines["reads"]["step"], lines["writes"]["step"]) == (8, 16)
    assert [len(line["points"]) for line in lines.values()] == [20, 20]
    assert lines["reads"]["points"][0]["measured"]["iqr_ms"] == 0.01


def test_a_kernel_that_the_table_lacks_is_wrong_usage(file: Path) -> None:
    for asked in ("lstm", "0", "99"):
        found = latprune("table", "show", str(file), "--layer", asked)

        assert found.exit_code == 2
        assert "conv 3x3" in found.stderr


@pytest.mark.parametrize("columns", [80, 120, 30])
def test_a_picture_shows_steps_as_brackets_and_keeps_to_its_columns(
    file: Path, columns: int
) -> None:
    found = {kernel.name: kernel for kernel in kernels(LatencyTable.read(file))}["conv 1x1"]
    line = next(line for line in found.lines if line.axis == "writes")

    said, finding, _, *rows = (text.plain for text in picture(line, columns=columns))

    assert "4 … 96" in said
    assert finding.startswith("steps of 16 channels written")
    assert "".join(row[26] for row in rows[:16]) == "┌││└" * 4
    assert all(len(row) <= max(columns, 49) for row in rows)
    medians = [row.index("●") for row in rows[:16]]
    assert medians == sorted(medians)
    assert len(set(medians)) == 4


def test_a_kernel_without_a_staircase_says_why(file: Path) -> None:
    whole = LatencyTable.read(file)
    slow = replace(conv(64, 64, size=64), stride=(2, 2))
    LatencyTable.open(file, TARGET).add(slow, Measurement(99.0, 0.0, 1))
    LatencyTable.open(file, TARGET).add(SENTINEL, Measurement(1.0, 0.0, 1))

    asked = latprune("table", "show", str(file), "--layer", "1").stdout
    default = json.loads(latprune("table", "show", str(file), "--json").stdout)

    assert "no staircase" in asked
    assert default["layers"] == len(whole) + 2
    assert [kernel["number"] for kernel in default["drawn"]] == [2]


def test_an_empty_table_shows_that_it_holds_nothing(tmp_path: Path) -> None:
    LatencyTable(TARGET).write(tmp_path / "table.jsonl")

    found = latprune("table", "show", str(tmp_path / "table.jsonl"))

    assert found.exit_code == 0
    assert "0 layers" in found.stdout


def test_names_in_brackets_are_shown_as_they_are(tmp_path: Path) -> None:
    target = replace(TARGET, device="CPU [bold]", runtime_version="[/1]")
    path = str(written(tmp_path / "[red].jsonl", Processor(), target=target))

    shown, differing = latprune("table", "show", path), latprune("table", "diff", path, path)

    for found in (shown, differing):
        assert "CPU [bold]" in found.stdout
        assert "[/1]" in found.stdout
    assert "[red].jsonl" in "".join(shown.stdout.split())


def test_diff_says_how_much_slower_a_target_is_and_what_is_in_one_alone(
    file: Path, tmp_path: Path
) -> None:
    other = replace(TARGET, threads=2)
    second = tmp_path / "second.jsonl"
    halved = {
        shape: replace(one, median_ms=one.median_ms / 2)
        for shape, one in LatencyTable.read(file).items()
    }
    halved[conv(9, 9)] = Measurement(1.0, 0.0, 1)
    LatencyTable.of(other, halved, networks={}, every_cut={}).write(second)

    said = json.loads(latprune("table", "diff", str(file), str(second), "--json").stdout)
    words = latprune("table", "diff", str(file), str(second)).stdout

    assert said["ratios"]["median"] == pytest.approx(0.5)
    assert said["different"] == ["threads"]
    assert (said["only_first"], said["only_second"]) == (0, 1)
    assert "0 only in A, 1 only in B" in words
    assert other.describe() in " ".join(words.split())
    assert "0.500" in words


def test_diff_of_a_table_with_itself_is_one(file: Path) -> None:
    said = json.loads(latprune("table", "diff", str(file), str(file), "--json").stdout)

    assert said["ratios"]["median"] == 1
    assert [pair["ratio"] for pair in said["networks"]] == [1]


def test_diff_of_tables_without_a_common_layer_says_so(file: Path, tmp_path: Path) -> None:
    LatencyTable(TARGET).write(tmp_path / "none.jsonl")

    found = latprune("table", "diff", str(file), str(tmp_path / "none.jsonl"))

    assert found.exit_code == 0
    assert "0 layers in both" in found.stdout


def more(path: Path) -> Path:
    """Another table of the target: one layer of its own, one with more runs, another time."""
    table = LatencyTable.open(path, TARGET)
    table.add(conv(9, 9), Measurement(1.0, 0.0, 1))
    shape = network().layers[0].shape
    ms = Processor(reads_step=8, writes_step=16).ms(shape)
    table.add(shape, Measurement(2 * ms, 0.0, 99))
    return path


def test_merge_joins_into_the_first_and_counts_what_was_measured_twice(
    file: Path, tmp_path: Path
) -> None:
    held, second = len(LatencyTable.read(file)), more(tmp_path / "second.jsonl")

    said = json.loads(latprune("table", "merge", str(file), str(second), "--json").stdout)

    table = LatencyTable.open(file, TARGET)
    assert said["layers"] == len(table) == held + 1
    assert said["conflicts"] == 1
    assert said["conflict_worst_ratio"] == pytest.approx(2)
    assert table[network().layers[0].shape].runs == 99


def test_merge_with_out_leaves_both_tables_as_they_were(file: Path, tmp_path: Path) -> None:
    second, out = more(tmp_path / "second.jsonl"), tmp_path / "both.jsonl"
    before = file.read_bytes(), second.read_bytes()

    found = latprune("table", "merge", str(file), str(second), "--out", str(out))

    assert found.exit_code == 0
    assert "1 measurement had a rival" in found.stdout
    assert (file.read_bytes(), second.read_bytes()) == before
    assert conv(9, 9) in LatencyTable.read(out)


def test_merge_overwrites_no_other_file(file: Path, tmp_path: Path) -> None:
    second = more(tmp_path / "second.jsonl")
    out = tmp_path / "precious.jsonl"
    out.write_text("mine")

    found = latprune("table", "merge", str(file), str(second), "--out", str(out))

    assert found.exit_code == 2
    assert out.read_text() == "mine"


def test_merge_refuses_another_target_and_names_the_difference(file: Path, tmp_path: Path) -> None:
    target = replace(TARGET, threads=2)
    other = written(tmp_path / "other.jsonl", Processor(), target=target)
    before = file.read_bytes()

    found = latprune("table", "merge", str(file), str(other))

    assert found.exit_code == 1
    assert "differ in threads" in found.stderr
    assert file.read_bytes() == before


@dataclass
class Slower(Processor):
    """A machine whose speed has changed."""

    factor: float = 1.0

    def ms(self, shape: LayerShape) -> float:
        return super().ms(shape) * self.factor


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.05, 0), (1.5, 4), (0.5, 4)])
def test_check_leaves_with_4_if_the_machine_is_not_as_fast_as_the_table_says(
    file: Path, factor: float, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = Slower(reads_step=8, writes_step=16, factor=factor)
    monkeypatch.setattr(runtimes, "get_runtime", lambda name: processor)
    monkeypatch.setattr(Target, "here", classmethod(lambda cls, runtime, **setting: TARGET))

    words = latprune("table", "check", str(file), "--sample", "10")
    said = latprune("table", "check", str(file), "--sample", "10", "--seed", "3", "--json")

    assert words.exit_code == said.exit_code == code
    found = json.loads(said.stdout)
    assert found["ratios"]["median"] == pytest.approx(factor)
    assert found["alike"]
    assert len(found["layers"]) == 10
    assert found["verdict"].startswith("Met" if code == 0 else "Not met")
    assert " ".join(found["verdict"].split()[:3]) in " ".join(words.stdout.split())


def test_the_tolerance_of_check_can_be_chosen(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = Slower(reads_step=8, writes_step=16, factor=1.3)
    monkeypatch.setattr(runtimes, "get_runtime", lambda name: processor)
    monkeypatch.setattr(Target, "here", classmethod(lambda cls, runtime, **setting: TARGET))

    assert latprune("table", "check", str(file), "--tolerance", "0.5").exit_code == 0


def test_check_on_another_machine_names_both(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = replace(TARGET, device="another, 2 cores")
    monkeypatch.setattr(Target, "here", classmethod(lambda cls, runtime, **setting: here))

    found = latprune("table", "check", str(file))

    assert found.exit_code == 1
    assert TARGET.describe() in found.stderr
    assert here.describe() in found.stderr


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        (b"", "empty"),
        (b"\x89PNG\r\n", "line 1: not the header"),
        (b'{"format": "latprune-table", "version": 99}\n', "Update latprune"),
    ],
)
@pytest.mark.parametrize("command", ["show", "diff", "merge", "check"])
def test_a_file_that_is_no_table_is_one_line_on_stderr_and_stays_as_it_is(
    file: Path, tmp_path: Path, command: str, content: bytes | None, why: str
) -> None:
    bad = tmp_path / "bad.jsonl"
    if content is not None:
        bad.write_bytes(content)
    second = [str(file)] if command in ("diff", "merge") else []

    found = latprune("table", command, str(bad), *second)

    assert found.exit_code == 1
    assert found.stderr.startswith("error: ")
    assert why in found.stderr
    assert (bad.read_bytes() if bad.exists() else None) == content


def test_the_table_in_a_terminal_without_colours_has_no_escape_codes(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    assert "\x1b" not in latprune("table", "show", str(file)).stdout
