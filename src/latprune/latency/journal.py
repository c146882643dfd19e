"""Files of JSON lines that survive being killed: what was appended is there, or is not at all.

Several processes may begin a file, and add to it, at once; whoever replaces it must be alone with
it. Where a system or file system knows no locks (Windows, some network drives) nobody is kept
apart. A line that somebody left half written is followed by a line break, and passed over.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

from latprune.errors import TableInUse
from latprune.files import lock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PATIENCE_S = 1.0
"""For how long whoever wants to replace a file waits: appending a line is over by then."""


def append_line(
    path: Path, entry: Mapping[str, Any], *, header: Mapping[str, Any] | None = None
) -> None:
    """Append one JSON line; it is on the disk when this returns.

    Args:
        path: The file.
        entry: The line's.
        header: What comes first, where the file has no line, as one that was deleted meanwhile.
    """
    with _shared(path) as file:
        if header is not None:
            _begin(file, header)
        _write(file, entry)


def begun_lines(path: Path, header: Mapping[str, Any]) -> list[str]:
    """Read a file's lines, the first of which is written where there is none: once, by whom ever.

    Returns:
        As `mended_lines`; nothing of a file that holds something else and no line break.
    """
    with _shared(path) as file:
        _begin(file, header)
    return mended_lines(path)


def is_torn(line: str) -> bool:
    """Whether it is what is left of a line that somebody did not write in full, or nothing.

    Who appends while another is at it may find no end to that one's line, and begin one too many.
    """
    try:
        json.loads(line)
    except ValueError:
        return line.startswith("{") or not line
    return False


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
    with path.open("ab") as file:
        if not _alone_within(patience_s, file):
            raise TableInUse(path)
        yield


@contextmanager
def _shared(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to append to it, unbuffered; it is not replaced before this ends."""
    while True:
        with path.open("ab+", buffering=0) as file:
            lock(file, "LOCK_SH")
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield file
                return
        # It was replaced while this waited: what is open is what it was before.


def _begin(file: IO[bytes], header: Mapping[str, Any]) -> None:
    """Write a file's first line, unless it has one."""
    if _has_line(file):
        return
    _alone_within(PATIENCE_S, file)  # another process may be about to do the same
    if _has_line(file):
        return
    file.seek(0)
    found = file.read()
    if json.dumps(header).encode().startswith(found):  # what somebody left of it, or nothing
        file.truncate(0)
        _write(file, header)


def _has_line(file: IO[bytes]) -> bool:
    file.seek(0)
    return file.readline().endswith(b"\n")


def _write(file: IO[bytes], entry: Mapping[str, Any]) -> None:
    """Append a line in one piece, behind a line break if what is there ends in none."""
    text = json.dumps(entry) + "\n"
    end = file.seek(0, os.SEEK_END)
    if end:
        file.seek(end - 1)
        text = text if file.read(1) == b"\n" else "\n" + text
    left = memoryview(text.encode())
    while left:
        left = left[file.write(left) :]
    os.fsync(file.fileno())


def _alone_within(patience_s: float, file: IO[bytes]) -> bool:
    """Wait until nobody else has an open file, for a while; say whether that came."""
    give_up = time.monotonic() + patience_s
    while lock(file, "LOCK_EX", "LOCK_NB") is False:
        if time.monotonic() >= give_up:
            return False
        time.sleep(0.01)
    return True


def mended_lines(path: Path) -> list[str]:
    """Read the lines that were written in full, and cut off what follows the last of them.

    It stays where somebody else uses the file, who may be about to add to it. A file that does not
    exist has no lines.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    if not content.endswith(b"\n"):
        with suppress(TableInUse), alone(path, patience_s=0.0):
            content = path.read_bytes()
            if 0 < (end := content.rfind(b"\n") + 1) < len(content):
                os.truncate(path, end)
    return whole_lines(content)


def whole_lines(content: bytes) -> list[str]:
    """Give the lines that were written in full."""
    end = content.rfind(b"\n") + 1
    return content[:end].decode("utf-8", errors="replace").splitlines()
