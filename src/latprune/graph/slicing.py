"""Take channels out of a model's tensors, and tell its modules.

Works on a model in place; `surgery.cut` and the trial cuts of `verifying` hand it a copy.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from latprune.errors import ModelMismatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from latprune.graph.classes import IntArray
    from latprune.graph.groups import ChannelGroup


def slice_model(
    model: nn.Module, groups: Iterable[ChannelGroup], kept: Mapping[str, Sequence[int]]
) -> None:
    """Keep only some channels of each group, in place.

    Args:
        model: The dense model; shared tensors stay shared.
        groups: Where the channels lie.
        kept: Per group the channels that stay; a group that is missing stays whole.

    Raises:
        ModelMismatch: If a tensor is missing or has not the size that the groups say.
    """
    groups = tuple(groups)
    through = through_axes(groups)
    for name, axes in kept_entries(model, groups, kept).items():
        tensor = tensor_of(model, name)
        before = tensor.shape
        tensor.data = select(tensor.data, axes).contiguous()
        tensor.grad = None
        tell_owner(model, name, before=before, through=through.get(name))


def select(tensor: torch.Tensor, axes: Mapping[int, IntArray]) -> torch.Tensor:
    """Keep only these entries of some axes."""
    for axis, entries in axes.items():
        tensor = tensor.index_select(axis, torch.from_numpy(entries).to(tensor.device))
    return tensor


def through_axes(groups: Iterable[ChannelGroup]) -> dict[str, int]:
    """Give the weights of grouped convolutions that lose whole groups, and on which axis."""
    return {m.parameter: m.axis for group in groups for m in group.with_role("through")}


def tell_owner(
    model: nn.Module, name: str, *, before: Sequence[int], through: int | None = None
) -> None:
    """Bring the numbers of a tensor's module into line with the tensor, which has been cut.

    Args:
        model: The model.
        name: Of the tensor.
        before: The shape that it had.
        through: The axis on which a grouped convolution has lost whole groups.
    """
    tensor = tensor_of(model, name)
    owner = model.get_submodule(name.rpartition(".")[0])
    groups = None
    if (
        isinstance(owner, nn.modules.conv._ConvNd)
        and tensor is owner.weight
        and through is not None
    ):
        groups = owner.groups * tensor.shape[through] // before[through]
    _tell(owner, groups)


def zero_where_read(
    model: nn.Module, groups: Iterable[ChannelGroup], kept: Mapping[str, Sequence[int]]
) -> None:
    """Set to zero, in place, the weights that read the channels that would not stay.

    The model then computes what the cut one must compute.
    """
    readers = [(group, member) for group in groups for member in group.with_role("reads")]
    for group, member in readers:
        gone = np.setdiff1d(np.arange(group.channels), kept.get(group.name, range(group.channels)))
        entries = torch.from_numpy(member.positions[gone].ravel())
        tensor = tensor_of(model, member.parameter)
        tensor.data.index_fill_(member.axis, entries.to(tensor.device), 0.0)


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
    model: nn.Module, groups: Iterable[ChannelGroup], kept: Mapping[str, Sequence[int]]
) -> dict[str, dict[int, IntArray]]:
    """Give the entries that stay where some go: by tensor and axis, ascending.

    Args:
        model: What is to be cut.
        groups: Where the channels lie.
        kept: Per group the channels that stay; a group that is missing stays whole.

    Raises:
        ModelMismatch: If a tensor is missing or has not the size that the groups say.
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
    return entries


def _tell(module: nn.Module, groups: int | None) -> None:
    """Bring a module's own numbers into line with its tensors; `groups`: of a convolution."""
    weight = module._parameters.get("weight")
    if isinstance(module, nn.modules.conv._ConvNd) and weight is not None:
        module.groups = groups or module.groups
        out, into = (1, 0) if module.transposed else (0, 1)
        module.out_channels = weight.shape[out] * (module.groups if module.transposed else 1)
        module.in_channels = weight.shape[into] * (1 if module.transposed else module.groups)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        tensor = weight if weight is not None else module.running_mean
        if tensor is not None:
            module.num_features = len(tensor)
