"""Where tables are kept, and the line that each begins with: format, version and target."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from latprune.errors import DamagedTable, StaleTable
from latprune.latency.target import Target

FORMAT = "latprune-table"
VERSION = 1


def default_folder() -> Path:
    """Give the folder of this user's tables.

    It is `LATPRUNE_CACHE` where that is set, else `latprune` in `XDG_CACHE_HOME` or `~/.cache`.
    """
    if own := os.environ.get("LATPRUNE_CACHE"):
        return Path(own)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "latprune"


def table_path(target: Target, *, folder: Path | None = None) -> Path:
    """Give the file of a target's table, in the default folder or another."""
    return (folder or default_folder()) / f"{target.runtime}-{target.fingerprint}.jsonl"


def header(target: Target) -> dict[str, Any]:
    """Give the first line of a target's table, as JSON values."""
    return {"format": FORMAT, "version": VERSION, "target": target.to_json()}


def read_header(path: Path, line: str) -> Target:
    """Give the target that a table's first line names.

    Args:
        path: The table's file, for the error.
        line: As `header` gave it, as JSON text.

    Raises:
        DamagedTable: If it is not such a line, or one of another version.
    """
    try:
        header = json.loads(line)
        if header["format"] != FORMAT:
            raise ValueError(f"the format is {header['format']!r}")
        if isinstance(header["version"], int) and header["version"] > VERSION:
            why = f"it is of version {header['version']}; this latprune reads version {VERSION}"
            raise DamagedTable(path, 1, why, remedy="Update latprune to read it.")
        if header["version"] != VERSION:
            raise ValueError(f"version {header['version']} is not version {VERSION}")
        return Target.from_json(header["target"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedTable(path, 1, f"not the header of a latency table ({error})") from error


def check_target(path: Path, found: Target, target: Target) -> None:
    """See that a table is of the target that is asked for.

    Raises:
        StaleTable: If it is not; says how to measure again.
    """
    if found != target:
        raise StaleTable(
            f"{path} was measured on {found.describe()} ({found.fingerprint}), not on "
            f"{target.describe()} ({target.fingerprint}). Measure again: latprune measure "
            f"--model MODEL --runtime {target.runtime} --precision {target.precision} "
            f"--batch {target.batch} --threads {target.threads}"
        )
