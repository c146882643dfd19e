"""Which channels of a network are left in one that somebody else cut."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import torch

from latprune.errors import ModelMismatch
from latprune.graph.slicing import kept_entries, select
from latprune.graph.ties import tied_groups

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from latprune.graph.classes import IntArray
    from latprune.graph.groups import ChannelGroup, Member, PruningGraph


def kept_channels(
    graph: PruningGraph, dense: nn.Module, small: nn.Module
) -> dict[str, tuple[int, ...]]:
    """Find out which channels another tool left in a network, so that `reconstruct` takes it.

    Biases, norms and weights tell: cutting leaves a channel's own numbers as they were, and
    channels in their order. So this is for networks as they were cut, before any tuning; statistics
    of batch norms may have been re-estimated. Where biases and norms are alike, as in a network
    that is not trained, weights tell once it is known which channels of their other side stayed.

    Args:
        graph: Traced from `dense`.
        dense: The network before it was cut.
        small: What is left of it, its parameters under the same names.

    Returns:
        Per group the channels that stayed, ascending; none where a branch went as a whole.

    Raises:
        ModelMismatch: If the small network is no cut of the dense one along the graph's groups: it
            was trained since, its channels were reordered, or what was cut together is not what
            has to be. Or if channels of a group cannot be told apart.
    """
    whole, left = (dict(network.named_parameters()) for network in (dense, small))
    in_branches = {name for branch in graph.branches for name in branch.groups}
    search = _Search(graph, whole, left)
    search.run()
    kept = {group.name: search.kept[group.name] for group in graph.groups}
    gone = [name for name, channels in kept.items() if not channels and name not in in_branches]
    if gone:
        raise ModelMismatch(f"nothing is left of {gone[0]} under the names of the dense network")
    entries = kept_entries(dense, graph.groups, kept, ties=graph.ties)
    for name, tensor in left.items():
        # What stands for a branch that went has names of its own.
        if name in whole and not _is_part(whole[name], tensor, entries.get(name, {})):
            raise search.mismatch(name)
    return kept


def _other(name: str) -> ModelMismatch:
    return ModelMismatch(
        f"{name} is not what the dense network's would be without some channels: was the network "
        "trained after it was cut, or cut along other groups than the graph's? It has to be as it "
        "was cut"
    )


def _alike(group: str) -> ModelMismatch:
    return ModelMismatch(
        f"channels of {group} have the same biases, norms and weights, as far as these are known: "
        "nothing tells which of them are left, so say yourself what was kept"
    )


class _Search:
    """Finds out group by group which channels stayed.

    Attributes:
        kept: What is known so far.
        guessed: Groups with channels so alike that others might have stayed.
    """

    def __init__(
        self, graph: PruningGraph, whole: Mapping[str, Tensor], left: Mapping[str, Tensor]
    ) -> None:
        self.kept: dict[str, tuple[int, ...]] = {}
        self.guessed: list[str] = []
        self._groups, self._tied = graph.groups, tied_groups(graph.ties)
        self._whole, self._left = whole, left
        self._lying: dict[tuple[str, int], list[tuple[str, Member]]] = defaultdict(list)
        for group in graph.groups:
            for member in group.members:
                self._lying[member.parameter, member.axis].append((group.name, member))

    def run(self) -> None:
        """Find all."""
        rest = list(self._groups)
        while rest:
            told = [group for group in rest if self._find(group, certain=True)]
            if not told:  # a guess may help with the others, and is checked in the end
                if not self._find(rest[0], certain=False):
                    raise _alike(rest[0].name)
                self.guessed.append(rest[0].name)
            rest = [group for group in rest if group.name not in self.kept]

    def mismatch(self, name: str) -> ModelMismatch:
        """Say what is wrong where a parameter is not what it should be."""
        return _alike(self.guessed[0]) if self.guessed else _other(name)

    def _find(self, group: ChannelGroup, *, certain: bool) -> bool:
        """Find out what stayed of a group, if its channels differ, or anyway."""
        members = [member for member in group.members if member.parameter in self._whole]
        if not any(member.parameter in self._left for member in members):
            self.kept[group.name] = ()
            return True
        for member in sorted(members, key=lambda member: self._whole[member.parameter].dim()):
            rows = self._rows(member)
            if rows is None or (certain and len(set(rows[0])) < len(rows[0])):
                continue
            there = _places(*rows)
            if there is None:
                raise self.mismatch(member.parameter)
            stay = (all(int(at) in there for at in channel) for channel in member.positions)
            self.kept[group.name] = tuple(c for c, stays in enumerate(stay) if stays)
            return True
        return False

    def _rows(self, member: Member) -> tuple[list[bytes], list[bytes]] | None:
        """Give the numbers at every entry of an axis, of both networks; None if not yet known."""
        name, axis = member.parameter, member.axis
        if name not in self._left:
            return None
        if self._whole[name].dim() == 1:
            owner = name.rpartition(".")[0]
            beside = [f"{owner}.{leaf}".lstrip(".") for leaf in ("weight", "bias")]
            vectors = [n for n in beside if n in self._left and self._whole[n].dim() == 1]
            return (
                _as_bytes(torch.stack([self._whole[n].detach() for n in vectors or [name]], dim=1)),
                _as_bytes(torch.stack([self._left[n].detach() for n in vectors or [name]], dim=1)),
            )
        whole, left = self._whole[name].detach(), self._left[name].detach()
        for other in range(whole.dim()):
            if other == axis:
                continue
            stay = self._staying(name, other, whole.shape[other])
            if stay is None:
                return None
            whole = select(whole, {other: stay})
        if whole.movedim(axis, 0).shape[1:] != left.movedim(axis, 0).shape[1:]:
            raise self.mismatch(name)
        return _as_bytes(whole.movedim(axis, 0)), _as_bytes(left.movedim(axis, 0))

    def _staying(self, name: str, axis: int, size: int) -> IntArray | None:
        """Give the entries of an axis that stay, if that is known of all groups on it."""
        gone = [np.zeros(0, dtype=np.int64)]
        for group, member in self._lying[name, axis]:
            if group not in self.kept or group in self._tied:
                return None
            removed = np.setdiff1d(np.arange(len(member.positions)), self.kept[group])
            gone.append(member.positions[removed].ravel())
        return np.setdiff1d(np.arange(size), np.concatenate(gone))


def _as_bytes(rows: Tensor) -> list[bytes]:
    """Give rows that can be compared at once; 0 and -0 are the same."""
    return [row.tobytes() for row in (rows.flatten(1).double().cpu() + 0.0).contiguous().numpy()]


def _places(whole: Sequence[bytes], left: Sequence[bytes]) -> set[int] | None:
    """Find where what is left stood; None if not all of it is of the whole, and in order."""
    places, at = set[int](), 0
    for wanted in left:
        found = next((i for i in range(at, len(whole)) if whole[i] == wanted), None)
        if found is None:
            return None
        places.add(found)
        at = found + 1
    return places


def _is_part(whole: Tensor, left: Tensor, entries: Mapping[int, IntArray]) -> bool:
    part = select(whole.detach(), entries)
    return part.shape == left.shape and torch.equal(part, left.detach().to(part.device))
