"""Take whole residual branches out of a model, and leave the constants that they added.

Works on a model in place, like `slicing`, which takes out the other channels meanwhile: constants
are computed while all widths are still the dense network's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from latprune.errors import ModelMismatch
from latprune.graph.shortcuts import Constant, Shortcut, Skip, let_norms_settle
from latprune.graph.slicing import slice_model, zeroed
from latprune.graph.ties import tied_groups
from latprune.modes import copied, sharing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from latprune.graph.groups import Branch, ChannelGroup, Member
    from latprune.graph.ties import Tie

# Of inputs: past a ReLU a constant shows only where the sum is above 0.
_SCALES = (1.0, 2.0**10, 2.0**20)
_POSITIONS = 256  # of a channel, at least, that an input has
TOLERANCE = 1e-9
"""Largest difference allowed in float64, relative to the largest output."""
_ROUGH = 1e-5  # in float32


def remove_branches(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    branches: Sequence[Branch],
    kept: Mapping[str, Sequence[int]],
    *,
    ties: Sequence[Tie] = (),
    stored: Mapping[str, Tensor] | None = None,
) -> None:
    """Keep only some channels of each group, and take out the branches that keep none, in place.

    Args:
        model: The dense model.
        groups: Where the channels lie.
        branches: What can go as a whole.
        kept: Per group the channels that stay.
        ties: Which of the groups are tied.
        stored: The tensors of a network that was cut so, if the model is to get them: constants are
            among them, and the model's own weights say nothing.

    Raises:
        ModelMismatch: If the model is another one, or a group keeps nothing and lies in no branch
            that keeps nothing.
    """
    widths = {group: len(channels) for group, channels in kept.items()}
    removed = [branch for branch in branches if branch.is_removed(widths)]
    inside = {group for branch in removed for group in branch.groups}
    may_be_empty = inside | tied_groups(ties)
    if empty := [g for g, width in widths.items() if not width and g not in may_be_empty]:
        raise ModelMismatch(
            f"the plan leaves no channel of {', '.join(empty)}, and the graph knows no branch "
            "that could go with them"
        )
    by_name = {group.name: group for group in groups}
    others = {group: channels for group, channels in kept.items() if group not in inside}
    constants = []
    for branch in removed:
        if stored is not None:
            constants.append(_stored_constant(branch, stored))
            continue
        lies = [(by_name[group].channels, others.get(group), m) for group, m in branch.lies]
        both = constant_of(model, branch, [by_name[name] for name in branch.groups])
        entries = torch.from_numpy(_staying(len(both[0]), lies))
        constants.append((both[0][entries], both[1][entries]))
    slice_model(model, groups, others, ties=ties)
    for branch, (shift, drift) in zip(removed, constants, strict=True):
        take_out(model, branch, shift, drift)


def _stored_constant(branch: Branch, stored: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Give what stands for a branch in the tensors of a network without it, as `constant_of`."""
    where = branch.modules[-1] if branch.trunk is None else branch.block
    try:
        return stored[f"{where}.shift"].ravel(), stored[f"{where}.drift"].ravel()
    except KeyError as missing:
        raise ModelMismatch(f"{branch.name} was removed, and no {missing} stands for it") from None


def constant_of(
    model: nn.Module, branch: Branch, groups: Sequence[ChannelGroup]
) -> tuple[Tensor, Tensor]:
    """Give what a branch of a dense model adds without its groups' channels.

    Returns:
        With batch norms re-estimated, float64 [channels] on the CPU; and how much more that is than
        with the statistics that they have.

    Raises:
        ModelMismatch: If the branch adds no constant: the model is another one.
    """
    empty = emptied(model, branch, groups)
    now = added(empty, branch)
    for name in branch.modules:
        let_norms_settle(empty.block.get_submodule(_inside(branch, name)))
    settled = added(Emptied(empty.block), branch)
    if now is None or settled is None:
        raise ModelMismatch(f"{branch.name} does not add a constant: it is another model")
    return settled, settled - now


class _Run(NamedTuple):
    """What a block gave, and what the last module of its branch did, if that is a tensor."""

    total: Any
    part: Tensor | None


