"""Files that are written whole or not at all, and locks, which a process's end lifts.

Some systems and file systems know no locks (Windows, some network drives).
"""

from __future__ import annotations

import glob
import importlib
import os
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lend the name of a file beside one, whose place it takes if all went well.

    The name is this process's own: another may write to the same place at once. What processes
    that were killed left beside it is deleted, where there are locks to tell them by.
    """
    mine = path.with_name(f"{path.name}.latprune-{os.getpid()}.part")
    for other in path.parent.glob(f"{glob.escape(path.name)}.latprune-*.part"):
        if other != mine:
            _delete_unless_held(other)
    try:
        with _held(mine):
            yield mine
            mine.replace(path)
    finally:
        mine.unlink(missing_ok=True)


def lock(file: IO[bytes], *how: str) -> bool | None:
    """Lock an open file until it is closed.

    Args:
        file: The file.
        how: Names of `fcntl`'s constants.

    Returns:
        False if somebody else has it; None where there are no locks.
    """
    return _locked("flock", file, how)


def lock_for_process(file: IO[bytes]) -> bool | None:
    """Lock an open file for this process, until it closes the file, by whichever name, or ends.

    Processes that were forked from it, as a loader's workers, and may outlive it by seconds, have
    no part in the lock. The same process may lock a file again.

    Returns:
        False if another process has it; None where there are no locks.
    """
    return _locked("lockf", file, ("LOCK_EX", "LOCK_NB"))


def _locked(call: str, file: IO[bytes], how: Iterable[str]) -> bool | None:
    try:
        locks = importlib.import_module("fcntl")
    except ImportError:
        return None
    try:
        getattr(locks, call)(file, sum(getattr(locks, name) for name in how))
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return None
    return True


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Begin a file, and show others meanwhile that somebody is at it."""
    while True:
        with path.open("ab") as file:
            if lock(file, "LOCK_EX") is None:
                break  # and close it: Windows renames no open file
            if is_at(path, file):
                yield
                return
        # It was taken for left behind before it was locked.
    yield


def _delete_unless_held(path: Path) -> None:
    with suppress(OSError), path.open("rb+") as file:
        if lock(file, "LOCK_EX", "LOCK_NB") and is_at(path, file):
            path.unlink()


def is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether an open file still has a name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
