"""Find out, by running a model once, which of its channels can be cut.

The straight line: label every channel (`labels`, `rules`), read groups and layers off the labels,
try the groups out and freeze the ones that do not hold (`verifying`).
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from latprune.errors import UntraceableModel
from latprune.graph.groups import ChannelGroup, Frozen, Member, PruningGraph
from latprune.graph.labels import LabelMode
from latprune.graph.layers import Layer, Width
from latprune.graph.rules import RULES, unknown
from latprune.graph.verifying import find_broken

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from latprune.graph.classes import IntArray
    from latprune.graph.groups import Role


def trace(
    model: nn.Module,
    example: torch.Tensor | tuple[torch.Tensor, ...],
    *,
    keep: Sequence[str] = (),
) -> PruningGraph:
    """Find the channels of a model that can be cut, and the layers whose cost depends on them.

    The model runs in evaluation mode, and once in training mode if it has parameters that only
    run there (auxiliary heads). It is left as it was. Every group that is returned was cut on
    trial: what remained ran and computed what the whole network computes without those channels.

    Args:
        model: Any network; its input channels and its outputs are never cut.
        example: What `model` is called with, [batch, ...]; a tuple for several arguments.
        keep: Modules whose output channels must stay, by dotted name or pattern (`layer4`,
            `features.*`); what lies inside a named module stays too.

    Returns:
        The graph. `frozen` says what cannot be cut, and why.

    Raises:
        UntraceableModel: If the model does not run on the example.
        ValueError: If a name in `keep` matches no module.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    _check_keep(model, keep)
    working = copy.deepcopy(model).eval()
    mode = LabelMode(working, rules=RULES, default=unknown, batch=_batch(inputs))
    try:
        mode.run(*inputs)
    except Exception as error:
        raise UntraceableModel(
            f"the model does not run on an example of shape "
            f"{[tuple(t.shape) for t in inputs]}: {type(error).__name__}: {error}"
        ) from error
    idle = _run_in_training(mode, working, inputs)
    _freeze_kept(mode, keep)
    classes = _Classes(mode)
    broken = find_broken(working, inputs, classes.groups)
    sound = tuple(group for group in classes.groups if group.name not in broken)
    priced, passed_over = _priced(list(classes.layers(sound)))
    failed = (group for group in classes.groups if group.name in broken)
    return PruningGraph(
        layers=tuple(priced),
        groups=sound,
        frozen=(
            *classes.frozen(),
            *(Frozen(group.name, group.channels, broken[group.name]) for group in failed),
            *idle,
        ),
        unpriced=(*mode.unpriced, *passed_over),
    )


def _priced(layers: Sequence[Layer]) -> tuple[list[Layer], list[str]]:
    """Leave out operators whose time cannot change, and those that would entangle groups.

    An operator on the channels of several groups is priced where a layer with weights lies on the
    same ones: the choice knows their sum anyway.
    """
    sums = {
        _terms(width)
        for layer in layers
        if layer.shape.has_weights
        for width in (layer.reads, layer.writes)
    }
    priced, passed_over = [], []
    for layer in layers:
        terms = _terms(layer.writes)
        if layer.shape.has_weights or len(terms) == 1 or (terms and terms in sums):
            priced.append(layer)
        else:
            passed_over.append(layer.name.replace("/", ": "))
    return priced, passed_over


def _terms(width: Width) -> frozenset[tuple[str, int]]:
    """The groups on an axis, with how many of its channels each of theirs is."""
    counts: Counter[str] = Counter()
    for group, count in width.groups:
        counts[group] += count
    return frozenset(counts.items())


def _batch(inputs: tuple[torch.Tensor, ...]) -> int:
    return max((t.shape[0] for t in inputs if t.dim()), default=1)


def _run_in_training(
    mode: LabelMode, working: nn.Module, inputs: tuple[torch.Tensor, ...]
) -> list[Frozen]:
    """Run once more in training mode if parameters are still unseen; say which stay so."""
    names = {name for name, p in working.named_parameters() if p.is_floating_point()}
    if names <= mode.used:
        return []
    pair = tuple(torch.cat([t, t]) if t.dim() else t for t in inputs)
    reason = "it runs neither in evaluation nor in training mode"
    mode.recording = False
    working.train()
    try:
        with torch.random.fork_rng(devices=[]):
            mode.run(*pair)
    except Exception as error:  # whatever a stranger's forward raises is the finding
        reason = f"not run: training mode fails with {type(error).__name__}: {error}"
    working.eval()
    owners = dict.fromkeys(name.rpartition(".")[0] for name in sorted(names - mode.used))
    return [Frozen(owner or "model", 0, reason) for owner in owners]


def _check_keep(model: nn.Module, keep: Sequence[str]) -> None:
    for pattern in keep:
        if not any(_is_kept(name, [pattern]) for name, _ in model.named_modules()):
            raise ValueError(f"keep={pattern!r} matches no module of the model")


