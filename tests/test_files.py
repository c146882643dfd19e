"""A file is replaced by a whole one, or stays, and nothing is left beside it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from latprune.files import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator
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


WRITING = """
import sys
from pathlib import Path
from latprune.files import replacing

with replacing(Path(sys.argv[1])) as file:
    file.write_text("half", encoding="utf-8")
    print(file.name, flush=True)
    input()
"""
has_locks = pytest.mark.skipif(
    importlib.util.find_spec("fcntl") is None, reason="this system locks no files"
)


@contextmanager
def a_process_that_writes(path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process in the middle of writing, and how the file is called that it writes."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITING, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@has_locks
def test_what_a_killed_process_left_goes_when_the_file_is_next_written(tmp_path: Path) -> None:
    with a_process_that_writes(tmp_path / "kept") as (process, left):
        process.kill()
    assert names_in(tmp_path) == [left]

    with replacing(tmp_path / "kept") as file:
        file.write_text("new", encoding="utf-8")

    assert names_in(tmp_path) == ["kept"]


@has_locks
def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    with a_process_that_writes(tmp_path / "kept") as (process, unfinished):
        with replacing(tmp_path / "kept") as file:
            file.write_text("new", encoding="utf-8")
        assert names_in(tmp_path) == ["kept", unfinished]
        process.communicate("\n")

    assert (tmp_path / "kept").read_text(encoding="utf-8") == "half"
    assert names_in(tmp_path) == ["kept"]


@pytest.mark.parametrize("name", ["kept.1.part", "kept.part", "other.latprune-1.part"])
def test_files_of_other_names_stay(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()

    with replacing(tmp_path / "kept") as file:
        file.write_text("new", encoding="utf-8")

    assert names_in(tmp_path) == ["kept", name]


def test_where_there_are_no_locks_nothing_is_taken_for_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    (tmp_path / "kept.latprune-1.part").touch()

    with replacing(tmp_path / "kept") as file:
        file.write_text("new", encoding="utf-8")

    assert (tmp_path / "kept").read_text(encoding="utf-8") == "new"
    assert names_in(tmp_path) == ["kept", "kept.latprune-1.part"]
