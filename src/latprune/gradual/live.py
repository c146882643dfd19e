"""Cut a network while it is trained: in place, with its optimizer's state and its copies."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from latprune.errors import ModelMismatch
from latprune.graph.reparametrised import make_up_gains
from latprune.graph.slicing import kept_entries, select, tell_modules, tensor_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from latprune.graph.classes import IntArray
    from latprune.graph.groups import ChannelGroup, Count, PruningGraph

    Entries = Mapping[str, Mapping[int, IntArray]]


REMEDY = (
    "cannot be cut along: train with an optimizer that keeps one number per weight, such as SGD or "
    "AdamW"
)


class LiveNetwork:
    """A network that is being trained, and all that has its shapes.

    Modules, parameters and buffers stay the same objects; what they hold is cut.

    Attributes:
        model: The network, without wrappers.
        copies: Networks that are cut along, such as moving averages, without wrappers.
        optimizer: Holds state of the parameters' shapes.
        groups: The channel groups as they are now: positions count what is left.
        kept: Per group the dense network's channels that are left, ascending.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: PruningGraph,
        optimizer: torch.optim.Optimizer,
        copies: Sequence[nn.Module] = (),
    ) -> None:
        self.model = unwrapped(model, graph)
        self.copies = [unwrapped(copy, graph) for copy in copies]
        self._wrapped = tuple(copies)
        _check_bare(optimizer)
        self.optimizer = optimizer
        self.groups = graph.groups
        self._ties = graph.ties
        self.kept = {group.name: tuple(range(group.channels)) for group in graph.groups}

    def own_buffers(self) -> dict[str, Tensor]:
        """Give what the wrappers of copies keep, such as how often `AveragedModel` averaged."""
        of_copies = {id(buffer) for copy in self.copies for buffer in copy.buffers()}
        return {
            f"{number}.{name}": buffer
            for number, wrapper in enumerate(self._wrapped)
            for name, buffer in wrapper.named_buffers()
            if id(buffer) not in of_copies
        }

    def check_state(self) -> None:
        """Refuse what the optimizer keeps now, if a cut of whichever group could not cut it along.

        Raises:
            ModelMismatch: Of the first such state.
        """
        self._check_lists()
        for name in dict.fromkeys(m.parameter for group in self.groups for m in group.members):
            self._check_slots(name)

    def cut(self, kept: Mapping[str, Sequence[int]]) -> None:
        """Keep only these of the dense network's channels.

        Args:
            kept: Per group its channels, ascending, all of them still there.

        Raises:
            ModelMismatch: If one is gone, or the optimizer's state cannot be cut. Nothing has
                been changed then.
        """
        self._check_lists()
        among = {name: self._places(name, channels) for name, channels in kept.items()}
        entries = kept_entries(self.model, self.groups, among, ties=self._ties)
        for name in entries:
            self._check_slots(name)
        for network in (self.model, *self.copies):
            before: dict[int, Sequence[int]] = {}
            make_up_gains(network, entries)
            for name, axes in entries.items():
                tensor = tensor_of(network, name)
                before[id(tensor)] = tensor.shape
                _cut_tensor(tensor, axes, self.optimizer)
            tell_modules(network, self.groups, among, before)
        self.groups = tuple(_left(g, among, entries, self.groups) for g in self.groups)
        self.kept = {name: tuple(channels) for name, channels in kept.items()}

    def _places(self, name: str, channels: Sequence[int]) -> list[int]:
        """Give the present positions of channels."""
        gone = sorted(set(channels) - set(self.kept[name]))
        if gone:
            raise ModelMismatch(
                f"channel {gone[0]} of {name} has been cut away and cannot stay: build the dense "
                f"network again"
            )
        places: list[int] = np.searchsorted(self.kept[name], list(channels)).tolist()
        return places

    def _check_slots(self, name: str) -> None:
        parameter = tensor_of(self.model, name)
        for slot, value in self.optimizer.state.get(parameter, {}).items():
            if _is_plain(value) or _fits(value, parameter, self.optimizer):
                continue
            raise ModelMismatch(
                f"{type(self.optimizer).__name__} keeps {slot!r} of shape {tuple(value.shape)} "
                f"for {name} of shape {tuple(parameter.shape)}, and {REMEDY}"
            )

    def _check_lists(self) -> None:
        """Refuse state that may hold anything, of whichever parameters."""
        for slots in self.optimizer.state.values():
            for slot, value in slots.items():
                if not isinstance(value, torch.Tensor) and not _is_scalar(value):
                    raise ModelMismatch(
                        f"{type(self.optimizer).__name__} keeps a {type(value).__name__} as "
                        f"{slot!r}, and {REMEDY}"
                    )


