"""Follow every channel through one run of the model.

Each entry of each parameter axis gets an integer label. While the model runs, each tensor carries,
per axis, the labels of its entries; an axis without labels holds nothing that could be cut. What
every operator does to labels stands in `rules`; this module carries them and remembers which
layers read and wrote which labels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from latprune.graph.classes import IntArray, LabelClasses
from latprune.graph.layers import LayerShape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence

    from latprune.graph.groups import Role
    from latprune.graph.layers import Kind

    Rule = Callable[["LabelMode", "Call"], None]

AxisLabels = dict[int, IntArray]
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
    """

    name: str
    in_place: bool
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Give an argument that may have been passed by position or by name."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)


@dataclass(frozen=True)
class SeenLayer:
    """A layer or operator that ran, with the labels on its two sides."""

    name: str
    shape: LayerShape
    reads: IntArray
    writes: IntArray
    groups_follow: bool


class LabelMode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Carries labels beside activations while the model runs inside it.

    Args:
        model: The model; its floating-point parameters and buffers get the labels.
        rules: What each operator does to labels, by the operator's name.
        default: The rule for all others.
        batch: Samples in the input.
    """

    def __init__(
        self, model: nn.Module, *, rules: Mapping[str, Rule], default: Rule, batch: int
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.batch = batch
        self.classes = LabelClasses()
        self.used: set[str] = set()
        self.layers: list[SeenLayer] = []
        self.unpriced: dict[str, None] = {}
        self.recording = True
        self._rules, self._default = rules, default
        self._model = model
        self._names: dict[int, str] = {}
        self._labels: MutableMapping[torch.Tensor, AxisLabels] = weak_by_tensor()
        self._tails: MutableMapping[torch.Tensor, int] = weak_by_tensor()
        self._modules = {module: name for name, module in model.named_modules()}
        self._stack: list[nn.Module] = []
        for name, tensor in labelled_tensors(model):
            self._names[id(tensor)] = name
            self._labels[tensor] = {
                axis: self.classes.fresh(size)
                for axis, size in enumerate(tensor.shape)
                if size > 1 and not (axis > 1 and _is_kernel(model, name))
            }
        self._roles = np.zeros(self.classes.count, dtype=np.int8)

    # -------------------------------------------------------------- what rules ask and say

    def of(self, tensor: torch.Tensor) -> AxisLabels:
        """Give a tensor's labels per axis."""
        if (name := self._names.get(id(tensor))) is not None:
            self.used.add(name)
        return self._labels.get(tensor, {})

    def on(self, tensor: torch.Tensor, axis: int) -> IntArray:
        """Give the labels on one axis; zeros (constants) where it has none."""
        axis %= max(tensor.dim(), 1)
        found = self.of(tensor).get(axis)
        return found if found is not None else np.zeros(tensor.shape[axis], dtype=np.int64)

    def put(self, tensor: torch.Tensor, labels: AxisLabels) -> None:
        """Attach labels to a tensor; axes that hold only constants are left out."""
        self._labels[tensor] = {axis: entries for axis, entries in labels.items() if entries.any()}

    def join(self, first: IntArray, second: IntArray, why: str) -> None:
        """Cut these labels together, pairwise."""
        self.classes.join(first, second, f"{why}{self._at()}")

    def freeze(self, labels: IntArray, why: str) -> None:
        """Never cut these labels."""
        self.classes.freeze(labels, f"{why}{self._at()}")

    def mark(self, labels: IntArray, role: Role) -> None:
        """Remember what the parameter entries behind these labels are for; the first one stays."""
        unset = labels[(labels > 0) & (self._roles[labels] == 0)]
        self._roles[unset] = ROLES.index(role)

    def parameters(self) -> Iterator[tuple[str, int, IntArray, Role]]:
        """Give name, axis, labels and role of every labelled axis that took part."""
        for name, tensor in labelled_tensors(self._model):
            if name in self.used:
                for axis, labels in self._labels[tensor].items():
                    yield name, axis, labels, ROLES[self._roles[labels[0]]]

    @property
    def module(self) -> nn.Module | None:
        """The innermost module that is running."""
        return self._stack[-1] if self._stack else None

    # -------------------------------------------------------------- layers and what follows them

    def add_layer(self, layer: SeenLayer, output: torch.Tensor) -> None:
        """Remember a layer; a norm and an activation may still join it."""
        if self.recording:
            self._tails[output] = len(self.layers)
            self.layers.append(layer)

    def add_operator(
        self, kind: Kind, x: torch.Tensor, output: torch.Tensor, **fields: Any
    ) -> None:
        """Remember an operator between layers, by the channels that it passes on.

        One whose output has channels on no axis, on several, or not where a latency table looks
        for them, stays unpriced.
        """
        axes = list(self.of(output))
        where = self._where()
        if len(axes) != 1 or output.shape[0] != self.batch or axes[0] not in (1, output.dim() - 1):
            self.leave_unpriced(kind)
            return
        (axis,) = axes
        channels = self.on(output, axis)
        last = axis > 1
        size = tuple(x.shape[1:-1] if last else x.shape[2:])
        shape = LayerShape(kind, len(channels), len(channels), size, last=last, **fields)
        self.add_layer(SeenLayer(f"{where}/{kind}", shape, channels, channels, False), output)

    def absorb_sum(self, call: Call) -> bool:
        """Make a sum of two tensors part of the layer that wrote one of them, the later one."""
        found = [index for tensor in call.inputs if (index := self._tails.get(tensor)) is not None]
        free = [
            index
            for index in found
            if (shape := self.layers[index].shape).has_weights
            and not (shape.adds or shape.activation)
        ]
        if not free:
            return False
        self._extend(max(free), call.outputs[0], adds=True)
        return True

    def absorb_norm(self, source: torch.Tensor, output: torch.Tensor) -> bool:
        """Make a norm part of the layer whose output it reads; False if there is none."""
        index = self._tails.get(source)
        if index is None or not _takes_norm(self.layers[index].shape):
            return False
        self._extend(index, output, norm=True)
        return True

    def absorb_activation(self, source: torch.Tensor, output: torch.Tensor, name: str) -> bool:
        """Make an activation part of the layer whose output it reads; False if there is none."""
        index = self._tails.get(source)
        if index is None or self.layers[index].shape.activation is not None:
            return False
        self._extend(index, output, activation=name)
        self._tails.pop(output, None)
        return True

    def leave_unpriced(self, name: str) -> None:
        """Remember an operator that takes time but belongs to no layer."""
        if self.recording:
            self.unpriced.setdefault(f"{self._where() or 'model'}: {name}")

    def _extend(self, index: int, output: torch.Tensor, **fields: Any) -> None:
        seen = self.layers[index]
        self.layers[index] = replace(seen, shape=replace(seen.shape, **fields))
        self._tails[output] = index

    # -------------------------------------------------------------- running

    def run(self, *inputs: torch.Tensor) -> Any:
        """Run the model in the mode that it is in, and freeze what it returns."""
        hooks = [
            nn.modules.module.register_module_forward_pre_hook(self._enter),
            nn.modules.module.register_module_forward_hook(self._leave, always_call=True),
        ]
        try:
            with torch.no_grad(), self:
                result = self._model(*inputs)
            for tensor in tensors_in(result):
                for labels in self.of(tensor).values():
                    self.classes.freeze(labels, "it is an output of the model")
        finally:
            for hook in hooks:
                hook.remove()
            self._stack.clear()
        return result

    def name_of(self, module: nn.Module | None) -> str:
        """Give a module's dotted name; empty for the model itself and for strangers."""
        return self._modules.get(module, "") if module is not None else ""

    def _where(self) -> str:
        return next((n for m in reversed(self._stack) if (n := self.name_of(m))), "")

    def _at(self) -> str:
        return f" in {where}" if (where := self._where()) else ""

    def _enter(self, module: nn.Module, _inputs: Any) -> None:
        self._stack.append(module)

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
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        raw = func._schema.name.partition("::")[2]
        in_place = raw.endswith("_") and not raw.endswith("__")
        call = Call(
            name=raw.rstrip("_") if in_place else raw,
            in_place=in_place,
            func=func,
            args=args,
            kwargs=kwargs,
            inputs=tuple(tensors_in((args, kwargs))),
            outputs=tuple(tensors_in(result)),
        )
        if call.inputs and call.outputs:
            self._rules.get(call.name, self._default)(self, call)
        return result


def weak_by_tensor() -> MutableMapping[torch.Tensor, Any]:
    """Give a mapping by tensor identity that keeps no tensor alive."""
    mapping: MutableMapping[torch.Tensor, Any] = WeakTensorKeyDictionary()
    return mapping


def tensors_in(tree: Any) -> Iterator[torch.Tensor]:
    """Give all tensors in nested tuples, lists, dicts and objects with `values()`."""
    for leaf in tree_leaves(tree):
        if isinstance(leaf, torch.Tensor):
            yield leaf
        elif hasattr(leaf, "values") and callable(leaf.values):
            yield from tensors_in(list(leaf.values()))


def labelled_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Give the floating-point parameters and buffers by name, shared ones once."""
    seen: set[int] = set()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def _takes_norm(shape: LayerShape) -> bool:
    return shape.has_weights and not (shape.norm or shape.adds)


def _is_kernel(model: nn.Module, name: str) -> bool:
    owner, _, leaf = name.rpartition(".")
    return leaf == "weight" and isinstance(model.get_submodule(owner), nn.modules.conv._ConvNd)
