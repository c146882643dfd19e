"""What a command leaves behind: a table or JSON, a complaint, an exit code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
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


def conclude(report: Report, facts: dict[str, Any] | None, *, after: str = "") -> None:
    """Show a report and leave with the code that says whether the budget is met."""
    from latprune.report.text import render

    show(render(report) if facts is None else facts)
    if after and facts is None:
        show(f"\n{after}")
    raise typer.Exit(0 if report.met else NOT_MET)


def complain(sentence: str) -> None:
    """Write a sentence to stderr, in red."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(sentence, style="red", markup=False)
