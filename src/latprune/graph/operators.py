"""What operators are called, and what they are known to do."""

from __future__ import annotations

from typing import Any

_DRAW = frozenset(
    {
        *("rand", "randn", "rand_like", "randn_like", "bernoulli", "uniform", "normal"),
        *("exponential", "log_normal", "cauchy", "geometric"),
    }
)


def operator_name(func: Any) -> tuple[str, bool]:
    """Give an operator's name without namespace and underscore, and whether it is in place."""
    raw = func._schema.name.partition("::")[2]
    in_place = raw.endswith("_") and not raw.endswith("__")
    return raw.rstrip("_") if in_place else raw, in_place


def draws(name: str) -> bool:
    """Whether an operator's results are random numbers, none of which depends on another."""
    return name in _DRAW
