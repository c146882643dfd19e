"""See to it that a model shows its operators: compiled code is left aside, or refused."""

from __future__ import annotations

import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from latprune.errors import UntraceableModel

if TYPE_CHECKING:
    from collections.abc import Iterator


def refuse_untraceable(model: nn.Module) -> None:
    """Refuse what could not be followed, before anything is run.

    Raises:
        UntraceableModel: If a part is TorchScript, or a lazy module that has not run yet.
    """
    for name, module in model.named_modules():
        where = name or "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise UntraceableModel(
                f"{where} is TorchScript, which cannot be followed: trace the model that it was "
                "made from, and script what `cut` gives."
            )
        own = (*module._parameters.values(), *module._buffers.values())
        if any(tensor is not None and is_lazy(tensor) for tensor in own):
            raise UntraceableModel(
                f"{where} is a lazy module that has no weights yet: run the model once on the "
                "example, then trace it."
            )


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run what `torch.compile` made as it was written, inside this context."""
    # Nothing is compiled where nobody has imported the compiler, and importing it takes seconds.
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        # That hooks see the wrapper, too: it changes nothing here.
        warnings.filterwarnings(
            "ignore", message=r"Using `torch\.compile\(module\)` when there are"
        )
        yield
