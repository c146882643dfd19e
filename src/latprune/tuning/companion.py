"""What goes along with a training: told of every step, kept in its checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from torch import nn

    Along = Callable[[nn.Module, torch.optim.Optimizer, Sequence[nn.Module]], "Companion"]
    """Of the network as it is called, its optimizer, and copies to keep in the same shapes."""


class Stateful(Protocol):
    """What stands somewhere and can be put back there."""

    def identity(self) -> dict[str, Any]:
        """Say what a run must have in common with one that it continues."""

    def state_dict(self) -> dict[str, Any]:
        """Give JSON values, and under `tensors` tensors by name."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` gave; before weights and optimizer are put back."""


class Companion(Stateful, Protocol):
    """May change the network's shapes, in place, between two steps of the optimizer."""

    def step(self) -> object:
        """Do what is due after a step of the optimizer; None if nothing was."""

    def pass_over(self) -> None:
        """Count a step that the optimizer left out, for gradients that fp16 does not hold."""
