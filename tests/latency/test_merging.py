"""Joined tables hold all that was measured, whatever the order, and a kill leaves the old file."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise, product
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latprune.errors import DamagedTable, StaleTable
from latprune.latency import merging
from latprune.latency.merging import merge, merge_files
from latprune.latency.sentinel import SENTINEL
from latprune.latency.table import Cut, LatencyTable
from latprune.latency.timing import Comparison, Measurement
from tests.latency.synthetic import TARGET, Killed, conv, network

if TYPE_CHECKING:
    from pathlib import Path

# Few different ones, so that many are equal in part.
MEASUREMENTS = [Measurement(*fields) for fields in product((0.5, 0.7, 1.1), (0.0, 0.3), (1, 2, 3))]
CUTS = [
    Cut({"stem": width}, Comparison(*pair, 0.5, 0.1, 0.01))
    for width in (1, 2)
    for pair in pairwise(MEASUREMENTS[:3])
]
SHAPES = [conv(8, width) for width in range(1, 5)]
measurements = st.sampled_from(MEASUREMENTS)
cuts = st.lists(st.sampled_from(range(len(CUTS))), max_size=2, unique=True).map(
    lambda chosen: [CUTS[index] for index in chosen]
)


@st.composite
def tables(draw: st.DrawFn) -> LatencyTable:
    """Draw a table whose layers and networks often are those of another."""
    shapes = st.sampled_from(SHAPES)
    keys = st.sampled_from(["one", "two"])
    return LatencyTable.of(
        TARGET,
        draw(st.dictionaries(shapes, measurements)),
        networks=draw(st.dictionaries(keys, measurements)),
        every_cut=draw(st.dictionaries(keys, cuts)),
    )


def content(table: LatencyTable) -> object:
    """All that a table holds, in no order."""
    held = {key: Counter(map(repr, found)) for key, found in table.every_cut.items()}
    return dict(table), dict(table.networks), held


@settings(max_examples=50)
@given(tables(), tables())
def test_the_order_of_two_tables_does_not_matter(a: LatencyTable, b: LatencyTable) -> None:
    assert content(merge(a, b).table) == content(merge(b, a).table)


@st.composite
def paced(draw: st.DrawFn) -> LatencyTable:
    """Draw a table that knows the pace at which it was begun."""
    table = draw(tables())
    layers = {SENTINEL: draw(measurements), **table}
    return LatencyTable.of(TARGET, layers, networks=table.networks, every_cut=table.every_cut)


@settings(max_examples=50)
@given(paced(), paced())
def test_tables_of_two_paces_meet_at_the_quicker_one(a: LatencyTable, b: LatencyTable) -> None:
    merged = merge(a, b)

    quicker = min(a[SENTINEL].median_ms, b[SENTINEL].median_ms)
    assert merged.table[SENTINEL].median_ms == quicker
    for shape in a.keys() - b.keys():
        own = a[shape].median_ms / a[SENTINEL].median_ms
        assert merged.table[shape].median_ms / quicker == pytest.approx(own)


def test_a_table_without_a_sentinel_keeps_its_times() -> None:
    old, new = LatencyTable(TARGET), LatencyTable(TARGET)
    old.add(conv(8, 1), MEASUREMENTS[0])
    new.add(SENTINEL, MEASUREMENTS[1])

    merged = merge(old, new)

    assert merged.paces == (None, 1.0)
    assert merged.table == {SENTINEL: MEASUREMENTS[1], conv(8, 1): MEASUREMENTS[0]}


@settings(max_examples=50)
@given(paced(), paced() | tables())
def test_with_paces_too_the_order_does_not_matter_and_joining_again_changes_nothing(
    a: LatencyTable, b: LatencyTable
) -> None:
    once = merge(a, b)

    assert content(merge(b, a).table) == content(once.table)
    assert content(merge(once.table, once.table).table) == content(once.table)
    if SENTINEL in b:  # else its pace is not known, and is taken for that of the others
        assert content(merge(once.table, a, b).table) == content(once.table)


@settings(max_examples=50)
@given(tables(), tables(), tables())
def test_three_tables_may_be_joined_in_any_grouping(
    a: LatencyTable, b: LatencyTable, c: LatencyTable
) -> None:
    assert content(merge(merge(a, b).table, c).table) == content(merge(a, b, c).table)


@settings(max_examples=50)
@given(tables(), tables())
def test_joining_again_changes_nothing(a: LatencyTable, b: LatencyTable) -> None:
    once = merge(a, b)

    for again in (merge(once.table, a, b), merge(once.table, once.table)):
        assert content(again.table) == content(once.table)


@settings(max_examples=50)
@given(tables(), tables())
def test_nothing_is_lost_and_of_two_measurements_the_one_with_more_runs_stays(
    a: LatencyTable, b: LatencyTable
) -> None:
    merged = merge(a, b)

    assert merged.table.keys() == a.keys() | b.keys()
    assert merged.table.networks.keys() == a.networks.keys() | b.networks.keys()
    for shape, kept in merged.table.items():
        rivals = [table[shape] for table in (a, b) if shape in table]
        assert kept in rivals
        assert kept.runs == max(rival.runs for rival in rivals)
    for table in (a, b):
        for key, found in table.every_cut.items():
            assert all(cut in merged.table.every_cut[key] for cut in found)


@settings(max_examples=50)
@given(tables(), tables())
def test_a_conflict_is_what_both_hold_with_different_times(
    a: LatencyTable, b: LatencyTable
) -> None:
    layers = {shape for shape in a if shape in b and a[shape] != b[shape]}
    keys = {key for key in a.networks if b.networks.get(key, a.networks[key]) != a.networks[key]}

    found = merge(a, b).conflicts

    assert Counter(conflict.what for conflict in found) == Counter([*layers, *keys])
    assert all(conflict.ratio >= 1 for conflict in found)


def test_tables_of_two_targets_are_refused_with_the_fields_that_differ() -> None:
    other = LatencyTable(replace(TARGET, threads=4, runtime_version="2.0"))

    with pytest.raises(StaleTable, match="runtime_version and threads") as caught:
        merge(LatencyTable(TARGET), other)
    assert caught.value.fields == ("runtime_version", "threads")
    assert other.target.describe() in str(caught.value)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two tables of one target, with one layer in both."""
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for runs, path in enumerate(paths, start=1):
        table = LatencyTable.open(path, TARGET)
        table.add(conv(3, 8), Measurement(float(runs), 0.1, runs))
        table.add(conv(3, 8 + runs), Measurement(1.0, 0.1, 9))
    LatencyTable.open(paths[1], TARGET).add_network(network(), Measurement(5.0, 0.1, 7))
    return paths


