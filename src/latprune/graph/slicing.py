"""Take channels out of a model's tensors, and tell its modules.

Works on a model in place; `surgery.cut` and the trial cuts of `verifying` hand it a copy.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from latprune.errors import ModelMismatch
from latprune.graph.reparametrised import (
    gains_made_up,
    make_up_gains,
    normed_weights,
    weights_of,
)
from latprune.modes import forget

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from latprune.graph.classes import IntArray
    from latprune.graph.groups import ChannelGroup, Count, Role
    from latprune.graph.ties import Tie


TOUCHING: tuple[Role, ...] = ("writes", "reads", "through", "scale", "shift")
"""Roles of the parameters that write and read channels."""


def slice_model(
    model: nn.Module,
    groups: Iterable[ChannelGroup],
    kept: Mapping[str, Sequence[int]],
    *,
    ties: Sequence[Tie] = (),
) -> None:
    """Keep only some channels of each group, in place.

    Args:
        model: The dense model; shared tensors stay shared.
        groups: Where the channels lie.
        kept: Per group the channels that stay; a group that is missing stays whole.
        ties: Which of the groups are tied.

    Raises:
        ModelMismatch: If a tensor is missing or has not the size that the groups say.
    """
    groups = tuple(groups)
    before: dict[int, torch.Size] = {}
    entries = kept_entries(model, groups, kept, ties=ties)
    make_up_gains(model, entries)
    for name, axes in entries.items():
        tensor = tensor_of(model, name)
        before[id(tensor)] = tensor.shape
        tensor.data = select(tensor.data, axes).contiguous(memory_format=_format_of(tensor))
        tensor.grad = None
    tell_modules(model, groups, kept, before)
    forget(model)


def _format_of(tensor: torch.Tensor) -> torch.memory_format:
    """Say whether a weight lies channels last; one that lies in both ways lies as usual."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    last = formats.get(tensor.dim())
    if last is None or tensor.is_contiguous() or not tensor.is_contiguous(memory_format=last):
        return torch.contiguous_format
    return last


def select(tensor: torch.Tensor, axes: Mapping[int, IntArray]) -> torch.Tensor:
    """Keep only these entries of some axes."""
    for axis, entries in axes.items():
        tensor = tensor.index_select(axis, torch.from_numpy(entries).to(tensor.device))
    return tensor


def tell_modules(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, Sequence[int]],
    before: Mapping[int, Sequence[int]],
) -> None:
    """Bring the modules' own numbers into line with tensors that have been cut.

    Args:
        model: The model.
        groups: Where the channels lay.
        kept: Per group the channels that stayed; a group that is missing stayed whole.
        before: The shapes that the tensors had, by id.
    """
    through = {id(tensor_of(model, m.parameter)) for g in groups for m in g.with_role("through")}
    for module in model.modules():
        own = (*module._parameters.values(), *module._buffers.values(), *weights_of(module))
        if any(id(tensor) in before for tensor in own):
            _tell(module, before, through)
    left = {group.name: len(kept.get(group.name, range(group.channels))) for group in groups}
    for group in groups:
        gone = group.channels - left[group.name]
        for count in group.counts if gone else ():
            each = count.per_channel * (left[count.within] if count.within else 1)
            _lower(model.get_submodule(count.module), count, gone * each)


def zero_channels(
    model: nn.Module, groups: Iterable[ChannelGroup], kept: Mapping[str, Sequence[int]]
) -> None:
    """Set to zero, in place, what writes and what reads the channels that would not stay.

    The model then computes what the cut one must compute: a weight does not see these channels,
    and in a product of activations, such as attention's, they add nothing.
    """
    with gains_made_up(model):
        for group, member in ((g, m) for g in groups for m in g.with_role(*TOUCHING)):
            every = np.arange(group.channels)
            gone = np.setdiff1d(every, kept.get(group.name, range(group.channels)))
            entries = torch.from_numpy(member.positions[gone].ravel())
            tensor = tensor_of(model, member.parameter)
            tensor.data.index_fill_(member.axis, entries.to(tensor.device), 0.0)


