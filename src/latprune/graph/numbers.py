"""Find the numbers in Python that count channels, such as `self.num_heads` or `x.shape[-1]`.

While the model runs, its modules' integers, and the sizes of labelled tensors, are lent a subclass
that knows where it came from. Where one of them becomes a size of a tensor, in `reshape(b, n, 3,
self.num_heads, c // self.num_heads)` or in `split(x, self.widths, 1)`, the labels on that axis say
what it counts, or what must stay as long as the axis that it was read from.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from latprune.graph.integers import Number, Ratio, Size
from latprune.graph.lengths import Length
from latprune.graph.reparametrised import weights_of
from latprune.graph.shadows import shrunk, varying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
    from fractions import Fraction

    from latprune.graph.classes import IntArray, LabelClasses
    from latprune.graph.integers import Origin
    from latprune.graph.labels import LabelMode

# Their own numbers follow from their weights; see `slicing`.
_TOLD_BY_WEIGHTS = (
    *(nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase),
    *(nn.LayerNorm, nn.RMSNorm, nn.GroupNorm),
)


DIVIDED_BY_ROOT = "attention divides by the root of its length"


@dataclass(frozen=True, eq=False)
class Counted:
    """A number that was the size of a labelled axis.

    Attributes:
        origin: Whose number.
        shadow: Labels of the tensor.
        axis: Of the tensor; the number is its size.
        times: How many times as large the attribute is.
    """

    origin: Origin
    shadow: IntArray
    axis: int
    times: Fraction

    def labels(self, classes: LabelClasses) -> IntArray | None:
        """Give the labels that are counted; None if they do not lie along the axis."""
        blocks = self._blocks
        of_class = classes.find(blocks)
        return np.tile(blocks[0, :, 0], self.times.numerator) if _is_one(of_class) else None

    def keep_as_long(self, classes: LabelClasses) -> None:
        """Cut the axis with the one that its size was read from, or all multiples of a number."""
        if isinstance(self.origin, Length):
            self.origin.keep(classes, self.shadow, self.axis)
        elif len(blocks := self._blocks) > 1 and all(map(_is_one, classes.find(blocks)[:, None])):
            classes.join(blocks, blocks[:1], "blocks of a multiple of a number")

    @property
    def _blocks(self) -> IntArray:
        """The labels, [times that the number fits into the axis, number, along other axes]."""
        along = np.moveaxis(self.shadow, self.axis, 0)
        return along.reshape(self.times.denominator, -1, self.shadow.size // len(along))


def _is_one(of_class: IntArray) -> bool:
    """Whether all blocks hold the same classes, which differ along one axis only."""
    return bool((of_class == of_class[:1, :, :1]).all())


class NumberMode(TorchFunctionMode):
    """Watches the model's numbers while it runs.

    Attributes:
        counted: Where they were sizes of labelled axes.
        equal: Those that must stay equal, since code writes one of one for each of the other.
        current: Those among the arguments of the function that is running.
        function: Its name.
        compares: Whether code asked which of a labelled axis's size and another number is larger.
    """

    def __init__(self, mode: LabelMode) -> None:
        super().__init__()
        self.counted: list[Counted] = []
        self.equal: list[Ratio] = []
        self.current: tuple[Number, ...] = ()
        self.function = ""
        self.compares = False
        self._mode = mode
        self._unlabelled: MutableMapping[Tensor, tuple[tuple[Number, int], ...]]
        self._unlabelled = WeakTensorKeyDictionary()

    @contextmanager
    def lent_to(self, model: nn.Module) -> Iterator[None]:
        """Watch; every module's numbers are as before afterwards."""
        before = [(m, k, v) for m in model.modules() for k, v in vars(m).items()]
        for name, module in model.named_modules():
            if not (isinstance(module, _TOLD_BY_WEIGHTS) and weights_of(module)):
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
        if (sizes := _asks_for_sizes(func)) is not None:
            return self._with_origins(args[0], func(*args, **kwargs), sizes, *args[1:], **kwargs)
        before = self.current, self.function
        # Libraries that remember sizes, as einops does, may come with those of another run.
        known = (n for n in _numbers_in((args, kwargs)) if getattr(n.origin, "owner", self) is self)
        name = getattr(func, "__name__", "")
        self.current, self.function = tuple(known), name
        if func is F.multi_head_attention_forward:
            weights = [kwargs.get(f"{part}_proj_weight") for part in "qkv"]
            self._tie_heads(args[0], args[3], args[4], args[5], weights)
        try:
            result = func(*args, **kwargs)
        finally:
            found = self.current
            self.current, self.function = before
        if func is F.scaled_dot_product_attention and kwargs.get("scale") is None:
            self._divided_by_root(args[0] if args else kwargs["query"])
        if getattr(func, "__self__", None) is Tensor.data and isinstance(result, Tensor):
            self._mode.put_shadows(result, self._mode.shadows(args[0]))  # no operator shows it
        if name in _TAKE_SIZES_OF and isinstance(result, Tensor):
            self._as_another(args[1] if len(args) > 1 else kwargs["other"], result)
        if found:
            for number, tensor, axis in _sizes(name, args, kwargs, result):
                if any(number is known for known in found):
                    if name in _ZEROS:
                        self._mode.begin(tensor, axis)
                    self._size(number, tensor, axis)
        return result

    def count(self, number: Number, labels: IntArray) -> None:
        """Remember that a number counts these labels."""
        self.counted.append(Counted(number.origin, labels, 0, number.times))

    def tie(self, number: Number, length: Length) -> None:
        """Remember that a number and an axis were found to be equal, and must stay so."""
        if isinstance(number.origin, tuple):
            self.counted.append(Counted(number.origin, length.shadow, length.axis, number.times))

    def follow(self, tensor: Tensor, axis: int, shadow: IntArray, along: int) -> bool:
        """Let an axis that is the same all along be as long as there are labels.

        It may also be so in equal blocks that all lose the same positions, as where a norm has
        taken statistics over each of them.

        Args:
            tensor: One whose axis has no labels, such as an expanded filter or mask.
            axis: Of the tensor.
            shadow: What the tensor meets.
            along: The axis of the shadow.

        Returns:
            Whether a number of the model's made it so long, so that it can follow.
        """
        found = [number for number, told in self._unlabelled.get(tensor, ()) if told == axis]
        if not found:
            return False
        period = self._period(shadow, along)
        blocks = tensor.reshape(*tensor.shape[:axis], -1, period, *tensor.shape[axis + 1 :])
        if not bool((blocks == blocks.narrow(axis + 1, 0, 1)).all()):
            return False
        self.counted.extend(Counted(number.origin, shadow, along, number.times) for number in found)
        return True

    def _period(self, shadow: IntArray, along: int) -> int:
        """Give the length of the equal blocks of an axis that all lose the same positions."""
        of_class = np.moveaxis(self._mode.classes.find(shadow), along, 0)
        period = len(np.unique(of_class))
        if period == 1 or len(of_class) % period:
            return len(of_class)
        blocks = of_class.reshape(-1, period, *of_class.shape[1:])
        return period if bool((blocks == blocks[:1]).all()) else len(of_class)

    def _tie_heads(
        self,
        query: Tensor,
        embed_dim: int,
        heads: int,
        together: Tensor | None,
        apart: Sequence[Tensor | None],
    ) -> None:
        """Torch's own attention is as wide as what it reads, so these are cut together by heads."""
        mode = self._mode
        if together is not None:
            rows = mode.on(together, 0).reshape(3, -1)
        else:  # keys and values come in widths of their own
            rows = np.stack([mode.on(weight, 0) for weight in apart if weight is not None])
        width = mode.on(query, -1)
        mode.join(rows, width[None, :], "attention is as wide as what it reads, which stays")
        if isinstance(embed_dim, Number):
            self.count(embed_dim, width)
        if isinstance(heads, Number):
            self.counted.append(Counted(heads.origin, width.reshape(heads, -1), 0, heads.times))

    def _divided_by_root(self, query: Tensor) -> None:
        """Mark the width of heads that is cut: where torch has no kernel, no operator shows it."""
        mode = self._mode
        for shadow in mode.known_shadows(query):
            if varying(shrunk(mode.classes.find(shadow))) == [query.dim() - 1]:
                mode.classes.approximate(shadow, f"{DIVIDED_BY_ROOT}{mode.at()}")
                if mode.seen.recording:
                    mode.mixed.add(("scaled_dot_product_attention", 0))

    def _with_origins(self, tensor: Tensor, found: Any, read: str, dim: int | None = None) -> Any:
        """Let sizes of labelled axes know what they are sizes of."""
        why = f"as long as {read} tells{self._mode.at()}, which stays"
        sizes = {
            axis: Size(shadow.shape[axis], Length(shadow, axis, why, owner=self))
            for shadow in self._mode.known_shadows(tensor)
            for axis in varying(shadow)
        }
        if not sizes or (read == "x.numel()" and tensor.dim() != 1):
            return found
        if isinstance(found, tuple):
            return torch.Size(sizes.get(axis, size) for axis, size in enumerate(found))
        return sizes.get(0 if dim is None else dim % tensor.dim(), found)

    def _as_another(self, other: Tensor, result: Tensor) -> None:
        """`x.view_as(y)` is as large as `y`, and must stay so."""
        for axis, size in enumerate(self._with_origins(other, tuple(other.shape), "x.shape")):
            if isinstance(size, Number):
                self._size(size, result, axis)

    def _size(self, number: Number, tensor: Tensor, axis: int) -> None:
        if isinstance(number.origin, Ratio):
            self.equal.append(number.origin)
            return
        shadows = [s for s in self._mode.shadows(tensor) if s.shape[axis] == number > 1]
        self.counted.extend(Counted(number.origin, s, axis, number.times) for s in shadows)
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


