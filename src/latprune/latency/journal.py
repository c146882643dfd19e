"""Files of JSON lines that survive being killed: what was appended is there, or is not at all.

Several processes may add to a file at once; whoever replaces it must be alone with it. Where a
system or file system knows no locks (Windows, some network drives) nobody is kept apart.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from latprune.errors import TableInUse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PATIENCE_S = 1.0
"""For how long whoever wants to replace a file waits: appending a line is over by then."""


def append_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Append one JSON line; it is on the disk when this returns."""
    with _shared(path) as file:
        file.write(json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def in_use(path: Path | None) -> Iterator[None]:
    """Keep a file from being replaced meanwhile; None is no file. Others may use it, too."""
    if path is None:
        yield
        return
    with _shared(path):
        yield


@contextmanager
def alone(path: Path, *, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Keep everybody from using a file, that it may be replaced.

    Raises:
        TableInUse: If somebody uses it for longer than `patience_s`.
    """
    if not path.exists():
        yield
        return
    with path.open("a", encoding="utf-8") as file:
        give_up = time.monotonic() + patience_s
        while not _locked(file, "LOCK_EX", "LOCK_NB"):
            if time.monotonic() >= give_up:
                raise TableInUse(path)
            time.sleep(0.01)
        yield


@contextmanager
def _shared(path: Path) -> Iterator[IO[str]]:
    """Open a file to append to it; it is not replaced before this ends."""
    while True:
        with path.open("a", encoding="utf-8") as file:
            _locked(file, "LOCK_SH")
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield file
                return
        # It was replaced while this waited: what is open is what it was before.


def _locked(file: IO[str], *how: str) -> bool:
    """Lock an open file until it is closed; False if somebody else has it."""
    try:
        locks = importlib.import_module("fcntl")
    except ImportError:
        return True
    try:
        locks.flock(file, sum(getattr(locks, name) for name in how))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def mended_lines(path: Path) -> list[str]:
    """Read the lines that were written in full, and cut off what follows the last of them.

    A file that does not exist has no lines.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
    return whole_lines(content)


def whole_lines(content: bytes) -> list[str]:
    """Give the lines that were written in full."""
    end = content.rfind(b"\n") + 1
    return content[:end].decode("utf-8", errors="replace").splitlines()
