"""Quantise for timing what NNCF has quantised in other widths already.

Where NNCF puts what rounds depends on a network's operators and how they hang together, not on
their widths. It takes seconds to find that out, and a table holds hundreds of layers in a few
structures, a plan some dozen networks in one. So NNCF is asked once for each structure, and what it
put where is put there in the next one. The integers then mean something else than its own would;
that takes no time.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from latprune.errors import import_extra
from latprune.latency.openvino_int8 import EXTRA, in_int8

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_OPERATORS = "openvino.opset13"


class Alike:
    """A quantiser that remembers what NNCF did to networks of a structure."""

    def __init__(self) -> None:
        self._done: dict[str, list[_Place] | None] = {}

    def in_int8(self, model: Any, runs: Sequence[Sequence[np.ndarray]]) -> Any:
        """Quantise a model that is to be timed, and for nothing else.

        Args:
            model: An `openvino.Model` of fixed sizes; it stays as it is.
            runs: What to calibrate with, as for `openvino_int8.in_int8`.

        Returns:
            A new `openvino.Model` that runs in the time of NNCF's own.

        Raises:
            CannotQuantise: If NNCF fails on the model.
            MissingExtra: If nncf is not installed.
        """
        signs = [[float(array.min()) >= 0 for array in arrays] for arrays in runs]
        key = _digest([signs, _structure(model)])
        places = self._done.get(key)
        if places is not None:
            return _rounded(model, places)
        quantised = in_int8(model, runs, correct=False)
        if key not in self._done:
            self._done[key] = _repeatable(model, quantised)
        return quantised


class _Activations(NamedTuple):
    """A `FakeQuantize`: its name behind that of what it rounds, and its inputs' ranges."""

    suffix: str
    levels: int
    ranges: tuple[np.ndarray, ...]


class _Weights(NamedTuple):
    """Integers in place of constants, each times a scale.

    Attributes:
        dtype: Of the integers.
        axes: Along which values share a scale.
        step: A scale over the greatest value that it serves.
    """

    dtype: np.dtype[Any]
    axes: tuple[int, ...]
    step: float


class _Place(NamedTuple):
    """An operator, by its number in order, its input, and what stands before it.

    What bears the same name is one and the same.
    """

    operator: int
    input: int
    name: str
    rounding: _Activations | _Weights


class _Unknown(Exception):
    """Something stands there that cannot be put elsewhere."""


def _structure(model: Any) -> list[Any]:
    """Give what NNCF decides by, in order: operators, what they read; of sizes only which are 1."""
    numbers: dict[str, int] = {}
    found = []
    for number, operator in enumerate(model.get_ordered_ops()):
        numbers[operator.get_name()] = number
        written = [
            (output.get_element_type().get_type_name(), [size == 1 for size in output.get_shape()])
            for output in operator.outputs()
        ]
        sources = [wanted.get_source_output() for wanted in operator.inputs()]
        read = [(numbers[one.get_node().get_name()], one.get_index()) for one in sources]
        found.append((operator.get_type_name(), written, read, _settings(operator)))
    return found


def _settings(operator: Any) -> list[tuple[str, str]]:
    """Give an operator's attributes, but those that are sizes."""
    if operator.get_type_name() in ("Parameter", "Constant"):
        return []
    return sorted((key, str(value)) for key, value in operator.get_attributes().items())


def _digest(facts: Any) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _repeatable(model: Any, quantised: Any) -> list[_Place] | None:
    """Give what was put where; None unless putting it there again gives the same."""
    try:
        places = list(_places(model, quantised))
    except _Unknown:
        return None
    again = _rounded(model, places)
    return places if _structure(again) == _structure(quantised) else None


