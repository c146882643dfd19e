"""Find out, by running a model once, which of its channels can be cut.

The straight line: label every channel (`labels`, `rules`), read groups and layers off the labels,
try the groups out and freeze the ones that do not hold (`verifying`).
"""

from __future__ import annotations

import copy
from collections import Counter
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map

from latprune.errors import UntraceableModel
from latprune.graph.branching import Shown, find_branches
from latprune.graph.crossing import SUFFIX, crossing_groups
from latprune.graph.groups import Frozen, PruningGraph
from latprune.graph.labels import LabelMode
from latprune.graph.loosening import find_ties
from latprune.graph.reading import ReadGraph
from latprune.graph.rules import RULES, unknown
from latprune.graph.ties import tied_groups
from latprune.graph.verifying import Judgement, find_broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

    from latprune.graph.groups import ChannelGroup
    from latprune.graph.layers import Layer, Width
    from latprune.graph.ties import Tie


def trace(
    model: nn.Module,
    example: torch.Tensor | tuple[Any, ...],
    *,
    keep: Sequence[str] = (),
    exact: bool = False,
    branches: bool = False,
) -> PruningGraph:
    """Find the channels of a model that can be cut, and the layers whose cost depends on them.

    The model runs in evaluation mode, and once in training mode if it has parameters that only
    run there (auxiliary heads). It is left as it was. Every group that is returned was cut on
    trial: what remained ran and computed what the whole network computes without those channels.

    Args:
        model: Any network; its input channels and its outputs are never cut.
        example: What `model` is called with, [batch, ...]; a tuple for several arguments, each a
            tensor or something that holds tensors, such as a detector's list of images.
        keep: Modules whose output channels must stay, by dotted name or pattern (`layer4`,
            `features.*`); what lies inside a named module stays too.
        exact: Whether channels that LayerNorm, GroupNorm and the like take statistics over must
            stay. By default they can go: the network then computes what it would without them,
            but for those statistics (`ChannelGroup.approximate`).
        branches: Whether residual branches may go as a whole, as far as that can be proven
            (`PruningGraph.branches`).

    Returns:
        The graph. `frozen` says what cannot be cut, and why.

    Raises:
        UntraceableModel: If the model does not run on the example.
        ValueError: If a name in `keep` matches no module.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    _check_keep(model, keep)
    working = copy.deepcopy(model).eval()
    follow = partial(_follow, inputs=inputs, keep=keep, exact=exact)
    tight = follow(working)
    inner, crossing = _crossing(tight, working, follow)
    for found, ties in (*_loosened(tight, working, follow), (tight, ())):
        if ties:
            inner, crossing = None, ()
        witnesses = _witnesses(found.mode) if found.mode.data_dependent else ()
        mixed = found.mode.mixed | (inner.mode.mixed if inner else set())
        judgement = Judgement(mixed, witnesses, training=found.pair)
        groups = (*found.read.groups, *crossing)
        broken = find_broken(
            working, inputs, found.read.groups, judgement, ties=ties, then=crossing
        )
        if tied_groups(ties).isdisjoint(broken):
            break
    sound = tuple(group for group in groups if group.name not in broken)
    within = inner.read if inner else None
    priced, passed_over = _priced(list(found.read.layers(sound, within)), ties)
    failed = (group for group in groups if group.name in broken and group not in crossing)
    free = tuple(group for group in sound if group.name not in tied_groups(ties))
    places = [(one.read, one.shown) for one in (found, inner) if one]
    removable = find_branches(working, inputs, free, priced, places) if branches else ()
    return PruningGraph(
        layers=tuple(priced),
        groups=sound,
        frozen=(
            *found.read.frozen(within, [group for group in crossing if group in sound]),
            *(Frozen(group.name, group.channels, broken[group.name]) for group in failed),
            *found.idle,
        ),
        unpriced=(*found.mode.seen.unpriced, *passed_over),
        branches=removable,
        ties=ties,
    )


class _Followed(NamedTuple):
    """What a run of the model showed.

    Attributes:
        mode: The labels.
        read: The groups and layers that these are.
        shown: The labels of what modules returned.
        idle: Modules that did not run.
        pair: Inputs with which training mode shows more than evaluation does, if it does.
    """

    mode: LabelMode
    read: ReadGraph
    shown: Shown
    idle: list[Frozen]
    pair: tuple[Any, ...]


def _follow(
    working: nn.Module,
    inputs: tuple[Any, ...],
    *,
    keep: Sequence[str],
    exact: bool,
    loose: bool = False,
    within: bool = False,
) -> _Followed:
    """Follow the labels through runs of a model.

    Raises:
        UntraceableModel: If the model does not run.
    """
    mode = LabelMode(
        working,
        rules=RULES,
        default=unknown,
        batch=_batch(inputs),
        loose=loose,
        within=within,
    )
    shown = Shown(mode, working)
    try:
        with shown.watching():
            mode.run(*inputs)
    except Exception as error:
        raise UntraceableModel(
            f"the model does not run on an example of shape "
            f"{_shapes(inputs)}: {type(error).__name__}: {error}"
        ) from error
    idle, pair = _run_in_training(mode, working, inputs)
    _freeze_kept(mode, keep)
    if exact:
        for label, why in mode.classes.approximations().items():
            mode.classes.freeze(np.array([label]), why)
    return _Followed(mode, ReadGraph(mode, suffix=SUFFIX * within), shown, idle, pair)


def _crossing(
    tight: _Followed, working: nn.Module, follow: Callable[..., _Followed]
) -> tuple[_Followed | None, tuple[ChannelGroup, ...]]:
    """Follow the labels once more if axes could have been cut along another one, too."""
    if not tight.mode.is_ambiguous:
        return None, ()
    inner = follow(working, within=True)
    crossing = crossing_groups(tight.read, inner.read)
    return (inner if crossing else None), crossing


def _loosened(
    tight: _Followed, working: nn.Module, follow: Callable[..., _Followed]
) -> Iterator[tuple[_Followed, tuple[Tie, ...]]]:
    """Follow the labels with free positions, if equal ones leave too few that are apart."""
    if not tight.read.falls_together:
        return
    loose = follow(working, loose=True)
    ties = find_ties(
        working,
        loose.read.groups,
        loose.read.loose_groups,
        lambda narrower: follow(narrower, loose=True).read.groups,
    )
    if ties is not None:
        yield loose, ties


def _priced(layers: Sequence[Layer], ties: Sequence[Tie]) -> tuple[list[Layer], list[str]]:
    """Leave out operators whose time cannot change, and those that would entangle groups.

    An operator on the channels of several groups is priced where a layer with weights lies on the
    same ones, or where they are tied: the choice knows their sum anyway.
    """
    trunks = {group: tie.groups[0] for tie in ties for group in tie.groups}
    sums = {
        _terms(width)
        for layer in layers
        if layer.shape.has_weights
        for width in (layer.reads, layer.writes)
    }
    priced, passed_over = [], []
    for layer in layers:
        terms = _terms(layer.writes)
        apart = {tuple(trunks.get(name, name) for name in groups) for groups, _ in terms}
        if layer.shape.has_weights or len(apart) == 1 or (terms and terms in sums):
            priced.append(layer)
        else:
            passed_over.append(layer.name.replace("/", ": "))
    return priced, passed_over


def _terms(width: Width) -> frozenset[tuple[tuple[str, ...], int]]:
    """The groups on an axis, or pairs of them, with how many of its channels each of theirs is."""
    counts: Counter[tuple[str, ...]] = Counter()
    for groups, count in width.terms:
        counts[groups] += count
    return frozenset(counts.items())


def _batch(inputs: tuple[Any, ...]) -> int:
    """Count the samples: images in a batch, or in a list."""
    counts = [len(entry) for entry in inputs if isinstance(entry, list)]
    counts += [t.shape[0] for t in inputs if isinstance(t, torch.Tensor) and t.dim()]
    return max(counts, default=1)


def _shapes(inputs: tuple[Any, ...]) -> list[tuple[int, ...]]:
    return [tuple(t.shape) for t in tree_leaves(inputs) if isinstance(t, torch.Tensor)]


def _witnesses(mode: LabelMode) -> list[str]:
    """The modules with weights that write nothing that could be cut, such as a detector's heads."""
    named = [layer for layer in mode.seen.layers if layer.shape.has_weights]
    free = {layer.name for layer in named if not mode.classes.is_frozen(layer.writes).all()}
    return [name for name in dict.fromkeys(layer.name for layer in named) if name not in free]


def _run_in_training(
    mode: LabelMode, working: nn.Module, inputs: tuple[Any, ...]
) -> tuple[list[Frozen], tuple[Any, ...]]:
    """Run once more in training mode if parameters are still unseen; say which stay so.

    Returns:
        What stays unseen, and the inputs with which training mode shows more than evaluation does;
        nothing if it does not.
    """
    names = {name for name, p in working.named_parameters() if p.is_floating_point()}
    if names <= mode.used:
        return [], ()
    pair: tuple[Any, ...] = tree_map(_twice, inputs)
    reason = "it runs neither in evaluation nor in training mode"
    mode.seen.recording = False
    working.train()
    try:
        with torch.random.fork_rng(devices=[]):
            mode.run(*pair)
    except Exception as error:  # whatever a stranger's forward raises is the finding
        reason = f"not run: training mode fails with {type(error).__name__}: {error}"
        pair = ()
    working.eval()
    owners = dict.fromkeys(name.rpartition(".")[0] for name in sorted(names - mode.used))
    return [Frozen(owner or "model", 0, reason) for owner in owners], pair


def _twice(leaf: Any) -> Any:
    return torch.cat([leaf, leaf]) if isinstance(leaf, torch.Tensor) and leaf.dim() else leaf


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
