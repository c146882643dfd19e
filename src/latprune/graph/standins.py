"""Run a network without its statistics over channels, or without chance.

LayerNorm over 700 channels and over 1000 differ even if the other 300 are zero. To compare a cut
network with the whole one, every operator that takes statistics over channels that can be cut gives
way to one that treats each channel alone: a norm to its scale and shift, a mean to ones, attention
to one whose scale is a constant, a convolution or an average along channels to the middle of its
kernel. What goes into a norm passes a tanh, which is as bounded as the norm was: deep networks
would overflow.

What is drawn at random differs, too, where fewer numbers are drawn: one number takes their place.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from latprune.graph.operators import draws, operator_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

ATTENTION_SCALE = 0.125


@contextmanager
def channel_wise(mixed: Collection[tuple[str, int]]) -> Iterator[None]:
    """Replace calls, each given by its operator's name and how many of it ran before."""
    if not mixed:
        yield
        return
    # With a function mode torch takes the same path as while tracing: no fused transformer layers.
    with patch.object(F, _ATTENTION, _at_one_scale), _SamePath(), _StandIns(mixed):
        yield


# Torch's own multi-head attention calls it where no mode sees it.
_ATTENTION = "scaled_dot_product_attention"
_scaled_attention = F.scaled_dot_product_attention


def _at_one_scale(*args: Any, **kwargs: Any) -> torch.Tensor:
    if kwargs.get("scale") is None:
        kwargs["scale"] = ATTENTION_SCALE
    return _scaled_attention(*args, **kwargs)


class _SamePath(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        function = _at_one_scale if func is _scaled_attention else func
        return function(*args, **dict(kwargs or {}))


class _StandIns(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    def __init__(self, mixed: Collection[tuple[str, int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._mixed = frozenset(mixed)
        self._calls: dict[str, int] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name, _ = operator_name(func)
        count = self._calls.get(name, 0)
        self._calls[name] = count + 1
        mixed = (name, count) in self._mixed and "attention" not in name
        if mixed and "convolution" in name:
            return func(args[0], _middle(args[1]), *args[2:], **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        return _stand_in(name, args, result) if mixed else result


def _middle(weight: torch.Tensor) -> torch.Tensor:
    """Zero a convolution's weight but for the middle of its kernels."""
    at: Any = (..., *(size // 2 for size in weight.shape[2:]))
    middle = torch.zeros_like(weight)
    middle[at] = weight[at]
    return middle


def _middles(x: torch.Tensor, kernel: Sequence[int], padding: Sequence[int]) -> torch.Tensor:
    """Give what lies in the middle of each window of a pooling that moves by single steps."""
    x = F.pad(x, [amount for own in reversed(padding) for amount in (own, own)])
    for axis, size in enumerate(kernel, start=x.dim() - len(kernel)):
        x = x.narrow(axis, size // 2, x.shape[axis] - size + 1)
    return x


def _stand_in(name: str, args: tuple[Any, ...], result: Any) -> Any:
    x = args[0]
    if name in ("native_layer_norm", "_fused_rms_norm"):
        scale, shift = args[2], args[3] if name == "native_layer_norm" else None
        return (_bounded(x, scale, shift, ()), *result[1:])
    if name == "native_group_norm" or "batch_norm" in name:
        trailing = (1,) * (x.dim() - 2)
        return (_bounded(x, args[1], args[2], trailing), *result[1:])
    if name.startswith("avg_pool"):
        return _middles(x, args[1], args[3] if len(args) > 3 else [0] * len(args[1]))
    return tree_map(torch.ones_like, result)


def _bounded(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    trailing: tuple[int, ...],
) -> torch.Tensor:
    x = torch.tanh(x)
    if scale is not None:
        x = x * scale.reshape(*scale.shape, *trailing)
    if shift is not None:
        x = x + shift.reshape(*shift.shape, *trailing)
    return x


class WithoutChance(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Gives the same number wherever one would be drawn at random."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operator; what it drew gives way."""
        result = func(*args, **dict(kwargs or {}))
        if draws(operator_name(func)[0]) and result.is_floating_point():
            result.fill_(0.5)
        return result
