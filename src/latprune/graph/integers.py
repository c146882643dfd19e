"""Integers that know where they come from: an attribute of a module, or the size of a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

from latprune.graph.lengths import Length

Place: TypeAlias = tuple[str, str, int | None]
Origin: TypeAlias = "Place | Length | Difference | Ratio"

_ONCE = Fraction(1)


@dataclass(frozen=True)
class Difference:
    """What remains of a number without another one; both are attributes.

    Attributes:
        whole: The place of the one.
        part: The place of the other.
    """

    whole: Place
    part: Place


@dataclass(frozen=True)
class Ratio:
    """One of a number for each of another one; both are attributes, and as large.

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
            or the axis of a tensor, or what remains of one attribute without another, or how often
            it holds another one.
        times: How many times as large the attribute is: 2 of `self.channels // 2`, a third of
            `self.channels * 3`.
    """

    origin: Origin
    times: Fraction

    def __new__(cls, value: int, origin: Origin, times: Fraction = _ONCE) -> Number:
        """Give the number."""
        number = super().__new__(cls, value)
        number.origin, number.times = origin, times
        return number

    def __floordiv__(self, other: Any) -> Any:
        """Divide; where nothing remains it is still known where the number came from."""
        if not isinstance(other, int) or other <= 0 or int(self) % other:
            return int(self) // other
        if isinstance(other, Number) and (ratio := self._ratio(other)) is not None:
            return Number(1, ratio)
        return Number(int(self) // other, self.origin, self.times * int(other))

    def _ratio(self, other: Number) -> Ratio | None:
        """Say whose numbers these are if both are attributes, and as large."""
        if int(self) != int(other) or not self.times == other.times == 1:
            return None
        if isinstance(self.origin, tuple) and isinstance(other.origin, tuple):
            return Ratio(self.origin, other.origin)
        return None

    def __mul__(self, other: Any) -> Any:
        """Multiply; a multiple of a tensor's size or of an attribute is still known as one."""
        if not isinstance(other, int):
            return NotImplemented
        product = int(self) * int(other)
        if isinstance(other, Number) or product < 1:
            return product
        if isinstance(self.origin, Length):
            return Number(product, self.origin)
        if isinstance(self.origin, tuple):
            return Number(product, self.origin, self.times / int(other))
        return product

    __rmul__ = __mul__

    def __sub__(self, other: Any) -> Any:
        """Subtract; what remains without a part, as in `self.dim - self.passed`, is known."""
        if not isinstance(other, int):
            return NotImplemented
        rest = int(self) - int(other)
        if not isinstance(other, Number) or not self.times == other.times == 1 or rest < 1:
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

    def __lt__(self, other: int) -> bool:
        return self._compared(int(self) < other)

    def __le__(self, other: int) -> bool:
        return self._compared(int(self) <= other)

    def __gt__(self, other: int) -> bool:
        return self._compared(int(self) > other)

    def __ge__(self, other: int) -> bool:
        return self._compared(int(self) >= other)

    def _compared(self, result: bool) -> bool:
        """Remember that code may do something else where this is larger, or smaller."""
        if isinstance(self.origin, Length):
            self.origin.owner.compares = True
        return result

    __hash__ = int.__hash__