def test_the_joined_file_is_a_table_that_measuring_goes_on_with(files: list[Path]) -> None:
    merged = merge_files(files, files[0])

    table = LatencyTable.open(files[0], TARGET)
    table.add(conv(9, 9), Measurement(1.0, 0.0, 1))
    assert table[conv(3, 8)] == Measurement(2.0, 0.1, 2)
    assert table.network(network()).median_ms == 5.0
    assert len(LatencyTable.open(files[0], TARGET)) == len(merged.table) + 1 == 4


def test_a_half_written_last_line_is_passed_over_and_its_file_not_touched(
    files: list[Path], tmp_path: Path
) -> None:
    whole = files[1].read_bytes()
    files[1].write_bytes(whole + b'{"shape": {"kind"')

    merge_files(files, tmp_path / "new" / "c.jsonl")

    assert len(LatencyTable.read(tmp_path / "new" / "c.jsonl")) == 3
    assert files[1].read_bytes() == whole + b'{"shape": {"kind"'


@pytest.mark.parametrize("step", ["write", "replace"])
def test_whoever_is_killed_while_joining_leaves_the_files_as_they_were(
    files: list[Path], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [file.read_bytes() for file in files]

    def die(*_: object) -> None:
        raise Killed

    where = LatencyTable if step == "write" else type(files[0])
    monkeypatch.setattr(where, step, die)
    with pytest.raises(Killed):
        merge_files(files, files[0])

    assert [file.read_bytes() for file in files] == before
    assert sorted(file.name for file in files[0].parent.iterdir()) == ["a.jsonl", "b.jsonl"]


def test_what_is_measured_meanwhile_is_joined_too(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def merge_slowly(*tables: LatencyTable) -> merging.Merged:
        merged = merge(*tables)
        if conv(7, 7) not in merged.table:
            LatencyTable.open(files[0], TARGET).add(conv(7, 7), Measurement(1.0, 0.0, 1))
        return merged

    monkeypatch.setattr(merging, "merge", merge_slowly)
    merge_files(files, files[0])

    assert conv(7, 7) in LatencyTable.read(files[0])


def test_a_link_to_a_table_stays_a_link(files: list[Path], tmp_path: Path) -> None:
    link = tmp_path / "link.jsonl"
    link.symlink_to(files[0])

    merge_files([link, files[1]], link)

    assert link.is_symlink()
    assert len(LatencyTable.read(files[0])) == 3


def test_a_damaged_file_is_named_and_nothing_is_written(files: list[Path]) -> None:
    before = files[0].read_bytes()
    files[1].write_text(files[1].read_text() + "nonsense\n")

    with pytest.raises(DamagedTable, match=r"b\.jsonl, line 5"):
        merge_files(files, files[0])
    assert files[0].read_bytes() == before
    assert len(list(files[0].parent.iterdir())) == 2
