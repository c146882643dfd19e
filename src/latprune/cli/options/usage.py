"""A value that latprune does not understand is an error of usage."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator


def finite(value: float | None) -> float | None:
    """Let typer refuse NaN and infinity, which no comparison with a limit would."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number to reckon with")
    return value


@contextmanager
def usage(option: str) -> Iterator[None]:
    """Make a `ValueError` an error of usage of an option, which leaves with 2."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
