"""Rows are kept as they are made; what is missing is said, not guessed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies.frame import Rows, markdown, require_data, rows_of

if TYPE_CHECKING:
    from pathlib import Path


def test_a_row_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    made = []

    def make() -> dict[str, float]:
        made.append("row")
        return {"top1": 0.5}

    first = Rows(tmp_path / "runs" / "rows.json").keep("a", make)
    again = Rows(tmp_path / "runs" / "rows.json").keep("a", make)

    assert first == again == {"top1": 0.5}
    assert len(made) == 1


def test_a_study_that_fails_keeps_the_rows_before(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.json")
    rows.keep("a", lambda: {"top1": 0.5})

    def fail() -> dict[str, float]:
        raise RuntimeError("the machine went away")

    with pytest.raises(RuntimeError):
        rows.keep("b", fail)

    assert Rows(tmp_path / "rows.json").all() == {"a": {"top1": 0.5}}
    assert json.loads((tmp_path / "rows.json").read_text()) == rows.all()


def test_rows_that_were_made_meanwhile_are_not_lost(tmp_path: Path) -> None:
    rows, others = Rows(tmp_path / "rows.json"), Rows(tmp_path / "rows.json")

    def make() -> dict[str, float]:
        others.keep("b", lambda: {"top1": 0.25})
        return {"top1": 0.5}

    rows.keep("a", make)

    assert rows.all() == {"b": {"top1": 0.25}, "a": {"top1": 0.5}}


def test_rows_are_taken_that_the_config_would_make_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    methods = {"joint": {"solver": "joint"}, "greedy": {"solver": "greedy"}}
    config = {"batch_size": 64, "seeds": [0], "methods": methods}
    made = {name: {"method": name, "top1": 0.5} for name in ("joint", "greedy", "dense")}
    made["dense"]["device"] = "of its own"
    rows = {name: {"device": "of the file", **row} for name, row in made.items()}
    target = {"device": "of the file"}
    path.write_text(json.dumps({"config": config, "target": target, "rows": made}))

    more = {**methods, "greedy": {"solver": "greedy", "criterion": "fisher"}, "halp": {}}
    assert rows_of(path, config) == rows
    assert list(rows_of(path, {**config, "seeds": [0, 1], "methods": more})) == ["joint", "dense"]
    assert rows_of(path, {**config, "batch_size": 32}) == {}
    assert rows_of(tmp_path / "missing.json", {"batch_size": 64}) == {}


def test_a_study_without_its_data_names_the_folder_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATPRUNE_DATA", str(tmp_path / "nothing"))

    with pytest.raises(SystemExit, match=r"nothing has none: set LATPRUNE_DATA"):
        require_data()


@given(st.lists(st.lists(st.text("abc ", max_size=4), min_size=2, max_size=2), max_size=4))
def test_a_table_has_a_line_per_row_and_a_bar_per_cell(rows: list[list[str]]) -> None:
    lines = markdown(["one", "two"], rows).splitlines()

    assert len(lines) == len(rows) + 2
    assert {line.count("|") for line in lines} == {3}
