"""Find the numbers in a model's Python attributes that count channels, such as `num_heads`.

While the model runs, its modules' integers are lent a subclass that knows where it came from. Where
one of them becomes a size of a tensor, in `reshape(b, n, 3, self.num_heads, self.head_dim)` or in
`split(x, self.widths, 1)`, the labels on that axis say what it counts.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence

    from latprune.graph.classes import IntArray, LabelClasses
    from latprune.graph.labels import LabelMode

    Place = tuple[str, str, int | None]

# Their own numbers follow from their weights; see `slicing`.
_TOLD_BY_WEIGHTS = (
    *(nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase),
    *(nn.LayerNorm, nn.RMSNorm, nn.GroupNorm),
)


class Number(int):
    """An integer that knows which attribute of which module it is.

    Attributes:
        place: The module's dotted name, the attribute, and which entry if it is a tuple or list.
    """

    place: Place

    def __new__(cls, value: int, place: Place) -> Number:
        """Give the number."""
        number = super().__new__(cls, value)
        number.place = place
        return number

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        """Copies are plain integers: a network may keep one beyond the run."""
        return int, (int(self),)


@dataclass(frozen=True, eq=False)
class Counted:
    """A number that was the size of a labelled axis.

    Attributes:
        place: Whose number.
        shadow: Labels of the tensor.
        axis: Of the tensor; the number is its size.
    """

    place: Place
    shadow: IntArray
    axis: int

    def labels(self, classes: LabelClasses) -> IntArray | None:
        """Give the labels that are counted; None if they do not lie along the axis."""
        found = np.moveaxis(self.shadow, self.axis, 0).reshape(self.shadow.shape[self.axis], -1)
        of_class = classes.find(found)
        return found[:, 0] if (of_class == of_class[:, :1]).all() else None


class NumberMode(TorchFunctionMode):
    """Watches the model's numbers while it runs.

    Attributes:
        counted: Where they were sizes of labelled axes.
        current: Those among the arguments of the function that is running.
    """

    def __init__(self, mode: LabelMode) -> None:
        super().__init__()
        self.counted: list[Counted] = []
        self.current: tuple[Number, ...] = ()
        self._mode = mode
        self._unlabelled: MutableMapping[Tensor, tuple[tuple[Number, int], ...]]
        self._unlabelled = WeakTensorKeyDictionary()

    @contextmanager
    def lent_to(self, model: nn.Module) -> Iterator[None]:
        """Watch; every module's numbers are as before afterwards."""
        before = [(m, k, v) for m in model.modules() for k, v in vars(m).items()]
        for name, module in model.named_modules():
            if not (isinstance(module, _TOLD_BY_WEIGHTS) and "weight" in module._parameters):
                _mark_numbers(module, name)
        try:
            with self:
                yield
        finally:
            for module, attribute, value in before:
                if vars(module).get(attribute) is not value and _has_numbers(value):
                    vars(module)[attribute] = value

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch, then see which sizes came from where."""
        kwargs = kwargs or {}
        before, self.current = self.current, tuple(_numbers_in((args, kwargs)))
        try:
            result = func(*args, **kwargs)
        finally:
            found, self.current = self.current, before
        if found:
            for number, tensor, axis in _sizes(func.__name__, args, kwargs, result):
                self._size(number, tensor, axis)
        return result

    def count(self, number: Number, labels: IntArray) -> None:
        """Remember that a number counts these labels."""
        self.counted.append(Counted(number.place, labels, 0))

    def follow(self, tensor: Tensor, axis: int, shadow: IntArray, along: int) -> bool:
        """Let an axis that is the same all along be as long as there are labels.

        Args:
            tensor: One whose axis has no labels, such as an expanded filter or mask.
            axis: Of the tensor.
            shadow: What the tensor meets.
            along: The axis of the shadow.

        Returns:
            Whether a number of the model's made it so long, so that it can follow.
        """
        found = [number for number, told in self._unlabelled.get(tensor, ()) if told == axis]
        if not found or not bool((tensor == tensor.narrow(axis, 0, 1)).all()):
            return False
        self.counted.extend(Counted(number.place, shadow, along) for number in found)
        return True

    def _size(self, number: Number, tensor: Tensor, axis: int) -> None:
        shadows = [s for s in self._mode.shadows(tensor) if s.shape[axis] == number > 1]
        self.counted.extend(Counted(number.place, shadow, axis) for shadow in shadows)
        if not shadows:
            known = self._unlabelled.get(tensor, ())
            self._unlabelled[tensor] = (*known, (number, axis))


def _mark_numbers(module: nn.Module, name: str) -> None:
    for attribute, value in list(vars(module).items()):
        if type(value) is int and value > 1:
            vars(module)[attribute] = Number(value, (name, attribute, None))
        elif _has_numbers(value) and not isinstance(value, int):
            vars(module)[attribute] = type(value)(
                Number(entry, (name, attribute, index)) if entry > 1 else entry
                for index, entry in enumerate(value)
            )


def _has_numbers(value: object) -> bool:
    """Whether it is an integer, or a plain tuple or list of nothing else."""
    if type(value) in (tuple, list):
        assert isinstance(value, tuple | list)
        return bool(value) and all(type(entry) is int for entry in value)
    return type(value) is int


def _numbers_in(tree: Any) -> Iterator[Number]:
    if isinstance(tree, Number):
        yield tree
    elif isinstance(tree, slice):
        yield from _numbers_in((tree.start, tree.stop))
    elif isinstance(tree, tuple | list):
        for part in tree:
            yield from _numbers_in(part)
    elif isinstance(tree, dict):
        yield from _numbers_in(list(tree.values()))


def _sizes(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
) -> Iterator[tuple[Number, Tensor, int]]:
    """Give the numbers among a function's arguments that are sizes of what it returned."""
    if name in ("reshape", "view", "expand") and isinstance(result, Tensor):
        sizes = kwargs.get("shape", kwargs.get("size", args[1:]))
        sizes = sizes[0] if sizes and isinstance(sizes[0], tuple | list) else sizes
        for axis, number in enumerate(sizes):
            if isinstance(number, Number):
                yield number, result, axis
    elif name == "unflatten" and isinstance(result, Tensor):
        axis, sizes = kwargs.get("dim", args[1:2]), kwargs.get("sizes", args[2:])
        axis = axis[0] if isinstance(axis, tuple) else axis
        sizes = sizes[0] if sizes and isinstance(sizes[0], tuple | list) else sizes
        for offset, number in enumerate(sizes):
            if isinstance(number, Number):
                yield number, result, axis % (result.dim() - len(sizes) + 1) + offset
    elif name in ("split", "split_with_sizes"):
        yield from _parts(args, kwargs, result)
    elif name in ("layer_norm", "rms_norm") and isinstance(result, Tensor):
        sizes = kwargs.get("normalized_shape", args[1] if len(args) > 1 else ())
        for axis, number in enumerate(sizes, start=result.dim() - len(sizes)):
            if isinstance(number, Number):
                yield number, result, axis


def _parts(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], parts: Sequence[Tensor]
) -> Iterator[tuple[Number, Tensor, int]]:
    sizes = kwargs.get("split_size_or_sizes", kwargs.get("split_size", args[1:2]))
    sizes = sizes[0] if isinstance(sizes, tuple) and len(sizes) == 1 else sizes
    axis = kwargs.get("dim", args[2] if len(args) > 2 else 0) % parts[0].dim()
    each = [sizes] * len(parts) if isinstance(sizes, int) else sizes
    for number, part in zip(each, parts, strict=False):
        if isinstance(number, Number):
            yield number, part, axis
