"""Find layers that run but that their model does not know: those in plain lists, tuples and dicts.

`nn.Module` registers modules that are attributes of their own. What lies in a plain container has
no name, is in no state dict, and is trained by no optimiser; nor can it be cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from latprune.graph.groups import Frozen

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


def hidden_layers(model: nn.Module, strangers: Collection[nn.Module]) -> Iterator[Frozen]:
    """Say which attributes of a model's modules hold layers that it does not know.

    Args:
        model: As it ran.
        strangers: The modules that ran and are none of `model.modules()`.
    """
    for name, module in model.named_modules() if strangers else ():
        for attribute, held in vars(module).items():
            if any(_is_layer(part) for part in _modules_in(held) if part in strangers):
                kind = type(held).__name__
                known = "nn.ModuleDict" if isinstance(held, dict) else "nn.ModuleList"
                yield Frozen(
                    f"{name}.{attribute}".lstrip("."),
                    0,
                    f"a plain {kind} holds its layers, where the model does not see them: hold "
                    f"them in an {known}",
                )


def _is_layer(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _modules_in(held: Any) -> Iterator[nn.Module]:
    """Give the modules in lists, tuples, sets and dicts, however nested."""
    if isinstance(held, nn.Module):
        yield held
    elif isinstance(held, list | tuple | set | dict):
        for part in held.values() if isinstance(held, dict) else held:
            yield from _modules_in(part)
