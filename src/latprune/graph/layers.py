"""What a layer looks like to a clock: its kind, its widths and all else that decides its time.

`LayerShape` is the key of every latency table. `Layer` is one such shape in a network, together
with the channel groups that its two widths follow.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal[
    "conv", "linear", "norm", "activation", "add", "mul", "gate", "concat", "max_pool", "avg_pool",
    "mean",
]  # fmt: skip

WITH_WEIGHTS: tuple[Kind, ...] = ("conv", "linear")
_OF_NEIGHBOURS = ("rectified", "to_depthwise")


@dataclass(frozen=True)
class LayerShape:
    """One convolution or linear layer with what follows it alone, or an operator between layers.

    Attributes:
        kind: `conv` (any number of spatial axes, from `kernel`) or `linear`; or an operator that
            belongs to neither: a batch `norm` or an `activation` that follows no layer, `add` and
            `mul` of two tensors, `gate` (every channel times a number of its own), `concat` of two
            halves, a pooling with its kernel, `mean` over the whole plane.
        in_channels: Channels read.
        out_channels: Channels written; by an operator as many as it reads.
        size: Spatial size of the input; for `linear` the rows per sample, e.g. `(1,)` or tokens.
            The channels come before it, except in a `linear`'s input and where `last` says so.
        kernel: Kernel size, one number per spatial axis; empty for `linear`.
        stride: As `kernel`.
        padding: As `kernel`; symmetric.
        dilation: As `kernel`.
        groups: Of a grouped convolution.
        transposed: Whether it is a transposed convolution.
        bias: Whether it adds a bias of its own.
        norm: Whether a batch norm follows.
        adds: Whether another tensor is added to what comes so far, as at a residual's end.
        activation: The activation that follows, by its operator's name (`relu`, `hardtanh` for
            ReLU6, `silu`, `hardswish`, …), or None.
        last: Whether an operator's channels are its tensors' last axis, as in a transformer.
        rectified: Whether what a layer with weights reads is never below zero, as after a ReLU:
            integers then need no zero point, and there are kernels for that.
        to_depthwise: Whether a depthwise convolution reads what a layer with weights writes: a
            quantiser then gives every channel a scale of its own.
    """

    kind: Kind
    in_channels: int
    out_channels: int
    size: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    bias: bool = False
    norm: bool = False
    adds: bool = False
    activation: str | None = None
    last: bool = False
    rectified: bool = False
    to_depthwise: bool = False

    def __post_init__(self) -> None:
        if self.in_channels < 1 or self.out_channels < 1 or self.groups < 1:
            raise ValueError(f"a layer has at least one channel on either side: {self}")
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(f"{self.groups} groups do not divide the channels of {self}")
        if not self.has_weights and self.in_channels != self.out_channels:
            raise ValueError(f"an operator writes as many channels as it reads: {self}")

    @property
    def has_weights(self) -> bool:
        """Whether it is a convolution or linear layer, whose two widths are independent."""
        return self.kind in WITH_WEIGHTS

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel read has filters of its own."""
        return 1 < self.groups == self.in_channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one sample; 0 for an operator. Bias and norm count nothing."""
        if not self.has_weights:
            return 0
        per_position = self.in_channels // self.groups * self.out_channels * math.prod(self.kernel)
        return per_position * math.prod(self._positions)

    @property
    def _positions(self) -> tuple[int, ...]:
        """The places where the kernel is applied: outputs, or inputs if it is transposed."""
        if self.kind == "linear" or self.transposed:
            return self.size
        axes = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple(
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in axes
        )

    @cached_property
    def by_itself(self) -> LayerShape:
        """The same shape, without what is known of its neighbours."""
        return replace(self, rectified=False, to_depthwise=False)

    @property
    def setting(self) -> tuple[object, ...]:
        """All but the kernel and the widths: layers that differ in neither share a staircase."""
        follows = (self.bias, self.norm, self.adds, self.activation)
        return (self.size, self.padding, *follows, self.last, self.rectified, self.to_depthwise)

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values; of those about neighbours, only what is so."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value or name not in _OF_NEIGHBOURS  # as before there were such fields
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> LayerShape:
        """Read what `to_json` gave, after a trip through JSON text."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        return cls(**values)


@dataclass(frozen=True)
class Width:
    """How many channels an axis has, given the widths of the channel groups on it.

    Attributes:
        fixed: Channels that belong to no group and always stay.
        groups: Pairs (group name, channels of this axis per channel of the group).
        products: Where channels of one group lie within each of another's, as the width of a head
            within every head: both names, and channels of this axis per pair of theirs.
    """

    fixed: int
    groups: tuple[tuple[str, int], ...] = ()
    products: tuple[tuple[str, str, int], ...] = ()

    @property
    def terms(self) -> tuple[tuple[tuple[str, ...], int], ...]:
        """Per group, or two that cross, by name: channels of this axis per channel or pair."""
        alone = (((name,), count) for name, count in self.groups)
        crossed = (((one, two), count) for one, two, count in self.products)
        return (*alone, *crossed)

    @property
    def names(self) -> tuple[str, ...]:
        """The groups that it follows; none if it is fixed."""
        return tuple(dict.fromkeys(name for names, _ in self.terms for name in names))

    def at(self, widths: Mapping[str, int]) -> int:
        """Give the number of channels at these group widths."""
        return self.fixed + sum(
            count * math.prod(widths[name] for name in names) for names, count in self.terms
        )

    def per_channel(self, group: str, widths: Mapping[str, int]) -> int:
        """Give how many of these channels a channel of a group takes, at the others' widths."""
        return self.at({**widths, group: 1}) - self.at({**widths, group: 0})


@dataclass(frozen=True)
class Layer:
    """A layer of a network and the channel groups that its widths follow.

    Attributes:
        name: The module's dotted name, and for an operator its kind behind a slash; `name@2` for
            a module's second call, and so on.
        shape: As it is in the dense network.
        reads: Its input channels.
        writes: Its output channels.
        groups_follow: Whether a grouped convolution loses whole groups, as a depthwise one does
            (`groups` shrinks with the width), instead of channels inside each group.
    """

    name: str
    shape: LayerShape
    reads: Width
    writes: Width
    groups_follow: bool = False

    @property
    def tied(self) -> bool:
        """Whether the width read and the width written are one: depthwise layers, operators."""
        return self.groups_follow or not self.shape.has_weights

    def shape_at(self, widths: Mapping[str, int]) -> LayerShape:
        """Give the layer's shape at these group widths."""
        return self.shape_of(self.reads.at(widths), self.writes.at(widths))

    def shape_of(self, in_channels: int, out_channels: int) -> LayerShape:
        """Give the layer's shape at these channel counts."""
        groups = self.shape.groups
        if self.groups_follow:
            groups = groups * out_channels // self.shape.out_channels
        return replace(
            self.shape, in_channels=in_channels, out_channels=out_channels, groups=groups
        )