def _is_kept(module: str, keep: Sequence[str]) -> bool:
    return any(
        fnmatchcase(module, pattern) or fnmatchcase(module, f"{pattern}.*") for pattern in keep
    )


def _freeze_kept(mode: LabelMode, keep: Sequence[str]) -> None:
    for parameter, _, labels, role in mode.parameters():
        if role in ("writes", "through") and _is_kept(parameter.rpartition(".")[0], keep):
            mode.classes.freeze(labels, "protected by keep=")


@dataclass(frozen=True)
class _Axis:
    """One labelled axis of a parameter, its labels as classes."""

    parameter: str
    axis: int
    classes: IntArray
    role: Role


class _Classes:
    """The classes of labels after a run, read as groups and layers."""

    def __init__(self, mode: LabelMode) -> None:
        self._mode = mode
        self._axes = [
            _Axis(parameter, axis, mode.classes.find(labels), role)
            for parameter, axis, labels, role in mode.parameters()
        ]
        self._members: dict[str, IntArray] = {}
        self.groups = tuple(self._read_groups())

    def _read_groups(self) -> Iterator[ChannelGroup]:
        """Classes that lie on the same axes, equally often, form a group."""
        places: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for index, axis in enumerate(self._axes):
            free = axis.classes[~self._mode.classes.is_frozen(axis.classes)]
            for label, count in zip(*np.unique(free, return_counts=True), strict=True):
                places[int(label)].append((index, int(count)))
        together: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
        for label, found in places.items():
            together[tuple(found)].append(label)
        names = self._writer_names()
        taken: Counter[str] = Counter()
        for signature, labels in together.items():
            axes = [self._axes[index] for index, _ in signature]
            classes = self._in_order(np.array(labels), axes)
            if len(classes) < 2:
                self._mode.classes.freeze(classes, "it would be the only channel of its group")
                continue
            if not any(axis.role in ("writes", "through") for axis in axes):
                self._mode.classes.freeze(classes, "no layer writes it")
                continue
            name = next((names[c] for c in classes.tolist() if c in names), axes[0].parameter)
            taken[name] += 1
            name = name if taken[name] == 1 else f"{name}#{taken[name]}"
            self._members[name] = classes
            members = [
                Member(axis.parameter, axis.axis, _positions(axis.classes, classes), axis.role)
                for axis in axes
            ]
            yield ChannelGroup(name, len(classes), tuple(members))

    def _writer_names(self) -> dict[int, str]:
        """The first layer that writes each class."""
        names: dict[int, str] = {}
        for layer in self._mode.layers:
            if not layer.shape.has_weights:
                continue
            for label in np.unique(self._mode.classes.find(layer.writes)).tolist():
                names.setdefault(label, layer.name)
        return names

    @staticmethod
    def _in_order(classes: IntArray, axes: Sequence[_Axis]) -> IntArray:
        """Order classes as they first lie on the axis that writes them."""
        main = next((axis for axis in axes if axis.role == "writes"), axes[0]).classes
        _, first = np.unique(main, return_index=True)
        order = main[np.sort(first)]
        return order[np.isin(order, classes)]

    def frozen(self) -> Iterator[Frozen]:
        """Channels that some layer writes and that must stay."""
        for axis in self._axes:
            if axis.role != "writes":
                continue
            stays = axis.classes[self._mode.classes.is_frozen(axis.classes)]
            reasons = Counter(self._mode.classes.reason(int(label)) for label in stays)
            for reason, count in reasons.items():
                if not axis.parameter.endswith(".bias"):
                    yield Frozen(axis.parameter.rpartition(".")[0], count, reason)

    def layers(self, groups: Sequence[ChannelGroup]) -> Iterator[Layer]:
        """The layers that ran, their widths in terms of these groups."""
        owner = {int(c): g.name for g in groups for c in self._members[g.name]}
        channels = {group.name: group.channels for group in groups}
        calls: Counter[str] = Counter()
        for seen in self._mode.layers:
            calls[seen.name] += 1
            yield Layer(
                name=seen.name + (f"@{calls[seen.name]}" if calls[seen.name] > 1 else ""),
                shape=seen.shape,
                reads=self._width(seen.reads, owner, channels),
                writes=self._width(seen.writes, owner, channels),
                groups_follow=seen.groups_follow,
            )

    def _width(
        self, labels: IntArray, owner: Mapping[int, str], channels: Mapping[str, int]
    ) -> Width:
        found = Counter(owner.get(c, "") for c in self._mode.classes.find(labels).tolist())
        fixed = found.pop("", 0)
        return Width(fixed, tuple((name, n // channels[name]) for name, n in found.items()))


def _positions(axis: IntArray, classes: IntArray) -> IntArray:
    """Where each class lies on an axis, int [classes, entries per class]."""
    rank = {int(label): index for index, label in enumerate(classes)}
    entries = np.flatnonzero(np.isin(axis, classes))
    ranks = np.array([rank[int(label)] for label in axis[entries]])
    return entries[np.argsort(ranks, kind="stable")].reshape(len(classes), -1)
