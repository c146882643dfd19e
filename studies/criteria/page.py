"""Writes docs/results/criteria.md."""

from typing import Any


def write_page(document: dict[str, Any]) -> None:
    raise NotImplementedError
