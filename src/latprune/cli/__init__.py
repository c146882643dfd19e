"""The command line."""

from __future__ import annotations

import io
import sys

from latprune.errors import MissingExtra, import_extra

INTERRUPTED = 130


def main() -> None:
    """Run `latprune` with the process's arguments."""
    _write_what_the_console_can()
    try:
        try:
            for package in ("typer", "rich"):
                import_extra(package, "cli")
        except MissingExtra as error:
            sys.exit(f"error: {error}")
        from latprune.cli.app import app

        app(prog_name="latprune")
    except KeyboardInterrupt:  # before a command runs, which says more about it
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _write_what_the_console_can() -> None:
    """Let a question mark stand for what a console's encoding lacks, as cp1252 lacks →."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
