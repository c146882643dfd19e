"""The layers that ran, in the order in which they did, with what belongs to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from latprune.graph.layers import LayerShape
from latprune.graph.shadows import varying

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    import torch

    from latprune.graph.classes import IntArray
    from latprune.graph.labels import Call, LabelMode
    from latprune.graph.layers import Kind


@dataclass(frozen=True)
class SeenLayer:
    """A layer or operator that ran, with the labels on its two sides."""

    name: str
    shape: LayerShape
    reads: IntArray
    writes: IntArray
    groups_follow: bool


class SeenLayers:
    """Remembers layers; norms, sums and activations join the layer that they follow.

    Attributes:
        layers: In the order of execution.
        unpriced: What takes time but belongs to no layer.
        recording: Whether what runs now is to be remembered.
    """

    def __init__(self, mode: LabelMode) -> None:
        self.layers: list[SeenLayer] = []
        self.unpriced: dict[str, None] = {}
        self.recording = True
        self._mode = mode
        self._tails: MutableMapping[torch.Tensor, int] = WeakTensorKeyDictionary()
        self._writers: MutableMapping[torch.Tensor, int] = WeakTensorKeyDictionary()

    def add(self, layer: SeenLayer, output: torch.Tensor) -> None:
        """Remember a layer; a norm and an activation may still join it."""
        if isinstance(self._mode.module, nn.RNNBase):
            self.leave_unpriced("recurrent layer")  # a runtime runs all of its steps as one
        elif self.recording:
            self._tails[output] = self._writers[output] = len(self.layers)
            self.layers.append(layer)

    def add_operator(
        self, kind: Kind, x: torch.Tensor, output: torch.Tensor, **fields: Any
    ) -> None:
        """Remember an operator between layers, by the channels that it passes on.

        One whose output has channels on no axis, on several, or not where a latency table looks
        for them, stays unpriced.
        """
        axes = [a for shadow in self._mode.shadows(output) for a in varying(shadow)]
        batch = self._mode.batch
        if len(axes) != 1 or output.shape[0] != batch or axes[0] not in (1, output.dim() - 1):
            self.leave_unpriced(kind)
            return
        (axis,) = axes
        channels = self._mode.on(output, axis)
        last = axis > 1
        size = tuple(x.shape[1:-1] if last else x.shape[2:])
        shape = LayerShape(kind, len(channels), len(channels), size, last=last, **fields)
        name = f"{self._mode.where()}/{kind}"
        self.add(SeenLayer(name, shape, channels, channels, False), output)

    def absorb_sum(self, call: Call) -> bool:
        """Make a sum of two tensors part of the layer that wrote one of them, the later one."""
        found = [index for tensor in call.inputs if (index := self._tails.get(tensor)) is not None]
        free = [
            index
            for index in found
            if (shape := self.layers[index].shape).has_weights
            and not (shape.adds or shape.activation)
        ]
        if not free:
            return False
        self._extend(max(free), call.outputs[0], adds=True)
        return True

    def absorb_norm(self, source: torch.Tensor, output: torch.Tensor) -> bool:
        """Make a norm part of the layer whose output it reads; False if there is none."""
        index = self._tails.get(source)
        if index is None or not _takes_norm(self.layers[index].shape):
            return False
        self._extend(index, output, norm=True)
        return True

    def absorb_activation(self, source: torch.Tensor, output: torch.Tensor, name: str) -> bool:
        """Make an activation part of the layer whose output it reads; False if there is none."""
        index = self._tails.get(source)
        if index is None or self.layers[index].shape.activation is not None:
            return False
        self._extend(index, output, activation=name)
        self._tails.pop(output, None)
        return True

    def feed_depthwise(self, source: torch.Tensor) -> None:
        """Remember of the layer that wrote a tensor that a depthwise convolution reads it."""
        index = self._writers.get(source)
        if index is not None and self.layers[index].shape.has_weights:
            seen = self.layers[index]
            self.layers[index] = replace(seen, shape=replace(seen.shape, to_depthwise=True))

    def leave_unpriced(self, name: str) -> None:
        """Remember an operator that takes time but belongs to no layer."""
        if self.recording:
            self.unpriced.setdefault(f"{self._mode.where() or 'model'}: {name}")

    def _extend(self, index: int, output: torch.Tensor, **fields: Any) -> None:
        seen = self.layers[index]
        self.layers[index] = replace(seen, shape=replace(seen.shape, **fields))
        self._tails[output] = self._writers[output] = index


def _takes_norm(shape: LayerShape) -> bool:
    return shape.has_weights and not (shape.norm or shape.adds)
