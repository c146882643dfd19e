"""Cut a network to a plan; keep the result in one file; bring it back.

A pruned network is one `.safetensors` file: its weights, and in the file's metadata the plan and
the places of its channels as JSON. `load` needs that file and a freshly built dense model.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from latprune.errors import DamagedFile, ModelMismatch
from latprune.files import replacing
from latprune.graph.groups import Branch, groups_from_json, groups_to_json
from latprune.graph.removing import remove_branches
from latprune.graph.slicing import tensor_of
from latprune.graph.ties import Tie
from latprune.graph.tracing import trace
from latprune.modes import copied
from latprune.planning import Plan
from latprune.states import state_of, tensors_of

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from torch import Tensor

    from latprune.graph.groups import ChannelGroup, Member, PruningGraph

FORMAT = "latprune-network"
VERSION = 4
READABLE = ("1", "2", "3", "4")
"""Versions that `load` reads; from 2 on a file may name branches that were removed, from 3 on tied
groups, from 4 on groups that cross others."""
_WRAPPERS = ("_orig_mod", "module")  # how `torch.compile`, and what runs in parallel, name it
TRACED = "traced"
"""The note that says what a saved network's graph was traced with."""


def cut(model: nn.Module, graph: PruningGraph, plan: Plan) -> nn.Module:
    """Give a new, smaller network that keeps the plan's channels.

    Args:
        model: The dense network that `graph` was traced from; it stays as it is.
        graph: Where the channels lie.
        plan: Which ones stay.

    Returns:
        A copy of the model without the others. Where the plan keeps nothing of a branch, a
        `Shortcut` or `Constant` of `latprune.graph.shortcuts` stands in its place; but for these it
        needs nothing from latprune to run.

    Raises:
        ModelMismatch: If the model is not the graph's, or the plan not the graph's.
    """
    if set(plan.kept) != set(graph.widths):
        raise ModelMismatch("the plan was made for another network than the graph's")
    return _cut(model, graph.groups, graph.branches, graph.ties, plan)


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    graph: PruningGraph,
    plan: Plan,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write a pruned network to one `.safetensors` file, whole or not at all.

    Args:
        model: What `cut` gave, trained further or not; whatever wraps it meanwhile, as
            `torch.compile` and data parallelism do, is left out.
        path: Where to; an existing file is replaced.
        graph: The dense network's graph.
        plan: What the network was cut to.
        notes: JSON values to keep beside the plan, such as a report; `load_notes` gives them.

    Raises:
        CannotSave: If a module's state holds something that cannot be read back.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "plan": json.dumps(plan.to_json()),
        "groups": json.dumps(groups_to_json(graph.groups)),
        "branches": json.dumps([b.to_json() for b in graph.branches if b.is_removed(plan.widths)]),
        "ties": json.dumps([tie.only(plan.widths).to_json() for tie in graph.ties]),
        "notes": json.dumps(dict(notes or {})),
    }
    cut_one = _unwrapped(model, graph.groups)
    # A tensor that two names share is stored twice: a file has no sharing.
    tensors = {name: tensor.clone().contiguous() for name, tensor in tensors_of(cut_one).items()}
    with replacing(path) as file:
        file.write_bytes(to_bytes(tensors, metadata=metadata))


