"""Which channels of a network are left in one that somebody else cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from latprune.errors import ModelMismatch
from latprune.graph.slicing import kept_entries, select

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from latprune.graph.classes import IntArray
    from latprune.graph.groups import ChannelGroup, PruningGraph


def kept_channels(
    graph: PruningGraph, dense: nn.Module, small: nn.Module
) -> dict[str, tuple[int, ...]]:
    """Find out which channels another tool left in a network, so that `reconstruct` takes it.

    Biases and norms tell: cutting leaves a channel's own numbers as they were, and channels in
    their order. So this is for networks as they were cut, before any tuning; statistics of batch
    norms may have been re-estimated.

    Args:
        graph: Traced from `dense`.
        dense: The network before it was cut.
        small: What is left of it, its parameters under the same names.

    Returns:
        Per group the channels that stayed, ascending; none where a branch went as a whole.

    Raises:
        ModelMismatch: If the small network is no cut of the dense one along the graph's groups: it
            was trained since, its channels were reordered, or what was cut together is not what
            has to be. Or if a group has neither biases nor norms.
    """
    whole, left = (dict(network.named_parameters()) for network in (dense, small))
    in_branches = {name for branch in graph.branches for name in branch.groups}
    kept = {group.name: _kept(group, whole, left) for group in graph.groups}
    gone = [name for name, channels in kept.items() if not channels and name not in in_branches]
    if gone:
        raise ModelMismatch(f"nothing is left of {gone[0]} under the names of the dense network")
    entries = kept_entries(dense, graph.groups, kept, ties=graph.ties)
    for name, tensor in left.items():
        # What stands for a branch that went has names of its own.
        if name in whole and not _is_part(whole[name], tensor, entries.get(name, {})):
            raise _other(name)
    return kept


def _other(name: str) -> ModelMismatch:
    return ModelMismatch(
        f"{name} is not what the dense network's would be without some channels: was the network "
        "trained after it was cut, or cut along other groups than the graph's? It has to be as it "
        "was cut"
    )


def _kept(
    group: ChannelGroup, whole: Mapping[str, Tensor], left: Mapping[str, Tensor]
) -> tuple[int, ...]:
    names = [member.parameter for member in group.members if member.parameter in whole]
    if not any(name in left for name in names):
        return ()
    for member in group.members:
        vectors = list(_vectors(member.parameter, whole, left))
        if vectors and member.axis == 0:
            there = _places(*zip(*vectors, strict=True))
            if there is None:
                raise _other(member.parameter)
            stay = (all(int(at) in there for at in channel) for channel in member.positions)
            return tuple(channel for channel, stays in enumerate(stay) if stays)
    raise ModelMismatch(
        f"the channels of {group.name} have neither biases nor norms by which those that are left "
        "could be told"
    )


def _vectors(
    name: str, whole: Mapping[str, Tensor], left: Mapping[str, Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give the vectors of a parameter's module, of both networks, if it is one of them."""
    owner = name.rpartition(".")[0]
    beside = (f"{owner}.{leaf}".lstrip(".") for leaf in ("weight", "bias"))
    if name in whole and whole[name].dim() == 1:
        yield from ((whole[n], left[n]) for n in beside if n in left and whole[n].dim() == 1)


def _places(whole: Sequence[Tensor], left: Sequence[Tensor]) -> set[int] | None:
    """Find where what is left stood; None if not all of it is of the whole, and in order."""
    of_dense, of_small = (torch.stack(list(both), dim=1).tolist() for both in (whole, left))
    places, at = set[int](), 0
    for wanted in of_small:
        found = next((i for i in range(at, len(of_dense)) if of_dense[i] == wanted), None)
        if found is None:
            return None
        places.add(found)
        at = found + 1
    return places


def _is_part(whole: Tensor, left: Tensor, entries: Mapping[int, IntArray]) -> bool:
    part = select(whole.detach(), entries)
    return part.shape == left.shape and torch.equal(part, left.detach().to(part.device))
