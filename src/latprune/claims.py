"""A folder that keeps a run is one process's while it is at work there; its end lifts the claim.

Where a system or file system knows no locks (Windows, some network drives) nobody is kept apart.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from latprune.errors import FolderInUse
from latprune.files import is_at, lock_for_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK = "run.lock"
"""The file in a folder that is locked; empty."""


class Claim:
    """Keeps other processes from one folder at a time, until it is given back or forgotten.

    A process may claim a folder several times over: it has it until all of them are given back.
    """

    def __init__(self) -> None:
        self._lock: _Lock | None = None

    def take(self, folder: Path) -> None:
        """Claim a folder, which is made if need be, and no longer the one before.

        The same folder may be claimed again, and is then held if something lifted the claim. A file
        in its place is left to whoever reads it.

        Raises:
            FolderInUse: If another process is at work there.
            OSError: If it cannot be written to.
        """
        if folder.is_file():
            return
        lock = _Lock.of(folder)
        lock.claims += 1
        self.give_back()
        self._lock = lock
        if lock_for_process(lock.file) is False:
            self.give_back()
            raise FolderInUse(folder)

    def give_back(self) -> None:
        """Let others have the folder, unless this process has another claim to it."""
        if self._lock is not None:
            self._lock.drop()
        self._lock = None

    def __del__(self) -> None:
        """Give it back."""
        self.give_back()


class _Lock:
    """A folder's lock, one for all claims of the process: closing a second file would lift it."""

    _open: ClassVar[dict[Path, _Lock]] = {}

    def __init__(self, place: Path) -> None:
        self.place, self.claims = place, 0
        self.file = (place / LOCK).open("ab")

    @classmethod
    def of(cls, folder: Path) -> _Lock:
        """Give the lock that the process has open there; a new one if the folder was deleted."""
        folder.mkdir(parents=True, exist_ok=True)
        place = folder.resolve()
        lock = cls._open.get(place)
        if lock is None or not is_at(place / LOCK, lock.file):
            lock = cls._open[place] = cls(place)
        return lock

    def drop(self) -> None:
        """Take one claim off; the last one closes the file."""
        self.claims -= 1
        if not self.claims:
            self.file.close()
            if self._open.get(self.place) is self:
                del self._open[self.place]


@contextmanager
def claimed(folder: Path | None) -> Iterator[None]:
    """Keep other processes from a folder meanwhile; None is no folder.

    Raises:
        FolderInUse: If another process is at work there.
        OSError: If it cannot be written to.
    """
    claim = Claim()
    if folder is not None:
        claim.take(folder)
    try:
        yield
    finally:
        claim.give_back()