def load(path: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Bring a pruned network back.

    Args:
        path: What `save` wrote.
        model: The dense network, freshly built; its weights do not matter, it stays as it is. It
            need not be wrapped as the one that was traced.

    Returns:
        A new network, bit-equal to the one that was saved, in its precision.

    Raises:
        DamagedFile: If the file cannot be read.
        ModelMismatch: If the file's network is not a cut of `model`, or that has no memory.
    """
    plan, groups, branches, ties, _ = _read_metadata(Path(path))
    if any(tensor.is_meta for _, tensor in _named_tensors(model)):
        raise ModelMismatch(
            "the model lies on the meta device, where tensors hold nothing and take nothing: build "
            "it on the CPU"
        )
    tensors = load_file(str(path))
    wrapped, wrapper = _wrapped_as(tensors, _unwrapped(model, groups))
    small = _cut(wrapped, groups, branches, ties, plan, stored=tensors)
    _cast(small, tensors)
    try:
        small.load_state_dict(_with_versions(tensors, small), strict=True)
    except RuntimeError as error:
        raise ModelMismatch(f"{path} holds another network than the model given: {error}") from None
    return small.get_submodule(wrapper)


def _unwrapped(model: nn.Module, groups: Sequence[ChannelGroup]) -> nn.Module:
    """Give the network that groups were found in, out of modules that hold nothing else."""
    found = {member.parameter for group in groups for member in group.members}
    inner = model
    while found.isdisjoint(name for name, _ in _named_tensors(inner)):
        children = list(inner.children())
        if len(children) != 1:
            return model  # another one, or there are no groups
        (inner,) = children
    return inner


def _wrapped_as(names: Collection[str], model: nn.Module) -> tuple[nn.Module, str]:
    """Give a model as it was wrapped where its tensors got these names, and its name in there."""
    held: list[str] = []
    own = {name for name, _ in _named_tensors(model)}
    while names and own.isdisjoint(names):
        inside = [
            w for w in _WRAPPERS if all(n.startswith(".".join((*held, w, ""))) for n in names)
        ]
        if not inside:
            break
        held += inside
    for name in reversed(held):
        holder = nn.Module()
        holder.add_module(name, model)
        model = holder
    return model, ".".join(held)


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _cast(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a model's tensors the types of stored ones, so that none is rounded."""
    own = dict(_named_tensors(model))
    others = {n: t for n, t in tensors.items() if n in own and own[n].dtype != t.dtype}
    floats = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if others and len(floats) == 1:
        model.to(dtype=floats.pop())  # with the buffers that no file holds
    for name, tensor in others.items():
        own[name].data = own[name].data.to(tensor.dtype)


def _with_versions(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Any]:
    """Give tensors as this model's state dict, with its modules' versions, which some ask for."""
    state = OrderedDict(state_of(tensors))
    vars(state)["_metadata"] = getattr(model.state_dict(), "_metadata", None)  # a plain dict: none
    return state


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Read the plan that a saved network was cut to.

    Raises:
        DamagedFile: If the file cannot be read.
    """
    return _read_metadata(Path(path))[0]


def load_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what was kept beside a saved network's plan.

    Raises:
        DamagedFile: If the file cannot be read.
    """
    return _read_metadata(Path(path))[-1]


def retrace(
    path: str | os.PathLike[str], model: nn.Module, example: Tensor | tuple[Tensor, ...]
) -> PruningGraph:
    """Trace the dense network of a saved one as it was traced to be pruned.

    Where the file does not say how, as older ones, branches can go if one went. Layers that had to
    stay then look as if they could go; `check` takes groups that a plan does not name as whole.

    Args:
        path: What `save` wrote.
        model: The dense network; its weights do not matter.
        example: Its input.

    Raises:
        DamagedFile: If the file cannot be read.
        ModelMismatch: If layers that had to stay are not the model's.
    """
    plan, *_, notes = _read_metadata(Path(path))
    traced = notes.get(TRACED) or {"branches": 0 in plan.widths.values()}
    try:
        return trace(model, example, **traced)
    except ValueError as error:
        raise ModelMismatch(f"{path} holds another network than the model given: {error}") from None


def _cut(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    branches: Sequence[Branch],
    ties: Sequence[Tie],
    plan: Plan,
    *,
    stored: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    for group in groups:
        _check_channels(group, plan.kept.get(group.name, ()))
        for member in group.members:
            _check_size(group, member, tuple(tensor_of(model, member.parameter).shape))
    small = copied(model)
    remove_branches(small, groups, branches, plan.kept, ties=ties, stored=stored)
    return small


def _check_channels(group: ChannelGroup, kept: Sequence[int]) -> None:
    if list(kept) != sorted(set(kept).intersection(range(group.channels))):
        raise ModelMismatch(
            f"the plan does not keep some of the {group.channels} channels of {group.name}, each "
            "once and ascending: it was made for another network, or by hand"
        )


def _check_size(group: ChannelGroup, member: Member, shape: tuple[int, ...]) -> None:
    found = shape[member.axis] if member.axis < len(shape) else 0
    least = int(member.positions.max()) + 1
    if found < least or found != (member.size or found):
        raise ModelMismatch(
            f"{member.parameter} has shape {shape}, and the {group.channels} channels of "
            f"{group.name} lie on its axis {member.axis} where that has {member.size or least} "
            "entries: it is another model, or one that was cut before"
        )


def _read_metadata(
    path: Path,
) -> tuple[Plan, tuple[ChannelGroup, ...], tuple[Branch, ...], tuple[Tie, ...], dict[str, Any]]:
    if not path.is_file():
        raise DamagedFile(f"{path}: no such file")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata: dict[str, Any] = file.metadata() or {}
    except SafetensorError as error:
        raise DamagedFile(f"{path} is damaged or no safetensors file: {error}") from None
    if metadata.get("format") != FORMAT:
        raise DamagedFile(f"{path} holds no plan: it was not written by latprune.save")
    if metadata.get("version") not in READABLE:
        raise DamagedFile(
            f"{path} has format version {metadata.get('version')}, this latprune reads "
            f"{' and '.join(READABLE)}: use the latprune that wrote it"
        )
    try:
        plan = Plan.from_json(json.loads(metadata["plan"]))
        groups = groups_from_json(json.loads(metadata["groups"]))
        branches = tuple(map(Branch.from_json, json.loads(metadata.get("branches", "[]"))))
        ties = tuple(map(Tie.from_json, json.loads(metadata.get("ties", "[]"))))
        notes: dict[str, Any] = json.loads(metadata["notes"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DamagedFile(f"{path}: its plan cannot be read: {error!r}") from None
    return plan, groups, branches, ties, notes
