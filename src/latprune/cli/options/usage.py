"""A value that latprune does not understand is an error of usage."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def usage(option: str) -> Iterator[None]:
    """Make a `ValueError` an error of usage of an option, which leaves with 2."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
