"""What a command leaves behind: a table or JSON, a complaint, an exit code."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from latprune.report import Report

FAILED, IMPOSSIBLE, NOT_MET, INTERRUPTED = 1, 3, 4, 130


def show(result: dict[str, Any] | RenderableType) -> None:
    """Write a result to stdout: a dict as JSON, anything else for people."""
    if isinstance(result, dict):
        print(json.dumps(result, indent=2))
    elif isinstance(result, str):
        print(result)
    else:
        Console().print(result)


def conclude(reports: Sequence[Report], facts: dict[str, Any] | None, *, after: str = "") -> None:
    """Show reports, one per target, and leave with the code that says whether all budgets are met.

    Args:
        reports: The first target's first.
        facts: What to show as JSON instead; None: a table.
        after: What to say below the table.
    """
    from latprune.report.text import render

    first, *also = reports
    show(render(first, also=also) if facts is None else facts)
    if after and facts is None:
        show(f"\n{after}")
    raise typer.Exit(0 if all(report.met for report in reports) else NOT_MET)


def program() -> str:
    """Give the word that starts this command: a path, where the shell would not find `latprune`."""
    started = Path(sys.argv[0])
    is_found = started.name != "latprune" or shutil.which("latprune") is not None
    return "latprune" if is_found else str(started)


def complain(sentence: str) -> None:
    """Write a sentence to stderr, in red."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(sentence, style="red", markup=False)