def _places(model: Any, quantised: Any) -> Iterator[_Place]:
    """Compare a model with what NNCF made of it.

    Raises:
        _Unknown: If NNCF did something else than rounding inputs and storing constants as integers,
            or operators have no names of their own.
    """
    operators = model.get_ordered_ops()
    if len({operator.get_friendly_name() for operator in operators}) < len(operators):
        raise _Unknown
    twins = {one.get_friendly_name(): one for one in quantised.get_ordered_ops()}
    for number, operator in enumerate(operators):
        twin = twins.get(operator.get_friendly_name())
        if twin is None:
            continue  # a constant that integers took the place of
        for place, wanted in enumerate(operator.inputs()):
            source = wanted.get_source_output()
            given = twin.input(place).get_source_output()
            if _named(given) != _named(source):
                rounding = _rounding(source, given.get_node())
                yield _Place(number, place, given.get_node().get_friendly_name(), rounding)


def _named(output: Any) -> tuple[str, int]:
    return output.get_node().get_friendly_name(), output.get_index()


def _rounding(source: Any, node: Any) -> _Activations | _Weights:
    """Read off what NNCF put behind `source`.

    Raises:
        _Unknown: If it is none of the two.
    """
    kind, name = node.get_type_name(), source.get_node().get_friendly_name()
    before = [_before(node, place) for place in range(node.get_input_size())]
    if kind == "FakeQuantize" and _named(node.input(0).get_source_output()) == _named(source):
        ranges = tuple(np.array(_values(one)) for one in before[1:])
        suffix = node.get_friendly_name().removeprefix(name)
        return _Activations(suffix, int(node.get_attributes()["levels"]), ranges)
    if kind == "Multiply" and before[0].get_type_name() == "Convert":
        integers, scales = _values(_before(before[0], 0)), _values(before[1])
        return _weights(_values(source.get_node()), integers, scales)
    raise _Unknown


def _before(node: Any, place: int) -> Any:
    return node.input(place).get_source_output().get_node()


def _values(node: Any) -> np.ndarray:
    """Give a constant's values.

    Raises:
        _Unknown: If it is none.
    """
    if node.get_type_name() != "Constant":
        raise _Unknown
    return np.asarray(node.get_data())


def _weights(values: np.ndarray, integers: np.ndarray, scales: np.ndarray) -> _Weights:
    if integers.shape != values.shape or scales.ndim != values.ndim:
        raise _Unknown
    axes = tuple(axis for axis, size in enumerate(scales.shape) if size == 1)
    greatest = np.abs(values).max(axis=axes, keepdims=True)
    steps = (scales / np.where(greatest > 0, greatest, np.inf))[greatest > 0]
    return _Weights(integers.dtype, axes, float(np.median(steps)) if steps.size else 1.0)


def _rounded(model: Any, places: Sequence[_Place]) -> Any:
    """Give a copy of a model in which inputs are rounded at these places."""
    copy = model.clone()
    operators = copy.get_ordered_ops()
    made: dict[str, Any] = {}
    for place in places:
        wanted = operators[place.operator].input(place.input)
        if place.name not in made:
            made[place.name] = _made(wanted.get_source_output(), place.rounding)
        wanted.replace_source_output(made[place.name].output(0))
    copy.validate_nodes_and_infer_types()
    return copy


def _made(source: Any, rounding: _Activations | _Weights) -> Any:
    operators = import_extra(_OPERATORS, EXTRA)
    if isinstance(rounding, _Activations):
        sizes = tuple(source.get_shape())
        ranges = [operators.constant(_of_sizes(values, sizes)) for values in rounding.ranges]
        made = operators.fake_quantize(source, *ranges, rounding.levels)
        made.set_friendly_name(source.get_node().get_friendly_name() + rounding.suffix)
        return made
    values = np.asarray(source.get_node().get_data())
    greatest = np.abs(values).max(axis=rounding.axes, keepdims=True)
    scales = np.where(greatest > 0, greatest, 1).astype(np.float32) * np.float32(rounding.step)
    limits = np.iinfo(rounding.dtype)
    integers = np.clip(np.rint(values / scales), limits.min, limits.max).astype(rounding.dtype)
    converted = operators.convert(operators.constant(integers), "f32")
    return operators.multiply(converted, operators.constant(scales))


def _of_sizes(values: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Repeat or leave out values per channel, as many as there are of them now."""
    if values.ndim != len(sizes):
        return values
    both = zip(values.shape, sizes, strict=True)
    return np.resize(values, [1 if own == 1 else size for own, size in both])
