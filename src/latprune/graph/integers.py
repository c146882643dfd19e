"""Integers that know where they come from: an attribute of a module, or the size of a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from latprune.graph.lengths import Length

Place: TypeAlias = tuple[str, str, int | None]
Origin: TypeAlias = "Place | Length | Difference"


@dataclass(frozen=True)
class Difference:
    """What remains of a number without another one; both are attributes.

    Attributes:
        whole: The place of the one.
        part: The place of the other.
    """

    whole: Place
    part: Place


class Number(int):
    """An integer that knows which attribute of which module it is, or which size of a tensor.

    Attributes:
        origin: The module's dotted name, the attribute, and which entry if it is a tuple or list;
            or the axis of a tensor, or what remains of one attribute without another.
        times: How many times as large the attribute is, as in `self.channels // 2`.
    """

    origin: Origin
    times: int

    def __new__(cls, value: int, origin: Origin, times: int = 1) -> Number:
        """Give the number."""
        number = super().__new__(cls, value)
        number.origin, number.times = origin, times
        return number

    def __floordiv__(self, other: Any) -> Any:
        """Divide; where nothing remains it is still known where the number came from."""
        if not isinstance(other, int) or other <= 0 or int(self) % other:
            return int(self) // other
        return Number(int(self) // other, self.origin, self.times * int(other))

    def __mul__(self, other: Any) -> Any:
        """Multiply; a multiple of a tensor's size is still one."""
        if not isinstance(other, int):
            return NotImplemented
        product = int(self) * int(other)
        known = isinstance(self.origin, Length) and not isinstance(other, Number)
        return Number(product, self.origin) if known else product

    __rmul__ = __mul__

    def __sub__(self, other: Any) -> Any:
        """Subtract; what remains without a part, as in `self.dim - self.passed`, is known."""
        if not isinstance(other, int):
            return NotImplemented
        rest = int(self) - int(other)
        if not isinstance(other, Number) or (self.times, other.times) != (1, 1) or rest < 1:
            return rest
        if isinstance(self.origin, tuple) and isinstance(other.origin, tuple):
            return Number(rest, Difference(self.origin, other.origin))
        return rest

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        """Copies are plain integers: a network may keep one beyond the run."""
        return int, (int(self),)


class Size(Number):
    """The size of a labelled axis; it says which of the model's numbers it is equal to."""

    def __eq__(self, other: object) -> bool:
        """Compare; in `assert x.shape[1] == self.channels` the attribute counts the channels."""
        same = int(self) == other
        if same and isinstance(other, Number) and isinstance(self.origin, Length):
            self.origin.owner.tie(other, self.origin)
        return same

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__
