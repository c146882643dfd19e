"""`latprune measure` says what the numbers it writes can be trusted for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from latprune.latency.foreign import ForeignLoad
from tests.cli.conftest import latprune

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.cli.conftest import Disk


def test_a_busy_machine_is_said_where_something_was_measured(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ForeignLoad, "cores", lambda _: 1.4)
    monkeypatch.setenv("LATPRUNE_CACHE", str(tmp_path))
    command = ("measure", *disk.model, "--runtime", "synthetic")

    first, again = (latprune(*command) for _ in range(2))
    said = json.loads(latprune(*command, "--json").stdout)

    assert "others used 1.4 of its cores" in first.stdout
    assert "latprune table check" in first.stdout
    assert "was busy" not in again.stdout
    assert said["foreign_cores"] == 0.0
