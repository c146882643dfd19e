"""What a copy of a model has to share with it, because it cannot be copied: locks, open files.

Found by trying: what cannot be copied is taken apart, down to what has no parts.
"""

from __future__ import annotations

import copy
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latprune.errors import CannotCopy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def shared_parts(model: nn.Module, known: Mapping[int, Any]) -> dict[int, Any]:
    """Give what stands in a copy for what cannot be copied, by its id: for most things themselves.

    Args:
        model: What cannot be copied as it is.
        known: What stands for other things, by their ids.

    Raises:
        CannotCopy: If a module itself refuses; it is named.
    """
    # Each module is taken by itself: where others refer to it nothing is wrong with them.
    modules = {id(module): module for module in model.modules()}
    found: dict[int, Any] = {}
    for may_have_parts in (False, True):
        seen: set[int] = set()
        for module in model.modules():
            for attribute, value in vars(module).items():
                if attribute != "_modules":
                    _find(value, {**known, **modules}, found, seen, may_have_parts=may_have_parts)
    for name, module in reversed(list(model.named_modules())):  # the innermost first
        others = {key: other for key, other in modules.items() if other is not module}
        try:
            copy.deepcopy(module, {**known, **others, **found})
        except Exception as error:  # whatever a stranger's class raises
            where = f"{name}, a {type(module).__name__}," if name else "the model"
            raise CannotCopy(
                f"{where} cannot be copied, and latprune works on copies: {error}. Let the class "
                "have a __deepcopy__, or take off what it keeps while it is pruned."
            ) from error
    return found


def _find(
    value: Any,
    known: Mapping[int, Any],
    found: dict[int, Any],
    seen: set[int],
    *,
    may_have_parts: bool,
) -> None:
    """Find the innermost parts of a value that cannot be copied: first what has no parts itself.

    What has some is shared only where it cannot be copied though all of these can, or are shared.
    """
    if id(value) in seen or _can_be_copied(value, {**known, **found}):
        return
    seen.add(id(value))
    parts = list(_parts(value))
    for part in parts:
        _find(part, known, found, seen, may_have_parts=may_have_parts)
    if not parts or (may_have_parts and not _can_be_copied(value, {**known, **found})):
        found[id(value)] = _stands_for(value)


def _can_be_copied(value: Any, known: dict[int, Any]) -> bool:
    try:
        copy.deepcopy(value, known)
    except Exception:  # whatever a stranger's class raises
        return False
    return True


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple | set):
        yield from value
    elif isinstance(value, MethodType):
        yield value.__self__
    elif not isinstance(value, Tensor):
        yield from getattr(value, "__dict__", {}).values()


def _stands_for(part: Any) -> Any:
    if isinstance(part, Tensor):
        return part.detach().clone()
    return part.clone_state() if isinstance(part, torch.Generator) else part
