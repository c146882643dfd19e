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
_ANEW = "Delete the file to measure all of it again."


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
        DamagedTable: If it is not such a line, or one of another version; a file that is no table
            at all is left alone.
    """
    found = _json_of(line)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        remedy = "Name a table, as `latprune measure` names the one that it fills."
        raise DamagedTable(path, 1, "not the header of a latency table", remedy=remedy)
    version = found.get("version")
    if version != VERSION:
        is_newer = isinstance(version, int) and version > VERSION
        why = f"it is of version {version!r}; this latprune reads version {VERSION}"
        remedy = "Update latprune to read it." if is_newer else _ANEW
        raise DamagedTable(path, 1, why, remedy=remedy)
    try:
        return Target.from_json(found["target"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"its header names no target ({error!r})"
        raise DamagedTable(path, 1, why, remedy=_ANEW) from error


def _json_of(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


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
