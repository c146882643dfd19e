"""Find residual branches, and those that can go as a whole, and prove it.

A branch is what makes one of the two sides of a sum and nothing else. It can go if, without the
channels that lie in it, it adds a constant: then the block that holds it is trunk + constant,
perhaps behind a ReLU, or the module that gives the side can give the constant instead. Both are
tried on random weights and inputs in float64; what fails is left alone. So is what the network as a
whole does not compute the same without (`dispensing`): it may ask a block for more than its result.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from latprune.graph.dispensing import Proven, dispensable
from latprune.graph.groups import Branch
from latprune.graph.removing import added, emptied, holds
from latprune.graph.results import tensors_in
from latprune.graph.shadows import shrunk, varying
from latprune.graph.slicing import TOUCHING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from torch import nn

    from latprune.graph.classes import IntArray
    from latprune.graph.flow import Flow, ModuleCall, Node
    from latprune.graph.groups import ChannelGroup, Member
    from latprune.graph.labels import LabelMode
    from latprune.graph.layers import Layer
    from latprune.graph.reading import ReadGraph

_CHANNEL_AXES = {4: (-3, -1), 3: (-1, -2), 2: (-1,), 5: (-4, -1)}
"""By the number of a result's axes those on which channels may lie, from the end."""

_LEVELS = 3
_MUCH = 8  # times as many modules


