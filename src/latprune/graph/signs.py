"""Which tensors of a run hold nothing below zero, whatever the network is given.

Told by the operators that wrote them, not by their values: those of another example may differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.weak import WeakTensorKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

    from torch import Tensor

_RECTIFIES = ("relu", "relu6", "sigmoid", "hardsigmoid", "softplus", "_softmax", "abs", "exp")
_FROM = {"hardtanh": -1.0, "clamp": None, "clamp_min": None}  # what they bound by, if not told
_SHIFTS = ("add", "mul", "div", "constant_pad_nd")  # by numbers, too
_MOVES = (
    "clone _to_copy contiguous alias detach lift_fresh dropout native_dropout "
    "view _unsafe_view reshape _reshape_alias permute transpose t unsqueeze squeeze expand repeat "
    "pixel_shuffle pixel_unshuffle select unbind slice split split_with_sizes narrow "
    "channel_shuffle cat stack reflection_pad2d replication_pad2d "
    "avg_pool1d avg_pool2d avg_pool3d max_pool2d max_pool2d_with_indices "
    "max_pool3d_with_indices adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d "
    "_adaptive_avg_pool3d upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d "
    "mean sum amax amin max min"
)
_KEEPS = frozenset((*_FROM, *_SHIFTS, *_MOVES.split()))


class Signs:
    """Remembers the tensors that are rectified."""

    def __init__(self) -> None:
        self._rectified: MutableMapping[Tensor, bool] = WeakTensorKeyDictionary()

    def rectified(self, tensor: Tensor) -> bool:
        """Tell whether a tensor holds nothing below zero."""
        return self._rectified.get(tensor, False)

    def follow(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
    ) -> None:
        """Remember what an operator wrote; in place it may change a tensor's sign."""
        found = self._rectifies(name, args, kwargs, inputs)
        for tensor in outputs:
            self._rectified[tensor] = found

    def _rectifies(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], inputs: Sequence[Tensor]
    ) -> bool:
        if name in _RECTIFIES:
            return True
        if name in _FROM:
            least = args[1] if len(args) > 1 else kwargs.get("min_val", kwargs.get("min"))
            least = _FROM[name] if least is None else least
            if isinstance(least, (int, float)) and least >= 0:
                return True
        if name not in _KEEPS or not all(map(self.rectified, inputs)):
            return False
        numbers = [one for one in (*args, *kwargs.values()) if isinstance(one, (int, float))]
        return name not in _SHIFTS or min(numbers, default=0) >= 0
