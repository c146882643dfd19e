"""Follow every channel through one run of the model.

Each entry of each parameter axis gets an integer label. While the model runs, each tensor carries
shadows: arrays of labels with as many axes as the tensor, of size 1 along those on which labels do
not change. A tensor without shadows holds nothing that could be cut. What every operator does to
shadows stands in `rules`; this module carries them, and knows how to settle one that an axis was
split under: [heads × width] can only be cut along one of its axes, and which one is decided by the
first operator that cares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from latprune.graph.classes import IntArray, LabelClasses
from latprune.graph.numbers import NumberMode
from latprune.graph.operators import draws, operator_name
from latprune.graph.recording import SeenLayers
from latprune.graph.results import tensors_in
from latprune.graph.shadows import along_axis, shrunk, varying
from latprune.graph.signs import Signs
from latprune.graph.trails import Trail

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence

    from latprune.graph.groups import Role

    Rule = Callable[["LabelMode", "Call"], None]

AxisLabels = dict[int, IntArray]
_LONGEST_AXIS = 2**16  # no layer is so wide: whole weights are stored flat along such an axis
ROLES: tuple[Role, ...] = ("other", "writes", "reads", "through", "scale", "shift", "statistic")


@dataclass(frozen=True)
class Call:
    """One operator call, after it ran.

    Attributes:
        name: The operator's name without namespace, overload and in-place underscore.
        in_place: Whether it wrote into its first argument.
        func: The operator.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        inputs: The tensors among its arguments, in order.
        outputs: The tensors it returned.
        count: How many operators of this name ran before it.
        taken: The shape of its first argument before it ran: `unsqueeze_` changes it.
    """

    name: str
    in_place: bool
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]
    count: int
    taken: torch.Size

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Give an argument that may have been passed by position or by name."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)


class LabelMode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Carries labels beside activations while the model runs inside it.

    Args:
        model: The model; its floating-point parameters and buffers get the labels.
        rules: What each operator does to labels, by the operator's name.
        default: The rule for all others.
        batch: Samples in the input.
        loose: Whether equal blocks of an axis, and what is shuffled, may lose different positions:
            `loosening` then finds out how many each can lose.
        within: Whether to settle on the last of several axes, the width of heads and not their
            number: see `crossing`.

    Attributes:
        classes: Which labels go together.
        used: Names of the parameters and buffers that took part.
        seen: The layers that ran.
        signs: Which tensors hold nothing below zero.
        trail: Which operators ran.
        numbers: Where the model's own numbers (`num_heads`) became sizes of tensors.
        mixed: Calls (operator, count) whose results depend on how many channels there are, though
            the network still runs without some: norms over channels.
        data_dependent: Whether sizes depend on values, as the number of boxes does.
        draws: Whether random numbers are drawn.
        strangers: Modules that ran and that the model does not know.
        blocks: Labels of axes that were cut into equal blocks.
        shuffles: Labels of axes whose equal blocks were shuffled, with how many these are.
        is_ambiguous: Whether a shadow could have been settled on several axes.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        rules: Mapping[str, Rule],
        default: Rule,
        batch: int,
        loose: bool = False,
        within: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.batch, self.loose = batch, loose
        self.is_ambiguous, self._within = False, within
        self.blocks: list[IntArray] = []
        self.shuffles: list[tuple[IntArray, int]] = []
        self.classes = LabelClasses()
        self.used: set[str] = set()
        self.seen = SeenLayers(self)
        self.signs = Signs()
        self.trail = Trail()
        self.numbers = NumberMode(self)
        self.mixed: set[tuple[str, int]] = set()
        self.data_dependent = self.draws = False
        self.strangers: set[nn.Module] = set()
        self._rules, self._default = rules, default
        self._model = model
        self._drawn: MutableMapping[torch.Tensor, bool] = weak_by_tensor()
        self._numbering: MutableMapping[torch.Tensor, IntArray] = weak_by_tensor()
        self._names: dict[int, str] = {}
        self._own: dict[str, AxisLabels] = {}
        self._shadows: MutableMapping[torch.Tensor, tuple[IntArray, ...]] = weak_by_tensor()
        self._splits: list[tuple[IntArray, str]] = []
        self._read: list[IntArray] = []
        self._calls: dict[str, int] = {}
        self._modules = {module: name for name, module in model.named_modules()}
        self._buffers = frozenset(name for name, _ in model.named_buffers())
        self._stack: list[nn.Module] = []
        for name, tensor in labelled_tensors(model):
            self._names[id(tensor)] = name
            self._own[name] = {
                axis: self.classes.fresh(size)
                for axis, size in enumerate(tensor.shape)
                if 1 < size <= _LONGEST_AXIS and not (axis > 1 and _is_kernel(model, name))
            }
            self.put(tensor, self._own[name])
        self._roles = np.zeros(self.classes.count, dtype=np.int8)

    # -------------------------------------------------------------- what rules ask and say

    def shadows(self, tensor: torch.Tensor) -> tuple[IntArray, ...]:
        """Give a tensor's shadows."""
        if (name := self._names.get(id(tensor))) is not None:
            self.used.add(name)
        return self._shadows.get(tensor, ())

    def known_shadows(self, tensor: torch.Tensor) -> tuple[IntArray, ...]:
        """The same, for one whose sizes are only looked at."""
        return self._shadows.get(tensor, ())

    def of(self, tensor: torch.Tensor, *, whole: Collection[int] = ()) -> AxisLabels:
        """Give a tensor's labels per axis, each shadow settled on one axis.

        Args:
            tensor: Any.
            whole: Axes that the operator needs whole: a shadow over several axes settles on
                another one.
        """
        found: AxisLabels = {}
        for shadow in self.shadows(tensor):
            axis, labels = self.settle(shadow, whole, "an axis that was split")
            if axis in found:
                for both in (found[axis], labels):
                    self.freeze(both, "two labelled axes were merged")
            found[axis] = labels
        self.put(tensor, found)
        return found

    def apart(
        self, tensor: torch.Tensor, whole: Collection[int]
    ) -> tuple[list[IntArray], AxisLabels]:
        """Give the shadows that vary along none of these axes, and of the others what `of` gives.

        Who works along other axes than a shadow's need not decide which of those is cut.
        """
        shadows = self.shadows(tensor)
        free = [shadow for shadow in shadows if not set(varying(shadow)) & set(whole)]
        if len(free) == len(shadows):
            return free, {}
        found = self.of(tensor, whole=whole)
        axes = {axis for shadow in free for axis in varying(shadow)}
        return free, {axis: labels for axis, labels in found.items() if axis not in axes}

    def on(self, tensor: torch.Tensor, axis: int) -> IntArray:
        """Give the labels on one axis; zeros (constants) where it has none."""
        axis %= max(tensor.dim(), 1)
        found = self.of(tensor, whole=set(range(tensor.dim())) - {axis}).get(axis)
        return found if found is not None else np.zeros(tensor.shape[axis], dtype=np.int64)

    def put(self, tensor: torch.Tensor, labels: AxisLabels) -> None:
        """Attach labels to a tensor; axes that hold only constants are left out."""
        self.put_shadows(
            tensor, [along_axis(entries, axis, tensor.dim()) for axis, entries in labels.items()]
        )

    def begin(self, tensor: torch.Tensor, axis: int) -> None:
        """Give new labels to an axis of zeros: the channels of a state that nothing wrote yet."""
        if tensor.shape[axis] > 1:
            labels = self.classes.fresh(tensor.shape[axis])
            self._roles = np.append(self._roles, np.zeros(len(labels), dtype=np.int8))
            shadow = along_axis(labels, axis, tensor.dim())
            self.put_shadows(tensor, [*self.shadows(tensor), shadow])

    def put_shadows(self, tensor: torch.Tensor, shadows: Sequence[IntArray]) -> None:
        """Attach shadows to a tensor; those that hold only constants are left out.

        Beside others those of frozen labels are, too: they could only get in the way, as the places
        of tokens do where heads are moved into the batch.
        """
        labelled = [shadow for shadow in shadows if shadow.any()]
        if len(labelled) > 1:
            free = [s for s in labelled if not self.classes.is_frozen(s).all()]
            labelled = free or labelled
        self._shadows[tensor] = tuple(labelled)

    def split(self, shadow: IntArray, why: str) -> None:
        """Remember a shadow over several axes: in the end it must be cut along one of them."""
        self._splits.append((shadow, why))

    def shuffle(self, merged: IntArray) -> None:
        """Remember an axis that two others became; a shuffle, if an axis was split into these."""
        merged = merged.ravel()
        for index, (shadow, _) in enumerate(self._splits):
            before = shadow.ravel()
            if len(before) != len(merged) or np.array_equal(before, merged):
                continue
            if np.array_equal(np.sort(before), np.sort(merged)):
                self.shuffles.append((merged, min(n for n in shadow.shape if n > 1)))
                if self.loose:
                    del self._splits[index]
                return

    def equal_blocks(self, labels: IntArray, count: int, why: str) -> None:
        """Cut the same positions from every block of an axis; as many, if that is enough."""
        self.blocks.append(labels)
        if not self.loose:
            rows = labels.reshape(count, -1)
            self.join(rows, rows[:1], why)

    def join(self, first: IntArray, second: IntArray, why: str) -> None:
        """Cut these labels together, pairwise."""
        self.classes.join(first, second, f"{why}{self.at()}")

    def freeze(self, labels: IntArray, why: str) -> None:
        """Never cut these labels."""
        self.classes.freeze(labels, f"{why}{self.at()}")

    def approximate(self, call: Call, labels: IntArray, why: str) -> None:
        """These labels can be cut, but what remains is normalised by fewer channels."""
        if self.seen.recording:
            self.mixed.add((call.name, call.count))
        self.classes.approximate(labels, f"{why}{self.at()}")

    def mark(self, labels: IntArray, role: Role) -> None:
        """Remember what the parameter entries behind these labels are for; the first one stays."""
        if role == "reads":
            self.read(labels)
        unset = labels[(labels > 0) & (self._roles[labels] == 0)]
        self._roles[unset] = ROLES.index(role)

    def numbered(self, tensor: torch.Tensor, labels: IntArray) -> None:
        """Remember that a tensor says which of these it was: all stay if anybody looks at it."""
        self._numbering[tensor] = labels

    def read(self, labels: IntArray) -> None:
        """Remember that something is made of these channels, and holds them no more."""
        self._read.append(labels.ravel())

    def freeze_unread(self) -> None:
        """Keep what layers write and nothing reads: a result that the model hands out some day."""
        read = self.classes.find(np.concatenate([*self._read, []]).astype(int))
        for _, _, labels, role in self.parameters():
            if role in ("writes", "through"):
                unread = labels[~np.isin(self.classes.find(labels), read)]
                self.classes.freeze(unread, "nothing reads it")

    def parameters(self) -> Iterator[tuple[str, int, IntArray, Role]]:
        """Give name, axis, labels and role of every labelled axis that took part."""
        for name, _ in labelled_tensors(self._model):
            if name in self.used:
                for axis, labels in self._own[name].items():
                    yield name, axis, labels, ROLES[self._roles[labels[0]]]

    def is_buffer(self, name: str) -> bool:
        """Whether a name is that of a buffer, not of a parameter."""
        return name in self._buffers

    def lie_on_buffer(self, labels: IntArray) -> bool:
        """Whether these are labels of a buffer's axis."""
        return any(
            np.isin(labels[labels > 0], own).any()
            for name in self._own.keys() & self._buffers
            for own in self._own[name].values()
        )

    def is_drawn(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor holds nothing but random numbers, of which any others would do."""
        return tensor in self._drawn

    def owner_of(self, tensor: torch.Tensor) -> str | None:
        """Give the dotted name of the module whose parameter this is, or is a view of.

        The model itself has no name: its own parameters go by theirs.
        """
        for found in (tensor, tensor._base):
            if found is not None and (name := self._names.get(id(found))) is not None:
                return name.rpartition(".")[0] or name
        return None

    def layer_of(self, weight: torch.Tensor) -> str:
        """Name a layer: as the module that runs, or in the model itself as whose weight it is."""
        return self.name_of(self.module) or self.owner_of(weight) or "model"

    @property
    def module(self) -> nn.Module | None:
        """The innermost module that is running."""
        return self._stack[-1] if self._stack else None

    # -------------------------------------------------------------- running

    def run(self, *inputs: Any) -> Any:
        """Run the model in the mode that it is in, and freeze what it returns."""
        hooks = [
            nn.modules.module.register_module_forward_pre_hook(self._enter),
            nn.modules.module.register_module_forward_hook(self._leave, always_call=True),
        ]
        self._calls.clear()
        try:
            with torch.no_grad(), self.numbers.lent_to(self._model), self:
                result = self._model(*inputs)
            self.trail.end(result)
            for tensor in tensors_in(result):
                self._keep_numbers(tensor)
                for labels in self.shadows(tensor):
                    self.classes.freeze(labels, "it is an output of the model")
        finally:
            for hook in hooks:
                hook.remove()
            self._stack.clear()
        for shadow, why in self._splits:
            if not self.classes.is_frozen(shadow).all():
                self.settle(shadow, (), why)
        return result

    def name_of(self, module: nn.Module | None) -> str:
        """Give a module's dotted name; empty for the model itself and for strangers."""
        return self._modules.get(module, "") if module is not None else ""

    def is_module(self, name: str) -> bool:
        """Whether a module of the model has this name."""
        return name in self._modules.values()

    def where(self) -> str:
        """Give the name of the innermost module that is running and has one."""
        return next((n for m in reversed(self._stack) if (n := self.name_of(m))), "")

    def at(self) -> str:
        """The same, in words."""
        return f" in {where}" if (where := self.where()) else ""

    def settle(self, shadow: IntArray, whole: Collection[int], why: str) -> tuple[int, IntArray]:
        """Choose the axis along which a shadow can be cut, and join its labels along the others.

        An axis along which alone the classes differ already is that axis; else it is the longest
        of those along which they do.
        """
        axes = varying(shadow)
        if len(axes) > 1:
            classes = self.classes.find(shadow)
            only = varying(shrunk(classes)) or axes
            axes = only
            if len(only) > 1:
                self.is_ambiguous |= not self.classes.is_frozen(classes).all()
                axes = only[-1:] if self._within else [a for a in only if a not in whole] or only
        axis = max(axes, key=lambda a: shadow.shape[a], default=0)
        rows = np.moveaxis(shadow, axis, -1).reshape(-1, shadow.shape[axis] if axes else 1)
        if len(rows) > 1:
            self.classes.join(rows, rows[:1], why)
        return axis, rows[0]

    def _enter(self, module: nn.Module, _inputs: Any) -> None:
        self._stack.append(module)
        if module not in self._modules:
            self.strangers.add(module)

    def _leave(self, _module: nn.Module, _inputs: Any, _output: Any) -> None:
        self._stack.pop()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operator, then apply its rule."""
        # What rules do to labels is no part of the model.
        with torch._C.DisableTorchFunction():
            return self._run(func, args, kwargs or {})

    def _follow(self, call: Call) -> None:
        """Apply a rule; what one does not foresee is no fault of the model, and stays whole."""
        try:
            self._rules.get(call.name, self._default)(self, call)
        except Exception as error:
            for shadow in (s for tensor in call.inputs for s in self.shadows(tensor)):
                self.freeze(shadow, f"the rule for {call.name} fails ({error})")
            for tensor in call.outputs:
                self.put_shadows(tensor, [])

    def _keep_numbers(self, tensor: torch.Tensor) -> None:
        if (labels := self._numbering.get(tensor)) is not None:
            self.freeze(labels, "the number of the largest or smallest is used")

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        taken = args[0].shape if args and isinstance(args[0], torch.Tensor) else torch.Size()
        result = func(*args, **kwargs)
        name, in_place = operator_name(func)
        count = self._calls.get(name, 0)
        self._calls[name] = count + 1
        inputs, outputs = tuple(tensors_in((args, kwargs))), tuple(tensors_in(result))
        for tensor in inputs:
            self._keep_numbers(tensor)
        if outputs and any(self.shadows(tensor) for tensor in inputs):
            self._follow(Call(name, in_place, func, args, kwargs, inputs, outputs, count, taken))
        elif draws(name) or any(map(self.is_drawn, inputs)):
            self._drawn.update(dict.fromkeys(outputs, True))
        self.signs.follow(name, args, kwargs, inputs, outputs)
        self.trail.add(name, outputs)
        self.draws |= draws(name)
        if torch.Tag.dynamic_output_shape in func.tags or name in _CHOOSES_BY_VALUE:
            self.data_dependent = True
        return result


_CHOOSES_BY_VALUE = frozenset({"nms", "topk", "sort"})


def weak_by_tensor() -> MutableMapping[torch.Tensor, Any]:
    """Give a mapping by tensor identity that keeps no tensor alive."""
    mapping: MutableMapping[torch.Tensor, Any] = WeakTensorKeyDictionary()
    return mapping


def labelled_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Give the floating-point parameters and buffers by name, shared ones once."""
    seen: set[int] = set()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def _is_kernel(model: nn.Module, name: str) -> bool:
    owner, _, leaf = name.rpartition(".")
    return leaf == "weight" and isinstance(model.get_submodule(owner), nn.modules.conv._ConvNd)