@contextmanager
def zeroed(
    model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Sequence[int]]
) -> Iterator[None]:
    """The same, for as long as it takes: afterwards the model is as it was."""
    names = {member.parameter for group in groups for member in group.with_role(*TOUCHING)}
    touched = [tensor_of(model, name) for name in names]
    touched += [normed.gain for normed in normed_weights(model) if normed.name in names]
    before = [tensor.detach().clone() for tensor in touched]
    try:
        zero_channels(model, groups, kept)
        yield
    finally:
        for tensor, values in zip(touched, before, strict=True):
            tensor.data.copy_(values)


def tensor_of(model: nn.Module, name: str) -> torch.Tensor:
    """Give a parameter or buffer by its dotted name.

    Raises:
        ModelMismatch: If there is none.
    """
    owner, _, leaf = name.rpartition(".")
    try:
        module = model.get_submodule(owner)
    except AttributeError:
        module = nn.Module()
    parameter: torch.Tensor | None = module._parameters.get(leaf)
    tensor = module._buffers.get(leaf) if parameter is None else parameter
    if tensor is None:
        raise ModelMismatch(f"the model has no parameter or buffer {name!r}: it is another model")
    return tensor


def kept_entries(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, Sequence[int]],
    *,
    ties: Sequence[Tie] = (),
) -> dict[str, dict[int, IntArray]]:
    """Give the entries that stay where some go: by tensor and axis, ascending.

    Args:
        model: What is to be cut.
        groups: Where the channels lie.
        kept: Per group the channels that stay; a group that is missing stays whole.
        ties: Which of the groups are tied: entries of their axes come in the order in which they
            are to lie.

    Raises:
        ModelMismatch: If a tensor is missing or has not the size that the groups say, or tied
            groups keep numbers of channels that do not go together.
    """
    gone: dict[tuple[str, int], list[IntArray]] = defaultdict(list)
    for group in groups:
        if group.name not in kept or len(kept[group.name]) == group.channels:
            continue
        removed = np.setdiff1d(np.arange(group.channels), kept[group.name])
        for member in group.members:
            gone[member.parameter, member.axis].append(member.positions[removed].ravel())
    entries: dict[str, dict[int, IntArray]] = defaultdict(dict)
    for (name, axis), pieces in gone.items():
        size = tensor_of(model, name).shape[axis]
        removed = np.concatenate(pieces)
        if removed.size and removed.max() >= size:
            raise ModelMismatch(
                f"{name} has {size} entries on axis {axis}, the plan cuts number {removed.max()}: "
                "it is another model, or one that was cut before"
            )
        entries[name][axis] = np.setdiff1d(np.arange(size), removed)
    by_name = {group.name: group for group in groups}
    for tie in ties:
        for (name, axis), in_order in tie.entries(by_name, kept).items():
            entries[name][axis] = in_order
    return entries


def _lower(module: nn.Module, count: Count, by: int) -> None:
    """Lower a number in a module's attributes."""
    before = vars(module).get(count.attribute)
    if count.index is None and isinstance(before, int):
        vars(module)[count.attribute] = before - by
    elif count.index is not None and isinstance(before, tuple | list):
        entries = list(before)
        entries[count.index] -= by
        vars(module)[count.attribute] = type(before)(entries)
    else:
        raise ModelMismatch(
            f"{count.module or 'the model'} has no number {count.attribute!r}: it is another model"
        )


def _tell(module: nn.Module, before: Mapping[int, Sequence[int]], through: Collection[int]) -> None:
    """Bring a module's own numbers into line with its tensors.

    Args:
        module: Some of its tensors were cut.
        before: Sizes of tensors before they were, by id.
        through: Weights that lose whole groups, by id.
    """
    weights = weights_of(module)
    weight = weights[-1] if weights else None
    if isinstance(module, nn.modules.conv._ConvNd) and weight is not None:
        if id(weight) in before and any(id(own) in through for own in weights):
            module.groups = module.groups * len(weight) // before[id(weight)][0]
        out, into = (1, 0) if module.transposed else (0, 1)
        module.out_channels = weight.shape[out] * (module.groups if module.transposed else 1)
        module.in_channels = weight.shape[into] * (1 if module.transposed else module.groups)
    elif isinstance(module, nn.Linear) and weight is not None:
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        tensor = weight if weight is not None else module.running_mean
        if tensor is not None:
            module.num_features = len(tensor)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and weight is not None:
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.GroupNorm) and weight is not None:
        if module.num_groups == module.num_channels:  # as an instance norm
            module.num_groups = len(weight)
        module.num_channels = len(weight)
