"""What studies share: rows kept as soon as they are made, one result file, tables from it.

A row is a name and JSON values. A study that is interrupted goes on with the rows that are missing;
its pages are written from its `result.json` alone.
"""

from __future__ import annotations

import json
import platform
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import latprune as lp
from studies.shared_data import data_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

Row = dict[str, Any]
CHOICES = ("methods", "ablations", "seeds", "budgets", "ours")  # which rows there are
LIBRARIES = ("torch", "timm", "onnxruntime")


class Rows:
    """Named results in a file that is whole at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> dict[str, Row]:
        """Give all rows, the oldest first."""
        return json.loads(self._path.read_text()) if self._path.is_file() else {}

    def keep(self, name: str, make: Callable[[], Row]) -> Row:
        """Give a row, and make and store it unless it is there."""
        known = self.all()
        if name in known:
            return known[name]
        begin = time.process_time()
        row = make()
        print(f"{name}: {_short(row)} in {time.process_time() - begin:.0f} CPU s", flush=True)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(".part")
        unfinished.write_text(json.dumps({**self.all(), name: row}) + "\n")
        unfinished.replace(self._path)
        return row


def _short(row: Row) -> str:
    shown = (f"{name} {v:.4g}" for name, v in row.items() if isinstance(v, float))
    return ", ".join(shown) or ", ".join(row)


def require_data() -> None:
    """End the program, and say how to go on, where the studies' data is missing."""
    folder = data_folder()
    if not (folder / "weights").is_dir():
        raise SystemExit(
            f"This study needs its data and weights, and {folder} has none: set LATPRUNE_DATA to "
            f"the folder that holds them. Nothing was run."
        )


def write_result(
    path: Path,
    config: Mapping[str, Any],
    found: Mapping[str, Any],
    *,
    command: str,
    libraries: Iterable[str] = (),
) -> None:
    """Write what was found beside the target, the versions and the config."""
    document = {
        "command": command,
        "target": lp.Target.here(**config["target"]).to_json(),
        "versions": {
            "latprune": lp.__version__,
            **{name: version(name) for name in (*LIBRARIES, *libraries)},
            "python": platform.python_version(),
        },
        "config": config,
        **found,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def rows_of(path: Path, config: Mapping[str, Any]) -> dict[str, Row]:
    """Give the rows of a result file that this config would make the same way.

    Methods, seeds and budgets may have been added since; all else must be equal. A row says on what
    device it was made, by itself or by its file.
    """
    document = json.loads(path.read_text()) if path.is_file() else {}
    before = document.get("config", {})
    if _of_every_row(before) != _of_every_row(config):
        return {}
    then, now = _methods(before), _methods(config)
    return {
        name: {"device": document["target"]["device"], **row}
        for name, row in document.get("rows", {}).items()
        if then.get(row["method"]) == now.get(row["method"])
    }


def _of_every_row(config: Mapping[str, Any]) -> Row:
    return {name: value for name, value in config.items() if name not in CHOICES}


def _methods(config: Mapping[str, Any]) -> Row:
    return {**config.get("methods", {}), **config.get("ablations", {}).get("methods", {})}


def versions_in_words(document: Mapping[str, Any]) -> str:
    """Say what a result was found with."""
    return ", ".join(f"{name} {version}" for name, version in document["versions"].items())


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Give a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
