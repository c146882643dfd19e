from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latprune.errors import DamagedTable, NotMeasured, StaleTable
from latprune.graph.layers import LayerShape
from latprune.latency.table import LatencyTable
from latprune.latency.table_files import default_folder, table_path
from latprune.latency.timing import Comparison, Measurement
from tests.latency.synthetic import TARGET, conv, network

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST, SECOND = Measurement(1.5, 0.1, 12), Measurement(2.5, 0.2, 12)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A table of two layers and one network."""
    path = tmp_path / "new" / "table.jsonl"
    table = LatencyTable.open(path, TARGET)
    table.add(conv(3, 8), FIRST)
    table.add_network(network(), SECOND)
    table.add(LayerShape("linear", 8, 10, size=(1,), bias=True), SECOND)
    return path


def test_a_table_reads_what_another_wrote(path: Path) -> None:
    table = LatencyTable.open(path, TARGET)

    assert dict(table) == {
        conv(3, 8): FIRST,
        LayerShape("linear", 8, 10, size=(1,), bias=True): SECOND,
    }
    assert table.network(network()) == SECOND


def test_a_later_measurement_replaces_an_earlier_one(path: Path) -> None:
    LatencyTable.open(path, TARGET).add(conv(3, 8), SECOND)

    assert LatencyTable.open(path, TARGET)[conv(3, 8)] == SECOND


BETWEEN = replace(conv(3, 8), rectified=True, to_depthwise=True)


@pytest.mark.parametrize(
    ("runtime", "precision", "minds"),
    [("openvino", "int8", True), ("openvino", "bf16", False), ("onnxruntime", "int8", False)],
)
def test_neighbours_tell_layers_apart_where_kernels_depend_on_them(
    runtime: str, precision: str, minds: bool, tmp_path: Path
) -> None:
    path, target = tmp_path / "t.jsonl", replace(TARGET, runtime=runtime, precision=precision)
    table = LatencyTable.open(path, target)
    table.add(conv(3, 8), FIRST)
    table.add(BETWEEN, SECOND)

    for known in (table, LatencyTable.open(path, target)):
        assert len(known) == 1 + minds
        assert known[BETWEEN] == SECOND
        assert known[conv(3, 8)] == (FIRST if minds else SECOND)
        assert known.key(BETWEEN) == (BETWEEN if minds else conv(3, 8))
    assert not table.add_stored({"shape": BETWEEN.to_json(), **SECOND.to_json()})


NARROW = {"stem": 16, "expand": 96, "project": 32}
HALVED = Comparison(FIRST, SECOND, 0.6, 0.02, 0.004)


def with_layers_of(table: LatencyTable, widths: Mapping[str, int]) -> LatencyTable:
    for layer in network().layers:
        table.add(layer.shape_at(widths), FIRST)
    return table


def test_a_pruned_networks_times_are_kept_with_its_widths(path: Path) -> None:
    table = with_layers_of(LatencyTable.open(path, TARGET), NARROW)
    table.add_cut(network(), NARROW, HALVED)

    for known in (table, LatencyTable.open(path, TARGET)):
        assert known.cuts(network()) == [(NARROW, HALVED)]
        assert known.layers_ms(network(), NARROW) == pytest.approx(6 * FIRST.median_ms)


def test_a_cut_is_of_use_only_with_its_layers_and_in_the_same_groups(path: Path) -> None:
    table = LatencyTable.open(path, TARGET)
    table.add_cut(network(), NARROW, HALVED)
    table.add_cut(network(), {"stem": 16}, HALVED)

    assert table.cuts(network()) == []
    with pytest.raises(NotMeasured, match=r"measure\(\) with these widths"):
        table.layers_ms(network(), NARROW)
    assert len(with_layers_of(table, NARROW).cuts(network())) == 1


def test_a_table_without_a_file_is_a_table_too() -> None:
    table = LatencyTable(TARGET)
    table.add(conv(3, 8), FIRST)

    assert table[conv(3, 8)] == FIRST
    assert table.path is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lost=st.integers(1, 400))
def test_a_process_killed_while_writing_loses_at_most_its_last_line(path: Path, lost: int) -> None:
    whole = path.read_bytes()
    torn = path.with_name("torn.jsonl")
    torn.write_bytes(whole[: max(0, len(whole) - lost)])
    complete = torn.read_bytes().count(b"\n")

    table = LatencyTable.open(torn, TARGET)
    entries = len(table) + (network().key.encode() in torn.read_bytes())
    table.add(conv(9, 9), FIRST)

    assert entries == max(0, complete - 1)
    assert LatencyTable.open(torn, TARGET)[conv(9, 9)] == FIRST


@pytest.mark.parametrize(
    "damage",
    [
        "not json",
        '{"shape": {"kind": "conv"}, "median_ms": 1.0, "iqr_ms": 0.0, "runs": 3}',
        '{"network": "abc", "median_ms": 0.0, "iqr_ms": 0.0, "runs": 3}',
        '{"network": "abc", "median_ms": 1.0}',
        f'{{"network": "abc", "median_ms": {10**400}, "iqr_ms": 0.0, "runs": 3}}',
        '{"cut": "abc", "widths": {"stem": 8}, "comparison": {"ratio": 0.5}}',
        '{"cut": "abc", "widths": [8], "comparison": {}}',
        "[1, 2]",
        "{}",
    ],
)
def test_a_damaged_line_is_named(path: Path, damage: str) -> None:
    lines = path.read_text().splitlines()
    lines[2] = damage
    path.write_text("\n".join(lines) + "\n")

    with pytest.raises(DamagedTable, match="line 3") as caught:
        LatencyTable.open(path, TARGET)
    assert caught.value.line == 3


@pytest.mark.parametrize(
    "change",
    [{"format": "other"}, {"version": 2}, {"version": "1"}, {"target": {"device": 1}}],
)
def test_a_header_that_is_none_is_refused(path: Path, change: dict[str, object]) -> None:
    header, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(header), **change}), *rest]) + "\n")

    with pytest.raises(DamagedTable, match="line 1") as caught:
        LatencyTable.open(path, TARGET)
    assert "Remove line 1" not in str(caught.value)  # without a header no line can be read


@pytest.mark.parametrize("content", ["# Read me\n", "[1, 2]\n", '{"format": "other"}\n'])
def test_a_file_that_is_no_table_is_not_to_be_edited_or_deleted(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "notes").write_text(content)

    with pytest.raises(DamagedTable, match="line 1: not the header of a latency table") as caught:
        LatencyTable.read(tmp_path / "notes")
    assert not re.search("remove|delete", str(caught.value), re.IGNORECASE)


def test_a_version_that_is_no_number_is_shown_as_it_stands_there(path: Path) -> None:
    path.write_text(path.read_text().replace('"version": 1', '"version": "1"', 1))

    with pytest.raises(DamagedTable, match="it is of version '1'; this latprune reads version 1"):
        LatencyTable.open(path, TARGET)


def test_a_table_of_another_target_is_refused_with_the_command_that_measures(path: Path) -> None:
    other = replace(TARGET, runtime_version="2.0", threads=4)

    with pytest.raises(StaleTable) as caught:
        LatencyTable.open(path, other)
    message = str(caught.value)
    assert TARGET.describe() in message
    assert other.describe() in message
    assert (
        "latprune measure --model MODEL --runtime synthetic --precision fp32 --batch 1 --threads 4"
        in message
    )


def test_what_was_not_measured_is_never_zero() -> None:
    table = LatencyTable(TARGET)

    with pytest.raises(KeyError):
        table[conv(3, 8)]
    with pytest.raises(NotMeasured, match=r"measure\(\)"):
        table.network(network())


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.delenv("LATPRUNE_CACHE", raising=False)
    assert default_folder() == Path("/cache/latprune")

    monkeypatch.setenv("LATPRUNE_CACHE", "/own")
    assert default_folder() == Path("/own")
    assert table_path(TARGET).name == f"synthetic-{TARGET.fingerprint}.jsonl"


def test_alike_are_layers_that_run_the_same_kernel() -> None:
    table = LatencyTable(TARGET)
    for shape in (conv(3, 8), conv(8, 8, size=4), conv(8, 8, kernel=1)):
        table.add(shape, FIRST)

    assert table.alike(conv(64, 64)) == [conv(3, 8), conv(8, 8, size=4)]


def test_what_follows_from_a_kernels_layers_is_made_anew_when_one_is_added() -> None:
    table, one, wider = LatencyTable(TARGET), conv(8, 8), conv(8, 16)
    table.add(one, Measurement(1.0, 0.0, 1))

    def sum_ms() -> float:
        return table.derived(one, "sum", lambda: sum(table[s].median_ms for s in table.alike(one)))

    before = sum_ms()
    table.add(conv(8, 8, kernel=5), Measurement(2.0, 0.0, 1))
    unchanged = sum_ms()
    table.add(wider, Measurement(4.0, 0.0, 1))
    wider_too = sum_ms()
    table.add(wider, Measurement(3.0, 0.0, 1))

    assert (before, unchanged, wider_too, sum_ms()) == (1.0, 1.0, 5.0, 4.0)


def test_reading_takes_the_target_from_the_file_and_writes_nothing(path: Path) -> None:
    LatencyTable.open(path, TARGET).add_cut(network(), NARROW, HALVED)
    path.write_bytes(path.read_bytes() + b'{"shape": ')
    before = path.read_bytes()

    table = LatencyTable.read(path)
    table.add(conv(9, 9), FIRST)

    assert table.target == TARGET
    assert table.networks == {network().key: SECOND}
    assert table.every_cut == {network().key: [(NARROW, HALVED)]}
    assert path.read_bytes() == before


def test_a_written_table_is_read_as_it_was(path: Path, tmp_path: Path) -> None:
    LatencyTable.open(path, TARGET).add_cut(network(), NARROW, HALVED)
    table = LatencyTable.read(path)

    table.write(tmp_path / "copy.jsonl")

    again = LatencyTable.open(tmp_path / "copy.jsonl", TARGET)
    assert list(again.items()) == list(table.items())
    assert again.networks == table.networks
    assert again.every_cut == table.every_cut
    with pytest.raises(FileExistsError):
        table.write(path)


def test_a_missing_or_empty_file_is_no_table_and_is_not_made_one(tmp_path: Path) -> None:
    missing, empty = tmp_path / "missing.jsonl", tmp_path / "empty.jsonl"
    empty.touch()

    for path, why in ((missing, "No such file"), (empty, "empty"), (tmp_path, "directory")):
        with pytest.raises(DamagedTable, match=why) as caught:
            LatencyTable.read(path)
        assert caught.value.line == 0
    assert not missing.exists()
    assert empty.read_bytes() == b""


def test_a_table_of_a_newer_version_says_to_update_and_not_to_delete(path: Path) -> None:
    path.write_text(path.read_text().replace('"version": 1', '"version": 99', 1))

    with pytest.raises(DamagedTable, match="version 99") as caught:
        LatencyTable.read(path)
    assert "Update latprune" in str(caught.value)
    assert "Delete" not in str(caught.value)
