"""What a network may take: milliseconds, or a share of what the dense one takes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Budget:
    """What a network may take: milliseconds, or a share of what the dense one takes.

    Attributes:
        ms: Milliseconds, > 0.
        fraction: Of the dense network's measured latency, > 0.
    """

    ms: float | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        given = [number for number in (self.ms, self.fraction) if number is not None]
        if len(given) != 1:
            raise ValueError("a budget has either ms= or fraction=")
        try:
            is_right = math.isfinite(given[0]) and given[0] > 0
        except TypeError:
            raise ValueError(
                f"ms= and fraction= are numbers; text is read by Budget.parse({given[0]!r})"
            ) from None
        if not is_right:
            raise ValueError(f"a budget is a finite number above 0, not {given[0]}")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `60%`, `12ms` or `12.5 ms`.

        Raises:
            ValueError: If it is none of these.
        """
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%|ms)\s*", text)
        if found is None:
            raise ValueError(f"a budget reads like 60% or 12.5ms, not {text!r}")
        number, unit = float(found[1]), found[2]
        return cls(fraction=number / 100) if unit == "%" else cls(ms=number)

    def in_ms(self, baseline_ms: float) -> float:
        """Give milliseconds, the dense network taking `baseline_ms`."""
        if self.fraction is not None:
            return self.fraction * baseline_ms
        assert self.ms is not None
        return self.ms

    def used(self, *, ratio: float, ms: float) -> float:
        """Give the share of the budget that a network takes; above 1 it is not met.

        Args:
            ratio: Its time over the dense network's, timed in turns. It is what counts against a
                share: drift cancels in it.
            ms: Its time, which counts against milliseconds.
        """
        if self.fraction is not None:
            return ratio / self.fraction
        assert self.ms is not None
        return ms / self.ms

    def __str__(self) -> str:
        return f"{self.ms:g} ms" if self.fraction is None else f"{100 * self.fraction:g}%"

    def to_json(self) -> dict[str, Any]:
        """Give the one field that is set."""
        return {"ms": self.ms} if self.fraction is None else {"fraction": self.fraction}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Budget:
        """Read what `to_json` gave."""
        return cls(**fields)


def as_budget(budget: Budget | str | float) -> Budget:
    """Give a budget for `0.6`, `"60%"`, `"12ms"` or a budget.

    Raises:
        ValueError: If it is none of these, or a bare number above 1: percent or milliseconds?
    """
    if isinstance(budget, Budget):
        return budget
    if isinstance(budget, str):
        return Budget.parse(budget)
    given: object = budget
    if not isinstance(given, Real):
        raise ValueError(f"a budget reads like 0.6, '60%' or '12ms', or is a Budget, not {given}")
    if budget > 1:
        raise ValueError(
            f"a budget of {budget:g} is {budget:g} times what the dense network takes: write "
            f"'{budget:g}%' or '{budget:g}ms', or Budget(fraction={budget:g}) if it is meant"
        )
    return Budget(fraction=budget)
