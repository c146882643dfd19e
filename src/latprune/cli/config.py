"""`--config FILE`: a command's options from a TOML file; the command line has the last word."""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the values of a file the defaults of the command.

    Raises:
        BadParameter: If it cannot be read, or names an option that the command does not have.
    """
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}") from None
    context.default_map = {**_by_parameter(context, path, values), **(context.default_map or {})}
    return path


def _by_parameter(context: typer.Context, path: Path, values: dict[str, Any]) -> dict[str, Any]:
    names = {
        option.removeprefix("--"): parameter.name
        for parameter in context.command.params
        for option in parameter.opts
        if parameter.name not in (None, "config")
    }
    unknown = sorted(values.keys() - names.keys())
    if unknown:
        near = [found for name in unknown for found in get_close_matches(name, names, n=1)]
        meant = f"; did you mean {', '.join(near)}?" if near else "."
        raise typer.BadParameter(
            f"{path} has {', '.join(unknown)}, which {context.command.name} does not take{meant} "
            f"It may have what --help lists, without the dashes."
        )
    return {str(names[name]): value for name, value in values.items()}


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        is_eager=True,
        callback=read_config,
        help="Options of this command by their names, without the dashes. What is also given here "
        "is taken from here.",
    ),
]
