"""Find the tensors in whatever a model takes or gives, however they are wrapped."""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence, Set
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# Modules hold tensors, but not as results.
_HOLDS_NONE = (str, bytes, int, float, complex, type(None), type, torch.dtype, nn.Module)


def tensors_in(tree: Any) -> Iterator[torch.Tensor]:
    """Give all tensors in sequences, mappings, and attributes of objects, however nested."""
    return _tensors_in(tree, [])


def batch_of(inputs: Any) -> int:
    """Count the samples: of the first input that has any, along its first axis, or in its list."""
    for entry in inputs if isinstance(inputs, tuple) else (inputs,):
        if isinstance(entry, list):
            return len(entry)
        for tensor in tensors_in(entry):
            if tensor.dim():
                return len(tensor)
    return 1


def numbers_in(tree: Any) -> Iterator[torch.Tensor]:
    """Give those of them that agree but for rounding where two runs do; complex ones as pairs."""
    for tensor in tensors_in(tree):
        if tensor.is_complex():
            yield torch.view_as_real(tensor.resolve_conj())
        elif tensor.is_floating_point():
            yield tensor


def tells(tensor: torch.Tensor) -> bool:
    """Whether a result shows what was computed: whole numbers, truth values and zeros do not."""
    return (tensor.is_floating_point() or tensor.is_complex()) and bool(tensor.any())


def returned(model: nn.Module, inputs: tuple[Any, ...], at: Collection[str]) -> list[torch.Tensor]:
    """Run a model and give what some of its modules return, as it is then; "" is the whole."""
    seen: list[torch.Tensor] = []
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output: seen.extend(t.clone() for t in tensors_in(output))
        )
        for name in at
    ]
    try:
        model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _tensors_in(tree: Any, above: list[int]) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif not isinstance(tree, _HOLDS_NONE) and id(tree) not in above:
        for part in _parts(tree):
            yield from _tensors_in(part, [*above, id(tree)])


def _parts(holder: Any) -> Iterator[Any]:
    """Give what something holds: its entries, or its attributes, or both of a list with some."""
    if isinstance(holder, Mapping) or callable(getattr(holder, "values", None)):
        yield from holder.values()
        return
    if isinstance(holder, tuple | Set | MutableSequence):
        yield from holder
    yield from getattr(holder, "__dict__", {}).values()
    for name in _slots(type(holder)):
        yield getattr(holder, name, None)


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        names = vars(base).get("__slots__", ())
        yield from (names,) if isinstance(names, str) else names
