"""Find out which branches a network as a whole does without.

What is around a block may look into it, or tell it something by other ways than its input.
The network without them is compared with the one whose branches write and read no channels, on the
example and on another input made of its values; and it has to run in training mode, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from latprune.graph.removing import take_out
from latprune.graph.results import numbers_in, returned, tells
from latprune.graph.slicing import zero_channels
from latprune.graph.standins import WithoutChance
from latprune.graph.trails import twice
from latprune.modes import copied, drawing_apart, sharing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from torch import nn

    from latprune.graph.groups import Branch, ChannelGroup

_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Largest difference allowed, relative to the largest output."""

# A network whose every block fails would take minutes: from then on what fails together stays.
_MOST_TRIALS = 32


class Proven(NamedTuple):
    """A branch, and what it adds without its groups' channels, float64 [channels]."""

    branch: Branch
    constant: Tensor


def dispensable(
    model: nn.Module,
    inputs: tuple[Any, ...],
    groups: Sequence[ChannelGroup],
    found: Sequence[Proven],
    *,
    witnesses: Collection[str] = (),
    ends: Collection[str] = (),
) -> Sequence[Proven]:
    """Give those branches without which the network as a whole computes what it should.

    Args:
        model: Has random weights, in evaluation mode, in float64; for trial use.
        inputs: An example input.
        groups: What can be cut.
        found: What can go as far as its block is concerned.
        witnesses: Modules whose outputs are compared instead of the network's.
        ends: Modules whose outputs are compared, too, where the network's tell nothing.
    """
    if not found:
        return found
    trial = _Trial(model, inputs, groups, witnesses, ends)
    return _admitted(found, trial.holds, ())


def _admitted(
    found: Sequence[Proven],
    holds: Callable[[Sequence[Proven]], bool],
    admitted: Sequence[Proven],
) -> Sequence[Proven]:
    """Give as many as hold together: all at once, or halves."""
    together = (*admitted, *found)
    if holds(together):
        return together
    if len(found) == 1:
        return admitted
    half = len(found) // 2
    return _admitted(found[half:], holds, _admitted(found[:half], holds, admitted))


class _Trial:
    """Compares networks without branches with the network that they are in."""

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[Any, ...],
        groups: Sequence[ChannelGroup],
        witnesses: Collection[str],
        ends: Collection[str],
    ) -> None:
        self._groups = {group.name: group for group in groups}
        self._witnesses, self._ends = witnesses, ends
        self._model, self._dtype = model, torch.float64
        inputs = _in(self._dtype, inputs)
        if _outputs(sharing(model), inputs) is None:  # its code may make tensors of one precision
            self._model, self._dtype = model.float(), torch.float32
            inputs = _in(self._dtype, inputs)
        self._inputs = (inputs, tree_map(_otherwise, inputs))
        self._left = _MOST_TRIALS

    def holds(self, removed: Sequence[Proven]) -> bool:
        """Whether the network computes the same with constants in place of these branches."""
        self._left -= 1
        if self._left < 0:
            return False
        masked, small = copied(self._model), sharing(self._model)
        inside = [self._groups[name] for branch, _ in removed for name in branch.groups]
        zero_channels(masked, inside, {group.name: () for group in inside})
        try:
            for branch, constant in removed:
                take_out(small, branch, constant, torch.zeros_like(constant))
        except Exception:  # a stranger's module that cannot be replaced
            return False
        agree = [self._agree(masked, small, inputs) for inputs in self._inputs]
        if False in agree or True not in agree:
            return False
        return self._runs_in_training(masked, small)

    def _agree(self, masked: nn.Module, small: nn.Module, inputs: tuple[Any, ...]) -> bool | None:
        """Whether both compute the same; None where nothing can be told by this input."""
        ran = dict(small.named_modules())
        stay = {n for n, m in masked.named_modules() if n in ran and type(m) is type(ran[n])}
        at = [name for name in self._witnesses if name in stay] or [""]
        expected = _outputs(masked, inputs, at)
        if expected is not None and not all(map(tells, expected)):
            at = [*at, *stay.intersection(self._ends).difference(at)]
            expected = _outputs(masked, inputs, at)
        if expected is None or not any(map(tells, expected)) or not _are_finite(expected):
            return None
        found = _outputs(small, inputs, at)
        return found is not None and _alike(expected, found, _TOLERANCES[self._dtype])

    def _runs_in_training(self, masked: nn.Module, small: nn.Module) -> bool:
        """Whether the network runs in training mode, if it did before; it may draw at random."""
        pair = twice(self._inputs[0])
        expected, found = (_outputs_in_training(model, pair) for model in (masked, small))
        if expected is None:
            return True
        return found is not None and [t.shape for t in numbers_in(expected)] == [
            t.shape for t in numbers_in(found)
        ]


def _outputs_in_training(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor] | None:
    try:
        model.train()
    except Exception:  # a network for evaluation alone
        return None
    with drawing_apart(model):
        return _outputs(model, inputs)


@torch.no_grad()
def _outputs(
    model: nn.Module, inputs: tuple[Any, ...], at: Collection[str] = ("",)
) -> list[Tensor] | None:
    """Give what a network, "", or some of its modules return; None if it does not run."""
    try:
        with WithoutChance():
            return returned(model, tree_map(_apart, inputs), at)
    except Exception:  # whatever a stranger's code raises, for one where it misses a module
        return None


def _are_finite(outputs: Sequence[Tensor]) -> bool:
    return all(bool(t.isfinite().all()) for t in numbers_in(outputs))


def _alike(expected: Sequence[Tensor], found: Sequence[Tensor], tolerance: float) -> bool:
    both = list(numbers_in(expected)), list(numbers_in(found))
    if [t.shape for t in both[0]] != [t.shape for t in both[1]]:
        return False
    pairs = [(a, b) for a, b in zip(*both, strict=True) if a.numel()]
    return all(
        float((a - b).abs().max()) <= tolerance * (float(a.abs().max()) or 1.0) for a, b in pairs
    )


def _in(dtype: torch.dtype, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    def cast(leaf: Any) -> Any:
        is_real = isinstance(leaf, Tensor) and leaf.is_floating_point()
        return leaf.detach().to(dtype) if is_real else leaf

    return tree_map(cast, inputs)  # type: ignore[no-any-return]


def _apart(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _otherwise(leaf: Any) -> Any:
    """Give another input that nobody could refuse: of the same values, a little nearer to 0."""
    if not isinstance(leaf, Tensor) or leaf.dtype == torch.bool:
        return leaf
    if not leaf.is_floating_point():
        return (leaf - 1).where(leaf > 0, leaf)
    random = torch.Generator().manual_seed(0)
    order = torch.randperm(leaf.numel(), generator=random)
    return 0.9 * leaf.reshape(-1)[order.to(leaf.device)].reshape(leaf.shape)
