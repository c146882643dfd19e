"""Who adds to a table's file and who replaces it stay out of each other's way."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from latprune.errors import DamagedTable, TableInUse
from latprune.latency.journal import alone, append_line, begun_lines, in_use, mended_lines
from latprune.latency.merging import merge_files
from latprune.latency.table import LatencyTable
from latprune.latency.timing import Measurement
from tests.latency.synthetic import TARGET, conv

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("fcntl", reason="this system locks no files")

MEASURES = """
import sys, pathlib
from latprune.latency.journal import in_use
with in_use(pathlib.Path(sys.argv[1])):
    print("measuring", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "table.jsonl"
    LatencyTable.open(path, TARGET).add(conv(3, 8), Measurement(1.0, 0.0, 1))
    return path


def test_a_table_is_not_replaced_while_another_process_measures_into_it(file: Path) -> None:
    before = file.read_bytes()
    command = [sys.executable, "-c", MEASURES, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"measuring\n"
        with pytest.raises(TableInUse, match=r"table\.jsonl cannot be replaced"):
            merge_files([file], file)
        assert file.read_bytes() == before
        process.communicate(b"")

    merge_files([file], file)

    assert len(LatencyTable.read(file)) == 1


def test_several_may_measure_into_a_table_at_once(file: Path) -> None:
    with in_use(file), in_use(file):
        append_line(file, {"a": 1})

    assert mended_lines(file)[-1] == '{"a": 1}'


def test_what_is_appended_while_a_file_is_replaced_goes_to_the_new_one(
    file: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new.jsonl"
    new.write_text("new\n")
    appending = threading.Thread(target=append_line, args=(file, {"a": 1}))
    with alone(file):
        appending.start()
        appending.join(timeout=0.2)
        assert appending.is_alive()
        new.replace(file)
    appending.join(timeout=10)

    assert file.read_text() == 'new\n{"a": 1}\n'


def test_whoever_wants_to_be_alone_says_so_when_it_is_not(file: Path) -> None:
    with in_use(file), pytest.raises(TableInUse) as raised, alone(file, patience_s=0.0):
        pass

    assert raised.value.path == file


BEGINS = """
import sys, pathlib
from latprune.latency.journal import append_line, begun_lines
print("ready", flush=True)
sys.stdin.readline()
path = pathlib.Path(sys.argv[1])
begun_lines(path, {"header": 1})
for number in range(20):
    append_line(path, {sys.argv[2]: number, "long": "x" * 20_000}, header={"header": 1})
"""


def test_processes_that_begin_a_file_at_once_write_one_header_and_whole_lines(
    tmp_path: Path,
) -> None:
    path = tmp_path / "new.jsonl"
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", BEGINS, str(path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "abc"
    ]
    for process in begun:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in begun:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in begun:
        process.communicate()
        assert process.returncode == 0

    # Who looks while another writes may see no end, and put a break there: that line is empty.
    lines = [line for line in path.read_text().splitlines() if line]
    first, *others = map(json.loads, lines)
    assert first == {"header": 1}
    assert sorted(next(iter(one)) for one in others) == ["a"] * 20 + ["b"] * 20 + ["c"] * 20


def test_whoever_waited_to_begin_a_file_finds_it_begun(tmp_path: Path) -> None:
    path = tmp_path / "new.jsonl"
    path.touch()
    waiting = threading.Thread(target=begun_lines, args=(path, {"header": 2}))
    with alone(path):
        waiting.start()
        waiting.join(timeout=0.1)
        path.write_text('{"header": 1}\n')
    waiting.join(timeout=10)

    assert path.read_text() == '{"header": 1}\n'


def test_a_line_follows_what_another_left_half_written(file: Path) -> None:
    table = LatencyTable.open(file, TARGET)
    with in_use(file):  # so that nobody cuts it off
        with file.open("a") as killed:
            killed.write('{"shape": {"kind": "conv", "in_ch')
        table.add(conv(9, 9), Measurement(2.0, 0.0, 1))
        known = LatencyTable.open(file, TARGET)

    assert set(known) == set(LatencyTable.read(file)) == {conv(3, 8), conv(9, 9)}


def test_what_others_add_is_not_cut_off_with_a_half_written_line(file: Path) -> None:
    with file.open("a") as killed:
        killed.write('{"shape": ')
    before = file.read_bytes()
    with in_use(file):
        assert len(mended_lines(file)) == 2
        assert file.read_bytes() == before

    mended_lines(file)

    assert before.startswith(file.read_bytes())
    assert file.read_bytes().endswith(b"\n")


def test_a_table_that_was_deleted_meanwhile_is_begun_anew(file: Path) -> None:
    table = LatencyTable.open(file, TARGET)
    file.unlink()

    table.add(conv(9, 9), Measurement(2.0, 0.0, 1))

    assert set(LatencyTable.open(file, TARGET)) == {conv(9, 9)}


def test_a_file_of_something_else_is_not_begun(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")

    with pytest.raises(DamagedTable, match="not the header"):
        LatencyTable.open(notes, TARGET)

    assert notes.read_text() == "mine"


def test_nothing_guards_a_file_that_is_not_there(tmp_path: Path) -> None:
    with alone(tmp_path / "none.jsonl"), in_use(None):
        assert not list(tmp_path.iterdir())
