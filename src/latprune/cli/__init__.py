"""The command line."""

from __future__ import annotations

import sys

from latprune.errors import MissingExtra, import_extra


def main() -> None:
    """Run `latprune` with the process's arguments."""
    try:
        for package in ("typer", "rich"):
            import_extra(package, "cli")
    except MissingExtra as error:
        sys.exit(f"error: {error}")
    from latprune.cli.app import app

    app(prog_name="latprune")
