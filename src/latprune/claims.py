"""A folder that keeps a run is one process's while it is at work there; its end lifts the claim.

Where a system or file system knows no locks (Windows, some network drives) nobody is kept apart.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from latprune.errors import FolderInUse
from latprune.files import lock_for_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK = "run.lock"
"""The file in a folder that is locked; empty."""


class Claim:
    """Keeps other processes from one folder at a time, until it is given back or forgotten."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._file: IO[bytes] | None = None

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
        if self._file is None or folder != self._folder:
            self.give_back()
            folder.mkdir(parents=True, exist_ok=True)
            self._folder, self._file = folder, (folder / LOCK).open("ab")
        if lock_for_process(self._file) is False:
            self.give_back()
            raise FolderInUse(folder)

    def give_back(self) -> None:
        """Let others have the folder."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def __del__(self) -> None:
        """Give it back."""
        self.give_back()


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
