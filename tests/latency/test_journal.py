"""Who adds to a table's file and who replaces it stay out of each other's way."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from latprune.errors import TableInUse
from latprune.latency.journal import alone, append_line, in_use, mended_lines
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


def test_nothing_guards_a_file_that_is_not_there(tmp_path: Path) -> None:
    with alone(tmp_path / "none.jsonl"), in_use(None):
        assert not list(tmp_path.iterdir())
