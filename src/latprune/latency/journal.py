"""Files of JSON lines that survive being killed: what was appended is there, or is not at all."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def append_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Append one JSON line; it is on the disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())


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