def _asks_for_sizes(func: Callable[..., Any]) -> str | None:
    """Give the words for what a function of torch tells of a tensor's size, if it does."""
    if getattr(func, "__self__", None) is Tensor.shape:
        return "x.shape"
    return _SIZES.get(func)


_SIZES: Mapping[Any, str] = {Tensor.size: "x.size()", Tensor.numel: "x.numel()"}


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


_CREATE = frozenset({"zeros", "ones", "full"})
_ZEROS = frozenset({"zeros", "new_zeros"})
_TAKE_SIZES_OF = frozenset({"view_as", "reshape_as", "expand_as"})
_TAKE_SIZES = _CREATE | {
    "reshape",
    "view",
    "expand",
    "broadcast_to",
    "new_zeros",
    "new_ones",
    "new_full",
}


def _sizes(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
) -> Iterator[tuple[Number, Tensor, int]]:
    """Give the numbers among a function's arguments that are sizes of what it returned."""
    if name in _TAKE_SIZES and isinstance(result, Tensor):
        given = args[0 if name in _CREATE else 1 :]
        sizes = kwargs.get("shape", kwargs.get("size", given))
        sizes = sizes[0] if sizes and isinstance(sizes[0], tuple | list) else sizes
        for axis, number in enumerate(sizes):
            if isinstance(number, Number):
                yield number, result, axis
    elif name in ("repeat", "tile") and isinstance(result, Tensor):
        times = kwargs.get("repeats", kwargs.get("dims", args[1:]))
        times = times[0] if times and isinstance(times[0], tuple | list) else times
        for axis, number in enumerate(times, start=result.dim() - len(times)):
            if isinstance(number, Number) and number == result.shape[axis]:
                yield number, result, axis
    elif name == "unflatten" and isinstance(result, Tensor):
        axis, sizes = kwargs.get("dim", args[1:2]), kwargs.get("sizes", args[2:])
        axis = axis[0] if isinstance(axis, tuple) else axis
        sizes = sizes[0] if sizes and isinstance(sizes[0], tuple | list) else sizes
        for offset, number in enumerate(sizes):
            if isinstance(number, Number):
                yield number, result, axis % (result.dim() - len(sizes) + 1) + offset
    elif name == "__getitem__" and isinstance(result, Tensor):
        yield from _whole_slices(args[0], args[1], result)
    elif name in ("split", "split_with_sizes"):
        yield from _parts(args, kwargs, result)
    elif name in ("layer_norm", "rms_norm") and isinstance(result, Tensor):
        sizes = kwargs.get("normalized_shape", args[1] if len(args) > 1 else ())
        for axis, number in enumerate(sizes, start=result.dim() - len(sizes)):
            if isinstance(number, Number):
                yield number, result, axis


def _whole_slices(x: Tensor, index: Any, result: Tensor) -> Iterator[tuple[Number, Tensor, int]]:
    """Give the numbers that a slice of all of an axis ends at; shorter ones rules see."""
    index = index if isinstance(index, tuple) else (index,)
    if all(isinstance(part, slice) for part in index):
        for axis, part in enumerate(index):
            if isinstance(part.stop, Number) and result.shape[axis] == x.shape[axis] == part.stop:
                yield part.stop, result, axis


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
