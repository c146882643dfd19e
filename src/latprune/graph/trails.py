"""The operators of a run, in order: a model does the same in two modes if these are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from latprune.graph.operators import operator_name
from latprune.graph.results import tensors_in
from latprune.modes import drawing_apart, train_without_dropout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn


class Trail:
    """What operators wrote, and which of it was returned.

    Attributes:
        names: The operators', as far as they write numbers along axes.
        shapes: Of what they wrote.
        returned: Which of their results the model returned; -1 for what no operator wrote.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.shapes: list[torch.Size] = []
        self.returned: list[tuple[int, int]] = []
        self._written: dict[int, tuple[int, int]] = {}

    def add(self, name: str, outputs: Sequence[torch.Tensor]) -> None:
        """Remember an operator that ran; a counter of batches is none that matters."""
        counts = outputs[0].dim() == 0 if outputs else True
        for place, tensor in enumerate(outputs):
            self._written[id(tensor)] = (-1 if counts else len(self.names), place)
        if not counts:
            self.names.append(name)
            self.shapes.append(outputs[0].shape)

    def end(self, result: Any) -> None:
        """Remember what the model returned."""
        self.returned = [self._written.get(id(t), (-1, 0)) for t in tensors_in(result)]


class Training:
    """What a model does in training mode, seen at most once.

    Args:
        model: A copy, for trial use.
        inputs: What it is called with.
    """

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._model, self._inputs = model, inputs
        self._differs: bool | None = None

    @property
    def inputs(self) -> tuple[Any, ...]:
        """Two samples for every one: batch norms ask for two."""
        return twice(self._inputs)

    def differs(self, evaluation: Trail) -> bool:
        """Whether other operators run than in evaluation, or it returns something else."""
        if self._differs is None:
            self._differs = self._is_other(evaluation)
        return self._differs

    def _is_other(self, evaluation: Trail) -> bool:
        for inputs in (self._inputs, self.inputs):
            try:
                found = _trail_in_training(self._model, inputs)
            except Exception:  # a single sample is too few for batch norms; or it needs labels
                continue
            alike = inputs is not self._inputs or found.shapes == evaluation.shapes
            same = found.names == evaluation.names and found.returned == evaluation.returned
            return not (alike and same)
        return True


@torch.no_grad()
def _trail_in_training(model: nn.Module, inputs: tuple[Any, ...]) -> Trail:
    watch = _Watch()
    train_without_dropout(model)
    try:
        with drawing_apart(model), watch:
            watch.trail.end(model(*inputs))
    finally:
        model.eval()
    return watch.trail


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trail = Trail()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operator and remember it."""
        result = func(*args, **dict(kwargs or {}))
        self.trail.add(operator_name(func)[0], tuple(tensors_in(result)))
        return result


def twice(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give a batch of twice the samples, which batch norms ask for in training mode."""
    doubled: tuple[Any, ...] = tree_map(_twice, inputs)
    return doubled


def _twice(leaf: Any) -> Any:
    return torch.cat([leaf, leaf]) if isinstance(leaf, torch.Tensor) and leaf.dim() else leaf