class Shown:
    """The labels of what every module returned in a run under a `LabelMode`."""

    def __init__(self, mode: LabelMode, model: nn.Module) -> None:
        self._mode, self._model = mode, model
        self._shadows: dict[str, tuple[IntArray, ...]] = {}
        self._returned: list[tuple[str, list[IntArray]]] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Remember what modules return; of several calls the last."""
        names = {module: name for name, module in self._model.named_modules()}

        def remember(module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                self._shadows[names[module]] = self._mode.shadows(output)
            every = [s for t in tensors_in(output) for s in self._mode.known_shadows(t)]
            self._returned.append((names[module], every))

        hooks = [module.register_forward_hook(remember) for module in names]
        try:
            yield
        finally:
            for handle in hooks:
                handle.remove()

    def on(self, module: str, axis: int) -> Iterator[IntArray]:
        """Give the labels on an axis, counted from the end, of what a module returned.

        Raises:
            ValueError: If labels differ along this axis and others at once.
        """
        for shadow in self._shadows.get(module, ()):
            classes = shrunk(self._mode.classes.find(shadow))
            axes = varying(classes)
            if axes == [shadow.ndim + axis]:
                yield classes.ravel()
            elif shadow.ndim + axis in axes:
                raise ValueError(f"{module}: its channels lie on several axes")

    def returned(self, module: str) -> Iterator[IntArray]:
        """Give the labels on all that a module returned, in every call."""
        for name, shadows in self._returned:
            if name == module:
                yield from shadows

    def ends(self) -> Iterator[str]:
        """Give the modules behind which nothing is cut any more, the heads among them.

        What they return is whole, and no module returns channels that could go after them.
        """
        frozen = [
            all(self._mode.classes.is_frozen(shadow).all() for shadow in shadows)
            for _, shadows in self._returned
        ]
        last = max((index for index, whole in enumerate(frozen) if not whole), default=-1)
        cut = {name for (name, _), whole in zip(self._returned, frozen, strict=True) if not whole}
        for name, shadows in self._returned[last + 1 :]:
            # What has neither labels nor weights is made of the input alone.
            if name and name not in cut and (shadows or self._has_weights(name)):
                yield name

    def _has_weights(self, module: str) -> bool:
        return any(True for _ in self._model.get_submodule(module).parameters())


def groups_in_branches(
    model: nn.Module, flow: Flow, groups: Sequence[ChannelGroup]
) -> frozenset[str]:
    """Give the groups that lie in residual branches, whether or not these can go.

    Of two sides of a sum that both hold groups the one with fewer is the branch.
    """
    sides: list[_Side] = []
    for side in _sides(model, flow, groups):
        if all(side.is_apart_from(other) for other in sides):
            sides.append(side)
    return frozenset(name for side in sides for name in side.names)


def find_branches(
    model: nn.Module,
    inputs: tuple[Any, ...],
    flow: Flow,
    groups: Sequence[ChannelGroup],
    layers: Sequence[Layer],
    places: Sequence[tuple[ReadGraph, Shown]],
    *,
    witnesses: Collection[str] = (),
    ends: Collection[str] = (),
) -> tuple[Branch, ...]:
    """Give the branches that can be removed, in the order in which they run.

    Args:
        model: A copy of the dense model, with random weights, in evaluation mode; its weights are
            float64 afterwards.
        inputs: An example input.
        flow: A run of the model.
        groups: What can be cut.
        layers: What a table prices.
        places: Where the groups' channels lie, and what every module returned: per run in which
            the model was traced.
        witnesses: Modules whose outputs are compared instead of the network's.
        ends: Modules whose outputs are compared, too, where the network's tell nothing.
    """
    model.double()
    found: list[Proven] = []
    taken: list[_Side] = []
    for side in _sides(model, flow, groups):
        if not all(side.is_apart_from(other) for other in taken):
            continue
        proven = _proven(model, flow, side)
        if proven is None:
            continue
        with suppress(ValueError):
            lies = tuple(_lies(proven.branch, groups, places))
            gone = tuple(layer.name for layer in layers if _goes(layer, proven.branch))
            found.append(proven._replace(branch=replace(proven.branch, layers=gone, lies=lies)))
            taken.append(side)
    found.sort(key=lambda proven: flow.calls[proven.branch.modules[0]].order)
    able = dispensable(model, inputs, groups, found, witnesses=witnesses, ends=ends)
    return tuple(proven.branch for proven in able)


class _Side(NamedTuple):
    """One side of a sum: the sum, the groups inside, and the operators that make nothing else."""

    total: Node
    groups: tuple[ChannelGroup, ...]
    makers: set[Node]

    def is_apart_from(self, other: _Side) -> bool:
        """Whether both can be branches: of two sides of a sum one is the trunk."""
        return self.total is not other.total and self.names.isdisjoint(other.names)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(group.name for group in self.groups)


def _sides(model: nn.Module, flow: Flow, groups: Sequence[ChannelGroup]) -> list[_Side]:
    """Give the sides of sums that hold groups, the smallest first: the finer choice.

    In `x + a(x) + b(x)` the sum of `x` and `a(x)` is a side, too, and larger than `a(x)` by itself.
    """
    sides = _any_sides(model, flow, groups)
    return sorted(sides, key=lambda side: (len(side.groups), len(side.makers)))


def _any_sides(model: nn.Module, flow: Flow, groups: Sequence[ChannelGroup]) -> Iterator[_Side]:
    parameters = {name for name, _ in model.named_parameters()}
    touched = {
        group.name: {m.parameter for m in group.with_role(*TOUCHING, "other")} & parameters
        for group in groups
    }
    for total, side, other in flow.sums():
        if flow.is_parameter(other):
            continue
        makers = flow.only_for(side, total)
        own = flow.parameters_in(makers)
        inside = tuple(group for group in groups if own >= touched[group.name] > set())
        if inside:
            yield _Side(total, inside, makers)


def _proven(model: nn.Module, flow: Flow, side: _Side) -> Proven | None:
    """Give a branch that was removed on trial; None if no way to do it holds."""
    # Of one block at a time: those around it may be as large as the model.
    name, empty = "", None
    for branch in _ways(flow, model, side):
        try:
            if empty is None or branch.block != name:
                name, empty = branch.block, None
                empty = emptied(model, branch, side.groups)
            constant = added(empty, branch)
            if constant is not None and holds(empty, branch, constant):
                return Proven(branch, constant)
        except Exception:  # a block that cannot be copied, or run by itself or without its modules
            continue
    return None


def _idle(flow: Flow, makers: set[Node]) -> list[str]:
    """Give the outermost modules whose results nothing else needs, in the order of execution."""
    names = [name for name, call in flow.calls.items() if call.makers and call.makers <= makers]
    outermost = [n for n in names if not any(n.startswith(f"{other}.") for other in names)]
    return sorted(outermost, key=lambda name: flow.calls[name].order)


def _ways(flow: Flow, model: nn.Module, side: _Side) -> Iterator[Branch]:
    """Give what may be done with a branch, the best first."""
    idle = _idle(flow, side.makers)
    inside = tuple(group.name for group in side.groups)
    shared: dict[str, Any] = {"groups": inside, "layers": (), "modules": tuple(idle)}
    tried: set[str] = set()
    for around in _around(idle):
        yield from _shortcuts(flow, model, around, side.total, shared)
        block = idle[0] if _is_little_of(model, around, idle) else around
        if block not in tried:
            tried.add(block)
            yield from _constants(flow, block, shared)


def _is_little_of(model: nn.Module, block: str, idle: Sequence[str]) -> bool:
    """Whether a branch is one module, and so little of what is around it that it is run alone.

    For each of the blocks of a stage the others would be run, too.
    """
    own, every = (sum(1 for _ in model.get_submodule(b).modules()) for b in (idle[0], block))
    return len(idle) == 1 and every > _MUCH * own


def _shortcuts(
    flow: Flow, model: nn.Module, block: str, total: Node, shared: dict[str, Any]
) -> Iterator[Branch]:
    """Give the ways to replace a whole block."""
    call = flow.calls.get(block)
    if not block or call is None or call.source is None or not _ends_in(call, total):
        return
    takes = tuple(call.source.shape)
    for trunk in _trunks(model, flow, block, call, shared["modules"]):
        for relu in (False, True):
            for axis in _axes_of(call):
                yield Branch(
                    name=block,
                    block=block,
                    takes=takes,
                    trunk=trunk,
                    relu=relu,
                    axis=axis,
                    **shared,
                )


def _constants(flow: Flow, block: str, shared: dict[str, Any]) -> Iterator[Branch]:
    """Give the ways to replace the module that makes the side of a sum."""
    call, idle = flow.calls.get(block), shared["modules"]
    if call is None or call.source is None or call.result is None:
        return
    takes = tuple(call.source.shape)
    name = next((m for m in idle if _is_in(shared["groups"][0], m)), idle[-1])
    for whole in (False, True):
        for axis in _axes_of(flow.calls[idle[-1]]):
            yield Branch(
                name=name,
                block=block,
                takes=takes,
                trunk=None,
                relu=False,
                axis=axis,
                whole=whole,
                **shared,
            )


def _axes_of(call: ModuleCall) -> Sequence[int]:
    return () if call.result is None else _CHANNEL_AXES.get(call.result.dim(), ())


def _ends_in(call: ModuleCall, total: Node) -> bool:
    """Whether a block gives a sum, perhaps with operators of one input behind it."""
    if len(call.makers) != 1:
        return False
    (node,) = call.makers
    while node is not None and node is not total:
        sources = [source for source, _ in node.next_functions if source is not None]
        node = sources[0] if len(sources) == 1 else None
    return node is total


def _around(modules: Sequence[str]) -> Iterator[str]:
    """Give the innermost modules that hold all of these; the model is called ""."""
    if not modules:
        return
    paths = [module.split(".")[:-1] for module in modules]
    common = 0
    while all(len(path) > common and path[common] == paths[0][common] for path in paths):
        common += 1
    # A wrapper or two may lie between; whole stages are not tried.
    for length in range(common, max(common - _LEVELS, -1), -1):
        yield ".".join(paths[0][:length])


def _trunks(
    model: nn.Module, flow: Flow, block: str, call: ModuleCall, idle: Collection[str]
) -> Iterator[str]:
    """Give what a block's input may pass through to the sum: nothing, or one of its modules."""
    source, result = call.source, call.result
    if source is None or result is None:
        return
    if source.shape == result.shape:
        yield ""
    for name, _ in model.get_submodule(block).named_children():
        child = flow.calls.get(f"{block}.{name}")
        if child is None or child.result is None or f"{block}.{name}" in idle:
            continue
        if child.source is source and child.result.shape == result.shape:
            yield name


def _lies(
    branch: Branch, groups: Sequence[ChannelGroup], places: Sequence[tuple[ReadGraph, Shown]]
) -> Iterator[tuple[str, Member]]:
    """Say where channels of other groups lie on a branch's constant."""
    where = branch.modules[-1] if branch.trunk is None else branch.block
    others = [group for group in groups if group.name not in branch.groups]
    for read, shown in places:
        for labels in shown.on(where, branch.axis):
            yield from read.members_on(labels, others, name=where, axis=0)


def _goes(layer: Layer, branch: Branch) -> bool:
    """Whether a layer is not run without a branch.

    Where a block is replaced, what stands in its place adds and activates, as the block did.
    """
    owner = layer.name.partition("@")[0].partition("/")[0]
    if any(_is_in(owner, module) for module in branch.modules):
        return True
    if branch.trunk is None or not _is_in(owner, branch.block):
        return False
    stays = branch.trunk and _is_in(owner, f"{branch.block}.{branch.trunk}")
    return not stays and layer.shape.kind not in ("add", "activation")


def _is_in(name: str, module: str) -> bool:
    return f"{name}.".startswith(f"{module}.")
