"""Find out, by running a model once, which of its channels can be cut.

The straight line: label every channel (`following`, `labels`, `rules`), read groups and layers off
the labels, try the groups out and freeze the ones that do not hold (`verifying`).
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from latprune.graph.beforehand import refuse_untraceable, uncompiled
from latprune.graph.branching import find_branches, groups_in_branches
from latprune.graph.crossing import crossing_groups
from latprune.graph.flow import Flow
from latprune.graph.following import check_keep, follow
from latprune.graph.groups import Frozen, PruningGraph
from latprune.graph.loosening import find_ties
from latprune.graph.ties import tied_groups
from latprune.graph.trails import Training
from latprune.graph.verifying import Judgement, find_broken
from latprune.modes import copied, copies_of, drawing_apart, sharing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import nn

    from latprune.graph.following import Followed
    from latprune.graph.groups import ChannelGroup
    from latprune.graph.labels import LabelMode
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

    The model runs in evaluation mode, and in training mode, which counts if it does something else
    there (auxiliary heads). It is left as it was. Every group that is returned was cut on trial:
    what remained ran and computed what the whole network computes without those channels.
    Hooks are part of a network, and of the copies that are tried: one that collects what layers
    give gets that of trials, too, and is best taken off meanwhile.

    Args:
        model: Any network; its input channels and its outputs are never cut.
        example: What `model` is called with, [batch, ...]; a tuple for several arguments, each a
            tensor or something that holds tensors, such as a detector's list of images.
        keep: Modules whose output channels must stay, by dotted name or pattern (`layer4`,
            `features.*`); what lies inside a named module stays too. Where these write no channels,
            as a norm or an activation, those stay that they pass on.
        exact: Whether channels that LayerNorm, GroupNorm and the like take statistics over must
            stay. By default they can go: the network then computes what it would without them,
            but for those statistics (`ChannelGroup.approximate`).
        branches: Whether residual branches may go as a whole, as far as that can be proven
            (`PruningGraph.branches`).

    Returns:
        The graph. `frozen` says what cannot be cut, and why.

    Raises:
        UntraceableModel: If the model does not run on the example (`DoesNotRun`), or returns no
            tensor, or hides what it does (TorchScript), or has not got its weights yet (lazy
            modules).
        ValueError: If a name in `keep` matches no module.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    refuse_untraceable(model)
    check_keep(model, keep)
    # A model may draw, in evaluation, too; and no labels lie on what inference mode makes.
    with uncompiled(), torch.inference_mode(False), drawing_apart(model):
        return _trace(model, inputs, keep=keep, exact=exact, branches=branches)


def _trace(
    model: nn.Module,
    inputs: tuple[Any, ...],
    *,
    keep: Sequence[str],
    exact: bool,
    branches: bool,
) -> PruningGraph:
    working = copied(model)
    working.eval()  # what a stranger's own `eval` returns is not to be relied on
    working.register_forward_pre_hook(lambda _model, given: copies_of(given), prepend=True)
    training = Training(working, inputs)
    readings = _readings(
        working, partial(follow, inputs=inputs, training=training, keep=keep, exact=exact)
    )
    reading, broken = _first_that_holds(readings, working, inputs)
    return _graph(reading, broken, working, inputs, branches=branches)


def _first_that_holds(
    readings: Iterator[_Reading], working: nn.Module, inputs: tuple[Any, ...]
) -> tuple[_Reading, Mapping[str, str]]:
    """Give the first reading whose ties hold on trial, or the last, and why groups of it do not."""
    for reading in readings:
        broken = reading.try_out(working, inputs)
        if tied_groups(reading.ties).isdisjoint(broken):
            break
    return reading, broken


def _graph(
    reading: _Reading,
    broken: Mapping[str, str],
    working: nn.Module,
    inputs: tuple[Any, ...],
    *,
    branches: bool,
) -> PruningGraph:
    """Make the graph of the groups that hold."""
    found, inner, ties = reading.found, reading.inner, reading.ties
    within = inner.read if inner else None
    sound = tuple(group for group in reading.groups if group.name not in broken)
    free = tuple(group for group in sound if group.name not in tied_groups(ties))
    priced, passed_over = _priced(list(found.read.layers(sound, within)), ties)
    places = [(one.read, one.shown) for one in (found, inner) if one]
    flow = _flow(working, inputs)
    return PruningGraph(
        layers=tuple(priced),
        groups=sound,
        frozen=(
            *found.read.frozen(within, [group for group in reading.crossing if group in sound]),
            *(
                Frozen(group.name, group.channels, broken[group.name])
                for group in found.read.groups
                if group.name in broken
            ),
            *found.idle,
        ),
        unpriced=(*found.mode.seen.unpriced, *passed_over),
        in_branches=groups_in_branches(working, flow, sound) if flow else frozenset(),
        branches=find_branches(
            working,
            inputs,
            flow,
            free,
            priced,
            places,
            witnesses=reading.witnesses,
            ends=reading.ends[0],
        )
        if flow and branches
        else (),
        ties=ties,
    )


def _flow(working: nn.Module, inputs: tuple[Any, ...]) -> Flow | None:
    """Run a network for what it is made of, if it runs with gradients."""
    try:
        # A copy: whatever keeps its results would keep what they were made of.
        return Flow.of(sharing(working), inputs)
    except Exception:  # whatever a stranger's forward raises: no sums are seen, then
        return None


class _Reading(NamedTuple):
    """A way to read the labels.

    Attributes:
        found: What a run showed.
        ties: What makes groups of it follow one width.
        inner: What a run showed that followed axes along another one, where they could be cut so.
        crossing: The groups that only `inner` shows.
    """

    found: Followed
    ties: tuple[Tie, ...] = ()
    inner: Followed | None = None
    crossing: tuple[ChannelGroup, ...] = ()

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        return (*self.found.read.groups, *self.crossing)

    @property
    def witnesses(self) -> Sequence[str]:
        """The modules to look at where the last bit decides what the network gives."""
        return _witnesses(self.found.mode) if self.found.mode.data_dependent else ()

    @property
    def ends(self) -> tuple[frozenset[str], frozenset[str]]:
        """The modules to look at where what the network gives tells nothing, as in `Followed`."""
        evaluated, trained = self.found.ends
        if self.inner:
            evaluated, trained = evaluated & self.inner.ends[0], trained & self.inner.ends[1]
        return evaluated, trained

    def try_out(self, working: nn.Module, inputs: tuple[Any, ...]) -> Mapping[str, str]:
        """Cut every group on trial; say why some cannot be."""
        mode = self.found.mode
        judgement = Judgement(
            mode.mixed,
            self.inner.mode.mixed if self.inner else (),
            self.witnesses,
            *self.ends,
            training=self.found.pair,
            draws=mode.draws,
            compares=mode.numbers.compares,
        )
        return find_broken(
            working,
            inputs,
            self.found.read.groups,
            judgement,
            ties=self.ties,
            then=self.crossing,
        )


def _readings(working: nn.Module, follow: Callable[..., Followed]) -> Iterator[_Reading]:
    """Read the labels with free positions, where equal ones leave too few apart, or as they are."""
    tight = follow(working)
    if tight.read.falls_together:
        yield from _loosened(working, follow)
    yield _crossed(tight, working, follow)


def _crossed(tight: Followed, working: nn.Module, follow: Callable[..., Followed]) -> _Reading:
    """Follow the labels once more if axes could have been cut along another one, too."""
    if not tight.mode.is_ambiguous:
        return _Reading(tight)
    inner = follow(working, within=True)
    crossing = crossing_groups(tight.read, inner.read)
    return _Reading(tight, (), inner, crossing) if crossing else _Reading(tight)


def _loosened(working: nn.Module, follow: Callable[..., Followed]) -> Iterator[_Reading]:
    """Follow the labels with free positions, if ties explain what then follows one width."""
    loose = follow(working, loose=True)
    ties = find_ties(
        working,
        loose.read.groups,
        loose.read.loose_groups,
        lambda narrower: follow(narrower, loose=True).read.groups,
    )
    if ties is not None:
        yield _Reading(loose, ties)


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


def _witnesses(mode: LabelMode) -> list[str]:
    """The modules with weights that write nothing that could be cut, such as a detector's heads."""
    named = [layer for layer in mode.seen.layers if layer.shape.has_weights]
    free = {layer.name for layer in named if not mode.classes.is_frozen(layer.writes).all()}
    stay = [name for name in dict.fromkeys(layer.name for layer in named) if name not in free]
    return [name for name in stay if mode.is_module(name)]
