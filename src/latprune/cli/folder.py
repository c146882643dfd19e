"""The folder of one run: what was asked, what is under way, what came out."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latprune.claims import LOCK, claimed
from latprune.errors import FolderInUse
from latprune.files import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from latprune.pipeline import Pruned


PRUNED = "pruned.safetensors"


class FolderTaken(ValueError):
    """A folder holds the run of another command."""


@dataclass(frozen=True)
class RunFolder:
    """A folder that belongs to one command with its arguments.

    Attributes:
        path: Holds `run.json` (the arguments), `checkpoint/`, and in the end
            `pruned.safetensors`, `report.json` and `report.txt`. `run.lock` is empty, and locked
            by the process that is at work.
    """

    path: Path

    @classmethod
    def claim(cls, path: Path, command: str, arguments: Mapping[str, Any]) -> RunFolder:
        """Take a folder for a command, or go on with that command's run in it.

        Raises:
            FolderTaken: If another command, or the same one with other arguments, has work in it,
                if a process is at work in it, or if it is a file.
        """
        asked = json.loads(json.dumps({"command": command, **arguments}, default=str))
        if path.exists() and not path.is_dir():
            raise FolderTaken(f"{path} is a file; name a folder.")
        folder, file = cls(path), path / "run.json"
        if (path / LOCK).exists():
            with folder.held():
                pass  # nobody else has it
        differences = _differences(_read(file), asked) if file.is_file() else []
        if differences and folder.holds_work:
            raise FolderTaken(
                f"{path} holds another run ({'; '.join(differences)}). Give another --out, or "
                f"delete {path} to start afresh."
            )
        if differences or not file.is_file():
            path.mkdir(parents=True, exist_ok=True)
            _write(file, json.dumps(asked, indent=2) + "\n")
        return folder

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from working in the folder meanwhile.

        Raises:
            FolderTaken: If one is at work.
        """
        with ExitStack() as meanwhile:
            try:
                meanwhile.enter_context(claimed(self.path))
            except FolderInUse:
                raise FolderTaken(
                    f"Another process is at work in {self.path}: wait until it is done, or give "
                    f"another --out."
                ) from None
            yield

    @property
    def holds_work(self) -> bool:
        """Whether a run has begun to leave networks; until then another may have the folder."""
        return any(self.checkpoint.glob("*.safetensors")) or self.pruned.exists()

    @property
    def checkpoint(self) -> Path:
        """Where the state of an unfinished run is kept."""
        return self.path / "checkpoint"

    @property
    def pruned(self) -> Path:
        """The result."""
        return self.path / PRUNED

    def keep(
        self,
        pruned: Pruned,
        *,
        facts: Mapping[str, Any],
        text: str,
        input: tuple[int, int, int] | None = None,
        classes: int | None = None,
    ) -> None:
        """Write a finished run's network and its report, as JSON and as text.

        Args:
            pruned: The network.
            facts: Its report.
            text: The same as text.
            input: Channels, height and width that the network was planned for.
            classes: Its outputs, if they were asked for.
        """
        noted = {"input": input, "classes": classes}
        notes = {name: value for name, value in noted.items() if value is not None}
        pruned.save(self.pruned, notes=notes)
        _write(self.path / "report.json", json.dumps(facts, indent=2) + "\n")
        _write(self.path / "report.txt", text)


def _differences(found: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    if found.get("command") != asked["command"]:
        return [f"of {found.get('command')}, not of {asked['command']}"]
    return [
        f"{name} was {found.get(name)}, is {asked.get(name)}"
        for name in [*asked, *(found.keys() - asked.keys())]
        if found.get(name) != asked.get(name)
    ]


def _write(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with replacing(file) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise FolderTaken(f"{file} cannot be read. Delete {file.parent} to start afresh.")
    return found
