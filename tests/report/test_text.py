"""A report in the terminal fits 80 columns and says all without colour."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from latprune.planning import Budget
from latprune.report.text import merged, to_text, widths_table
from tests.report.examples import report


def test_text_fits_the_terminal_and_has_no_escapes() -> None:
    text = to_text(report(budget=Budget(fraction=0.5), small_ms=5.5), columns=80)

    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    for figure in ("10.000 ms", "5.500 ms", "4.900 ms", "110.00 %", "conv1", "50 %", "Not met"):
        assert figure in text


def test_in_a_narrow_terminal_nothing_is_cut_off() -> None:
    narrow = to_text(report(budget=Budget(fraction=0.5), small_ms=5.5), columns=40)

    assert max(map(len, narrow.splitlines())) <= 40
    assert "…" not in narrow
    said = " ".join(narrow.split())
    assert "measured dense 10.000 ms, pruned 5.500 ms, change 1.82x as fast" in said
    assert "conv1 dense 16, pruned 8, kept 50 %" in said


@pytest.mark.parametrize("columns", [80, 40])
def test_a_layers_name_is_shown_as_it_is_whatever_it_means_in_markup(columns: int) -> None:
    names = ["[bold]", "b[0]", "c[/x]", ":warning:"]
    file = io.StringIO()

    Console(file=file, width=columns).print(widths_table(dict.fromkeys(names, (4, 2))))

    assert [word for word in file.getvalue().split() if word in names] == names


@pytest.mark.parametrize("columns", [80, 40])
def test_an_accuracys_name_is_shown_as_it_is(columns: int) -> None:
    found = report(budget=Budget(fraction=0.5))
    named = replace(found, small=replace(found.small, accuracy={"top[1]": 0.5, "[/x]": 0.5}))

    text = to_text(named, columns=columns)

    assert "top[1]" in text
    assert "[/x]" in text


def test_a_small_network_has_a_row_for_every_group() -> None:
    rows = merged({"a.0.conv": (8, 4), "a.1.conv": (8, 2)})

    assert [(row.name, row.dense, row.pruned, row.kept) for row in rows] == [
        ("a.0.conv", "8", "4", 0.5),
        ("a.1.conv", "8", "2", 0.25),
    ]


def test_a_large_network_has_a_row_for_alike_groups_of_equal_width() -> None:
    widths = {f"stage1.{block}.conv1": (64, 16 * (1 + block % 3)) for block in range(20)}
    widths |= {"stage1.20.conv1": (128, 128), "stem": (32, 32)}

    rows = merged(widths)

    assert [(row.name, row.dense, row.pruned) for row in rows] == [
        ("stage1.*.conv1 (20)", "64", "16–48"),
        ("stage1.20.conv1", "128", "128"),
        ("stem", "32", "32"),
    ]


def test_no_channel_is_lost_in_merging() -> None:
    widths = {
        f"block{i}.{j}.conv{k}": (16 * k, 8 * k) for i in (1, 2) for j in range(9) for k in (1, 2)
    }

    rows = merged(widths)

    assert sum(int(row.name[:-1].rpartition("(")[2]) for row in rows) == len(widths)
    assert all(row.kept == 0.5 for row in rows)


def test_further_targets_follow_without_the_widths() -> None:
    first = report(budget=Budget(fraction=0.5))
    further = report(budget=Budget(ms=4.0), small_ms=4.5)

    text = to_text(first, also=[further])

    assert text.startswith(to_text(first))
    rest = text.removeprefix(to_text(first))
    assert "Not met" in rest
    assert "4.500 ms" in rest
    assert "channel group" not in rest