def _check_bare(optimizer: torch.optim.Optimizer) -> None:
    for name, inner in vars(optimizer).items():
        if isinstance(inner, torch.optim.Optimizer):
            raise ModelMismatch(
                f"{type(optimizer).__name__} keeps another optimizer as {name!r}, and {REMEDY}"
            )


def unwrapped(model: nn.Module, graph: PruningGraph) -> nn.Module:
    """Give the network inside wrappers: data parallel, compiled, or a moving average's.

    Raises:
        ModelMismatch: If none of them is the graph's network, whole.
    """
    inner: nn.Module | None = model
    while inner is not None:
        compiled = inner._modules.get("_orig_mod")
        if compiled is None and _is_whole(inner, graph):
            return inner
        inner = compiled or inner._modules.get("module")
    raise ModelMismatch(
        f"{type(model).__name__} is not the network that the graph was traced from, or was cut "
        f"before: give the dense one"
    )


def _is_whole(model: nn.Module, graph: PruningGraph) -> bool:
    try:
        shapes = [
            (tensor_of(model, member.parameter).shape, member)
            for group in graph.groups
            for member in group.members
        ]
    except ModelMismatch:
        return False
    return all(
        member.axis < len(shape) and member.positions.max() < shape[member.axis]
        for shape, member in shapes
    )


def _left(
    group: ChannelGroup,
    among: Mapping[str, Sequence[int]],
    entries: Entries,
    groups: Sequence[ChannelGroup],
) -> ChannelGroup:
    """Give a group after a cut, with positions among the entries that stayed."""
    places = among[group.name]
    members = []
    for member in group.members:
        positions = member.positions[list(places)]
        stayed = entries.get(member.parameter, {}).get(member.axis)
        if stayed is not None:
            # A group that this one crosses takes entries of every channel, equally many.
            positions = positions[np.isin(positions, stayed)].reshape(len(places), -1)
            order = np.argsort(stayed)  # those of tied groups lie in an order of their own
            positions = order[np.searchsorted(stayed, positions, sorter=order)]
        members.append(replace(member, positions=positions))
    counts = tuple(_count_left(group, count, among, groups) for count in group.counts)
    return replace(group, channels=len(places), members=tuple(members), counts=counts)


def _count_left(
    group: ChannelGroup,
    count: Count,
    among: Mapping[str, Sequence[int]],
    groups: Sequence[ChannelGroup],
) -> Count:
    """Give what a number loses with a channel once groups within that channel were cut."""
    place = count.module, count.attribute, count.index
    gone = sum(
        (other.channels - len(among[other.name])) * inside.per_channel
        for other in groups
        for inside in other.counts
        if inside.within == group.name and (inside.module, inside.attribute, inside.index) == place
    )
    return replace(count, per_channel=count.per_channel - gone)


def _cut_tensor(
    tensor: Tensor, axes: Mapping[int, IntArray], optimizer: torch.optim.Optimizer
) -> None:
    """Cut a parameter or buffer, its gradient and what the optimizer keeps for it."""
    slots: dict[str, Any] = optimizer.state.get(tensor, {})
    for slot, value in slots.items():
        if not _is_plain(value):
            cut = {a: e for a, e in axes.items() if value.shape[a] == tensor.shape[a]}
            slots[slot] = _selected(value, cut)
    gradient, tensor.grad = tensor.grad, None
    data = _selected(tensor.data, axes)
    if tensor.requires_grad:
        # A loss that is still alive keeps the parameter's node in the autograd graph, and the
        # node the old shape. Only another type makes torch forget it.
        other = torch.float32 if tensor.dtype == torch.float64 else torch.float64
        tensor.data = tensor.data.new_empty(0, dtype=other)
    tensor.data = data
    if gradient is not None:
        tensor.grad = _selected(gradient, axes)


def _selected(tensor: Tensor, axes: Mapping[int, IntArray]) -> Tensor:
    """Select entries; a tensor that has its channels last keeps them there."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    cut = select(tensor, axes)
    if last is None or tensor.is_contiguous() or not tensor.is_contiguous(memory_format=last):
        return cut.contiguous()
    return cut.contiguous(memory_format=last)


def _is_plain(value: Any) -> bool:
    """Whether a slot is the same for all entries, as a count of steps is."""
    return not isinstance(value, torch.Tensor) or value.dim() == 0


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _fits(value: Tensor, parameter: Tensor, optimizer: torch.optim.Optimizer) -> bool:
    """Whether a slot has a number per weight, or per row or column.

    Other factored optimizers than torch's choose the axes by their sizes, and would after a cut
    choose others.
    """
    if not isinstance(optimizer, torch.optim.Adafactor):
        return value.shape == parameter.shape
    return value.dim() == parameter.dim() and all(
        size in (1, whole) for size, whole in zip(value.shape, parameter.shape, strict=True)
    )
