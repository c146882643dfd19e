"""What stands where a residual branch was: the trunk, and the constant that the branch added."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Constant(nn.Module):
    """Gives a constant for whatever it is given, to be added to a trunk.

    Without its channels a branch still adds the biases and norm shifts behind them. What a batch
    norm makes of nothing depends on its running mean; re-estimated, only its shift is left. The
    difference between the two is kept apart, so that it can go once statistics are taken anew.

    Args:
        shift: What the branch adds once its batch norms are re-estimated, [channels] or
            [channels, 1, …].
        drift: What it adds less with the statistics that they have, of the same shape.
        whole: Whether to give it for every place of what comes in: the trunk is added in place.
    """

    drift: Tensor

    def __init__(self, shift: Tensor, drift: Tensor, *, whole: bool = False) -> None:
        super().__init__()
        self._whole = whole
        self.shift = nn.Parameter(shift)
        self.register_buffer("drift", drift)

    def forward(self, *inputs: Any, **_: Any) -> Tensor:
        """Give the constant."""
        constant = self.shift - self.drift
        if not self._whole:
            return constant
        sizes = list(inputs[0].shape)
        sizes[-constant.dim()] = len(constant)
        return constant.expand(sizes).clone()

    @torch.no_grad()
    def settle(self) -> None:
        """Add what is added with batch norms re-estimated."""
        self.drift.zero_()


class Shortcut(Constant):
    """What a residual block is without its branch: trunk + constant, and perhaps a ReLU.

    Args:
        shift: As for `Constant`.
        drift: As for `Constant`.
        trunk: The name and module of what the block's input passes through; None if nothing.
        relu: Whether a ReLU follows.
    """

    def __init__(
        self, shift: Tensor, drift: Tensor, *, trunk: tuple[str, nn.Module] | None, relu: bool
    ) -> None:
        super().__init__(shift, drift)
        self._trunk = None if trunk is None else trunk[0]
        self._relu = relu
        if trunk is not None:
            self.add_module(*trunk)

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """Give what the block gives without its branch."""
        if self._trunk is not None:
            x = self.get_submodule(self._trunk)(x)
        total = x + (self.shift - self.drift)
        return torch.relu(total) if self._relu else total


class Skip(nn.Module):
    """Passes on what it is given, where nobody looks at the result."""

    def forward(self, x: Any, *_: Any, **__: Any) -> Any:
        """Give the first argument."""
        return x


def settle(model: nn.Module) -> None:
    """Let removed branches add what they would with their batch norms re-estimated."""
    for module in model.modules():
        if isinstance(module, Constant):
            module.settle()


def let_norms_settle(module: nn.Module) -> None:
    """Put the batch norms of a module, itself included, into training mode."""
    for inner in module.modules():
        if isinstance(inner, _BatchNorm):
            inner.training = True
