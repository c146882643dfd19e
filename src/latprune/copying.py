"""What a copy of a model has to share with it, because it cannot be copied: locks, open files.

Found by trying: what cannot be copied is taken apart, down to what has no parts.
"""

from __future__ import annotations

import copy
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
    found: dict[int, Any] = {}
    for module in model.modules():
        for attribute, value in vars(module).items():
            if attribute != "_modules":
                found |= {id(part): _stands_for(part) for part in _uncopyable(value, known, [])}
    for name, module in reversed(list(model.named_modules())):  # the innermost first
        try:
            copy.deepcopy(module, {**known, **found})
        except Exception as error:  # whatever a stranger's class raises
            where = f"{name}, a {type(module).__name__}," if name else "the model"
            raise CannotCopy(
                f"{where} cannot be copied, and latprune works on copies: {error}. Let the class "
                "have a __deepcopy__, or take off what it keeps while it is pruned."
            ) from error
    return found


def _uncopyable(value: Any, known: Mapping[int, Any], above: list[int]) -> Iterator[Any]:
    """Give the innermost parts of a value that cannot be copied."""
    if id(value) in above or isinstance(value, nn.Module):
        return
    try:
        copy.deepcopy(value, dict(known))
    except Exception:  # whatever a stranger's class raises
        inner = [
            found
            for part in _parts(value)
            for found in _uncopyable(part, known, [*above, id(value)])
        ]
        yield from inner or [value]


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple | set):
        yield from value
    elif not isinstance(value, Tensor):
        yield from getattr(value, "__dict__", {}).values()


def _stands_for(part: Any) -> Any:
    if isinstance(part, Tensor):
        return part.detach().clone()
    return part.clone_state() if isinstance(part, torch.Generator) else part