class Emptied:
    """A branch's block whose groups' channels are neither written nor read, and what it gave.

    The ways to remove a branch ask for the same runs, which are most of what proving one takes.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self._runs: dict[tuple[tuple[int, ...], float], _Run] = {}

    def run(self, branch: Branch, scale: float) -> _Run:
        """Give what the block makes of noise of this size, run once.

        Raises:
            Exception: Whatever a stranger's forward raises.
        """
        key = _noise_shape(branch), scale
        if key not in self._runs:
            self._runs[key] = self._run(branch, scale * _noise(self.block, branch, seed=1))
        return self._runs[key]

    @torch.no_grad()
    def _run(self, branch: Branch, x: Tensor) -> _Run:
        seen: list[Any] = []
        module = self.block.get_submodule(_inside(branch, branch.modules[-1]))
        # As it is then: the block may add to it.
        handle = module.register_forward_hook(
            lambda _m, _inputs, output: seen.append(_kept(output))
        )
        try:
            total = self.block(x)  # which may change its input in place
        finally:
            handle.remove()
        return _Run(total, seen[0] if seen else None)


def _kept(output: Any) -> Tensor | None:
    return output.clone() if isinstance(output, Tensor) else None


def emptied(model: nn.Module, branch: Branch, groups: Sequence[ChannelGroup]) -> Emptied:
    """Give a copy of a branch's block whose groups' channels are neither written nor read.

    It is on the CPU, in evaluation mode, in float64; in float32 if it casts to that by itself.
    """
    with zeroed(model, groups, {group.name: () for group in groups}):
        block = copied(model.get_submodule(branch.block)).cpu().double()
    block.eval()
    empty = Emptied(block)
    try:
        empty.run(branch, _SCALES[0])
    except Exception:  # whatever a stranger's forward raises
        return Emptied(block.float())
    return empty


@torch.no_grad()
def added(empty: Emptied, branch: Branch) -> Tensor | None:
    """Give the constant that an emptied branch adds, float64 [channels]; None if it is none."""
    block = empty.block
    for scale in _SCALES:
        total, part = empty.run(branch, scale)
        if branch.trunk is not None:
            parts = total - _through(block, branch, scale * _noise(block, branch, seed=1))
        elif part is not None:
            total = parts = part
        else:
            return None
        seen = total > 0 if branch.relu else torch.ones_like(total, dtype=torch.bool)
        rows, seen = _by_channel(parts, branch.axis), _by_channel(seen, branch.axis)
        if bool(seen.any(dim=1).all()) or scale == _SCALES[-1]:
            break
        if _dtype_of(block) != torch.float64:
            return None  # beside larger inputs a constant would be lost in rounding
    first = rows.gather(1, seen.to(torch.uint8).argmax(dim=1, keepdim=True))
    # A channel whose sum is never above 0 adds nothing that anybody could see.
    constant = torch.where(seen.any(dim=1, keepdim=True), first, torch.zeros_like(first))
    off = ((rows - constant).abs() * seen).max()
    size = max(scale, float(total.abs().max()), float(parts.abs().max()))
    return constant.ravel().double() if float(off) <= _tolerance(block) * size else None


@torch.no_grad()
def holds(empty: Emptied, branch: Branch, constant: Tensor) -> bool:
    """Whether an emptied block computes the same with its constant in the branch's place."""
    block = empty.block
    stand_in = _without(sharing(block), branch, constant, torch.zeros_like(constant))
    for seed, scale in enumerate((1.0, 100.0), start=2):
        x = scale * _noise(block, branch, seed=seed)
        expected, found = block(x.clone()), stand_in(x.clone())
        if branch.block == branch.modules[-1]:
            found = found.expand_as(expected)  # as the sum will
        if not isinstance(found, Tensor) or found.shape != expected.shape:
            return False
        if float((expected - found).abs().max()) > _tolerance(block) * (
            scale + float(found.abs().max())
        ):
            return False
    return True


def take_out(model: nn.Module, branch: Branch, shift: Tensor, drift: Tensor) -> None:
    """Put a branch's constant in its place."""
    block = model.get_submodule(branch.block)
    mode = block.training
    stand_in = _without(block, branch, shift, drift)
    if stand_in is not block:
        model.set_submodule(branch.block, stand_in)
    stand_in.train(mode)


def _without(block: nn.Module, branch: Branch, shift: Tensor, drift: Tensor) -> nn.Module:
    """Give a block without its branch: another module, or the block with other modules in it."""
    like = next(parameter for parameter in block.parameters() if parameter.is_floating_point())
    shape = (-1, *(1 for _ in range(-1 - branch.axis)))
    constants = (shift.to(like).view(shape), drift.to(like).view(shape))
    if branch.trunk is not None:
        name = branch.trunk
        trunk = (name, block.get_submodule(name)) if name else None
        return Shortcut(*constants, trunk=trunk, relu=branch.relu)
    *idle, last = (_inside(branch, name) for name in branch.modules)
    for name in idle:
        block.set_submodule(name, Skip())
    constant = Constant(*constants, whole=branch.whole)
    if not last:
        return constant
    block.set_submodule(last, constant)
    return block


def _inside(branch: Branch, module: str) -> str:
    """Give a module's name as its block knows it; empty for the block itself."""
    if module == branch.block:
        return ""
    return module.removeprefix(f"{branch.block}.") if branch.block else module


def _noise(block: nn.Module, branch: Branch, *, seed: int) -> Tensor:
    """Give an input of the block, of random numbers."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(_noise_shape(branch), generator=random, dtype=torch.float64)
    return noise.to(_dtype_of(block))


def _noise_shape(branch: Branch) -> tuple[int, ...]:
    """Give the shape of such an input, of a multiple of the example's samples.

    Batch norms ask for two, and past a ReLU a channel shows only where the sum is above 0.
    """
    per_sample = math.prod(branch.takes[1:]) // branch.takes[branch.axis]
    times = max(2, -(-_POSITIONS // max(per_sample, 1)))
    return (times * branch.takes[0], *branch.takes[1:])


def _dtype_of(block: nn.Module) -> torch.dtype:
    return next(p.dtype for p in block.parameters() if p.is_floating_point())


def _tolerance(block: nn.Module) -> float:
    return TOLERANCE if _dtype_of(block) == torch.float64 else _ROUGH


def _through(block: nn.Module, branch: Branch, x: Tensor) -> Tensor:
    if not branch.trunk:
        return x
    trunk: Tensor = block.get_submodule(branch.trunk)(x)
    return trunk


def _by_channel(values: Tensor, axis: int) -> Tensor:
    """Give [channels, all else]."""
    return values.movedim(axis, 0).reshape(values.shape[axis], -1)


def _staying(channels: int, lies: Sequence[tuple[int, Sequence[int] | None, Member]]) -> np.ndarray:
    """Give the entries of a constant that stay, ascending.

    Args:
        channels: How many entries there are.
        lies: Per group on it how many channels it has, which ones stay (None: all), and where.
    """
    gone = [
        member.positions[np.setdiff1d(np.arange(count), kept)].ravel()
        for count, kept, member in lies
        if kept is not None
    ]
    return np.setdiff1d(np.arange(channels), np.concatenate([np.zeros(0, dtype=np.int64), *gone]))
