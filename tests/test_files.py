"""A file is replaced by a whole one, or stays, and nothing is left beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from latprune.files import replacing

if TYPE_CHECKING:
    from pathlib import Path


def test_a_whole_file_takes_the_place_of_the_last(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("old", encoding="utf-8")

    with replacing(tmp_path / "kept") as file:
        file.write_text("new", encoding="utf-8")
        assert (tmp_path / "kept").read_text(encoding="utf-8") == "old"

    assert (tmp_path / "kept").read_text(encoding="utf-8") == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]


def _write_half(path: Path) -> None:
    with replacing(path) as file:
        file.write_text("ne", encoding="utf-8")
        raise OSError("the disk is full")


def test_after_an_error_the_last_one_stays_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("old", encoding="utf-8")

    with pytest.raises(OSError, match="full"):
        _write_half(tmp_path / "kept")

    assert (tmp_path / "kept").read_text(encoding="utf-8") == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]
