"""Facts through JSON and back: what JSON would change is written so that it comes back the same."""

from __future__ import annotations

from collections import Counter
from typing import Any

KIND = "latprune.kind"


def encoded(value: Any, *, where: str = "the facts") -> Any:
    """Give JSON values for a fact.

    Args:
        value: None, numbers, strings; lists, tuples, dicts and Counters of them, with such keys.
        where: What it is, for the error.

    Raises:
        TypeError: If it, or something in it, is anything else.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [encoded(part, where=f"{where}[{n}]") for n, part in enumerate(value)]
    if isinstance(value, tuple):
        return {KIND: "tuple", "parts": encoded(list(value), where=where)}
    if isinstance(value, dict):
        parts = {key: encoded(part, where=f"{where}[{key!r}]") for key, part in value.items()}
        counts = isinstance(value, Counter)
        if not counts and all(isinstance(key, str) and key != KIND for key in parts):
            return parts
        pairs = [[encoded(key, where=f"a key of {where}"), part] for key, part in parts.items()]
        return {KIND: "Counter" if counts else "dict", "parts": pairs}
    raise TypeError(
        f"{where} is a {type(value).__name__}, which is not kept: keep numbers and strings, and "
        f"lists, tuples and dicts of them"
    )


def decoded(value: Any) -> Any:
    """Give back the fact that `encoded` was given."""
    if isinstance(value, list):
        return [decoded(part) for part in value]
    if not isinstance(value, dict):
        return value
    if KIND not in value:
        return {key: decoded(part) for key, part in value.items()}
    parts = decoded(value["parts"])
    if value[KIND] == "tuple":
        return tuple(parts)
    return (Counter if value[KIND] == "Counter" else dict)(dict(parts))
