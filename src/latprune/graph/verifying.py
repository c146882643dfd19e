"""Prove that groups can be cut: on a copy with random weights, cut some channels and compare.

The cut network must equal the network whose weights ignore those channels. Random weights make
the proof independent of zero-initialised branches, which would hide a wrong cut. Where statistics
over channels are part of a network (LayerNorm), both are compared without them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map

from latprune.graph.labels import labelled_tensors
from latprune.graph.results import numbers_in, returned, tells
from latprune.graph.slicing import slice_model, zero_channels
from latprune.graph.standins import WithoutChance, channel_wise
from latprune.graph.ties import tied_groups
from latprune.modes import copied, drawing_apart, sharing, train_without_dropout

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from latprune.graph.groups import ChannelGroup
    from latprune.graph.ties import Tie

    Unit = tuple[ChannelGroup, ...]

TOLERANCE = 1e-6
"""Largest difference allowed in float64, relative to the largest output (random weights)."""

# In float32, where a network casts to it by itself and therefore does not run in float64.
_ROUGH = 1e-3

# What differs by less in float32 differs by rounding; more is looked at in float64.
_SURE = 1e-5

_FEWEST = 8  # values per channel; norms of fewer, in a row, make rounding errors grow
_LEAST_VARIANCE = 1e-4  # of a square of the mean: less of it is mostly rounding

_LEAST_GONE, _MOST_GONE = 0.15, 0.55  # of a group's channels, in a trial

# A network whose every block fails would take minutes: from then on what fails together stays.
_MOST_TRIALS = 32
_MORE_TRIALS = 6  # for what is tried then

_OTHER_WEIGHTS = 4  # that are tried where nothing can be compared

_MODEL = ("",)  # the name of the whole


@dataclass(frozen=True)
class Judgement:
    """How two networks are compared.

    Attributes:
        mixed: Calls (operator, count) that take statistics over channels.
        mixed_then: More of them, over channels of what is tried beside other groups.
        witnesses: Modules whose outputs are compared instead of the network's, in float64: what a
            detector makes of its heads' outputs changes with the last bit.
        ends: Modules whose outputs are compared, too, where what is compared tells nothing: zeros
            behind a ReLU, truth values, whole numbers.
        ends_in_training: The same in training mode.
        training: Inputs for training mode, if the network does something else there.
        draws: Whether random numbers are drawn.
        compares: Whether code asks which of two widths is larger: each has to be so once.
    """

    mixed: Collection[tuple[str, int]] = ()
    mixed_then: Collection[tuple[str, int]] = ()
    witnesses: Collection[str] = ()
    ends: Collection[str] = ()
    ends_in_training: Collection[str] = ()
    training: tuple[Any, ...] = ()
    draws: bool = False
    compares: bool = False


def find_broken(
    model: nn.Module,
    inputs: tuple[Any, ...],
    groups: Sequence[ChannelGroup],
    judgement: Judgement | None = None,
    *,
    ties: Sequence[Tie] = (),
    then: Sequence[ChannelGroup] = (),
) -> dict[str, str]:
    """Give the groups that cannot be cut, with what went wrong.

    All groups are tried at once; only if that fails, halves are tried, down to single groups, or to
    single ties.

    Args:
        model: A copy of the dense model, for trial use: it gets random weights.
        inputs: An example input.
        groups: The groups to try.
        judgement: How to compare.
        ties: Which of the groups are tied.
        then: More groups, to be tried beside those of the others that hold.

    Returns:
        The failing groups' names and reasons; empty if all hold.
    """
    with drawing_apart(model, seed=0):
        randomise(model)
        model.eval()
        trial = _Trial(model, inputs, judgement or Judgement(), ties)
        broken: dict[str, str] = {}
        together = trial.failure([*groups, *then]) if then else None
        if then and together is None and not trial.hides:
            return broken
        admitted: list[ChannelGroup] = []
        with trial.alone():
            _admit(trial, _units(groups, ties), admitted, broken)
        if then and together is None and not broken:
            return broken
        trial.most = min(trial.most, trial.count + _MORE_TRIALS)
        _admit(trial, _units(then, ()), admitted, broken, None if broken else together)
    return broken


def _units(groups: Sequence[ChannelGroup], ties: Sequence[Tie]) -> list[Unit]:
    """What can only be cut together."""
    by_name = {group.name: group for group in groups}
    tied = tied_groups(ties)
    return [
        *((group,) for group in groups if group.name not in tied),
        *(tuple(by_name[name] for name in tie.groups) for tie in ties),
    ]


def random_kept(
    groups: Sequence[ChannelGroup], share: float, seed: int, ties: Sequence[Tie] = ()
) -> dict[str, list[int]]:
    """Choose at random the channels that stay, at least one and all but `share` of each group.

    Of tied groups as many as go together stay; of all that are given a tie must be given whole.
    """
    gone = {group.name: _nearest_share(group, share) for group in groups}
    return _kept(groups, gone, [share] * len(ties), seed, ties)


def uneven_kept(
    groups: Sequence[ChannelGroup],
    seed: int,
    ties: Sequence[Tie] = (),
    *,
    mirrored: bool = False,
) -> dict[str, list[int]]:
    """Choose like `random_kept`, but different shares of the groups.

    What holds only while widths are equal, or in some proportion, then shows. Groups of the same
    size lose different numbers of channels as far as there are any. Mirrored, those that lost most
    lose least.
    """
    gone: dict[str, int] = {}
    used: dict[tuple[int, int], Counter[int]] = defaultdict(Counter)
    for index, group in enumerate(groups):
        nearest = _nearest_share(group, _share(index))
        taken = used[group.channels, group.multiple]
        most = max(_nearest_share(group, _MOST_GONE), 1)
        # The least used one so far, and of these the nearest.
        gone[group.name] = min(
            range(1, most + 1), key=lambda count: (taken[count], abs(count - nearest))
        )
        taken[gone[group.name]] += 1
        if mirrored:
            gone[group.name] = most + 1 - gone[group.name]
    shares = [_share(index) for index in range(len(ties))]
    if mirrored:
        shares = [_LEAST_GONE + _MOST_GONE - share for share in shares]
    return _kept(groups, gone, shares, seed, ties)


def _share(index: int) -> float:
    """Spread shares evenly, neighbours far apart: multiples of the golden ratio are."""
    return _LEAST_GONE + (_MOST_GONE - _LEAST_GONE) * ((0.3 + index * 0.618034) % 1)


def _nearest_share(group: ChannelGroup, share: float) -> int:
    """Give how many steps a group loses, at least one if one is left then."""
    steps = group.channels // group.multiple
    return min(max(1, round(steps * share)), steps - 1)


def _kept(
    groups: Sequence[ChannelGroup],
    gone: Mapping[str, int],
    shares: Sequence[float],
    seed: int,
    ties: Sequence[Tie],
) -> dict[str, list[int]]:
    """Choose at random the channels that stay when so many steps go; of ties such shares."""
    generator = np.random.default_rng(seed)
    channels = {group.name: group.channels for group in groups}
    tied: dict[str, int] = {}
    for tie, share in zip(ties, shares, strict=True):
        present = [channels[name] for name in tie.groups]
        options = np.flatnonzero((tie.widths <= present).all(axis=1))
        option = options[min(round((len(options) - 1) * (1 - share)), max(len(options) - 2, 0))]
        tied.update(zip(tie.groups, tie.widths[option].tolist(), strict=True))
    kept = {}
    for group in groups:
        order = generator.permutation(group.channels)
        lost = max(min(gone[group.name] * group.multiple, group.channels - group.multiple), 0)
        kept[group.name] = sorted(order[: tied.get(group.name, group.channels - lost)].tolist())
    return kept


def randomise(model: nn.Module) -> None:
    """Give a model random weights, in place, of a size that keeps activations in range.

    Masks of zeros and ones stay: code may put them on its weights in place, in every run anew.
    """
    masks = {name for name, buffer in model.named_buffers() if _is_mask(buffer)}
    variances = {
        f"{name}.running_var".lstrip(".")
        for name, module in model.named_modules()
        if isinstance(getattr(module, "running_var", None), torch.Tensor)
    }
    with torch.no_grad():
        for name, tensor in labelled_tensors(model):
            if name in masks:
                continue
            if name in variances:
                tensor.uniform_(0.5, 1.5)
            elif tensor.dim() >= 2:
                fan_in = math.prod(tensor.shape[1:])
                tensor.normal_(std=(2.0 / max(fan_in, 1)) ** 0.5)
            else:
                tensor.uniform_(0.5, 1.0) if "weight" in name else tensor.normal_(std=0.1)


def _is_mask(buffer: torch.Tensor) -> bool:
    ones = buffer == 1
    return bool((ones | (buffer == 0)).all() and ones.any() and not ones.all())


@torch.no_grad()
def settle(model: nn.Module, inputs: tuple[Any, ...], *others: nn.Module) -> None:
    """Let batch norms hold the statistics of what they see of an input, in place.

    With others, activations shrink from layer to layer, or die, and a deep network's outputs hardly
    show what a cut changed far within it.

    Args:
        model: In evaluation mode.
        inputs: What it is called with.
        others: Copies of the model, whatever their weights; they get the same statistics.
    """
    hooks = [norm.register_forward_pre_hook(_remember_statistics) for norm in _norms(model)]
    if not hooks:
        return
    with suppress(Exception):  # a model that does not run says so in its trial
        model(*inputs)
    for hook in hooks:
        hook.remove()
    for other in others:
        for norm, settled in zip(_norms(other), _norms(model), strict=True):
            for stored, seen in zip(_statistics(norm), _statistics(settled), strict=True):
                stored.copy_(seen)


def _norms(model: nn.Module) -> list[nn.Module]:
    """The batch norms that hold statistics."""
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return [norm for norm in norms if norm.running_var is not None]


def _statistics(norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return norm.running_var, norm.running_mean


def _remember_statistics(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    x, *_ = inputs
    if x.numel() < _FEWEST * x.shape[1]:
        return
    found = torch.var_mean(x, [axis for axis in range(x.dim()) if axis != 1], correction=0)
    varies = found[0] > _LEAST_VARIANCE * found[1].square()  # else there is next to nothing to see
    for stored, seen in zip(_statistics(norm), found, strict=True):
        stored.copy_(torch.where(varies, seen, stored))


@dataclass(frozen=True)
class _Failure:
    """What is wrong with a cut, and the module that could not run, if it was one."""

    reason: str
    module: str = ""


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    """Give the names of the modules that are running, outermost first; they stay after an error."""
    names = {module: name for name, module in model.named_modules()}
    running: list[str] = [""]
    hooks = []
    for module in names:
        hooks.append(module.register_forward_pre_hook(lambda m, _: running.append(names[m])))
        hooks.append(module.register_forward_hook(lambda *_: _left(running)))
    try:
        yield running
    finally:
        for hook in hooks:
            hook.remove()


def _left(running: list[str]) -> None:
    running.pop()


class _Trial:
    """Cuts a copy of a model and compares what it computes."""

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[Any, ...],
        judgement: Judgement,
        ties: Sequence[Tie],
    ) -> None:
        self._model, self._inputs, self._judgement = model, inputs, judgement
        self._mixed = frozenset({*judgement.mixed, *judgement.mixed_then})
        self._ties = ties
        self._pair = judgement.training
        self._single = (model, inputs, judgement.training)
        self._precise = self._rough = False
        self.count, self.most = 0, _MOST_TRIALS
        self._weights_left = _OTHER_WEIGHTS
        if judgement.witnesses:
            self._be_precise()

    @property
    def hides(self) -> bool:
        """Whether statistics that only some groups need stand-ins for are statistics to others.

        Attention's scale is none: it is the same for all that lose whole heads.
        """
        return any(
            "attention" not in name for name, _ in self._mixed.difference(self._judgement.mixed)
        )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Try groups by themselves, without stand-ins that only those beside them need."""
        together = self._mixed
        if self.hides:
            self._mixed = frozenset(self._judgement.mixed)
        try:
            yield
        finally:
            self._mixed = together

    def failure(self, groups: Sequence[ChannelGroup]) -> _Failure | None:
        """Say what is wrong after cutting a part of these groups; None if nothing is."""
        self.count += 1
        if not (self._precise or self._rough) and any(group.counts for group in groups):
            self._be_precise()  # Python may compute with such a number, and by less than rounding
        failure = self._failure(groups)
        if failure is None or failure.module or self._precise or self._rough:
            return failure
        self._be_precise()
        return self._failure(groups)

    @property
    def _tolerance(self) -> float:
        return TOLERANCE if self._precise else _ROUGH if self._rough else _SURE

    def _be_precise(self) -> None:
        self._precise = True
        self._model = sharing(self._model).double()  # the one that was given is run again
        self._inputs, self._pair = tree_map(_double, (self._inputs, self._pair))

    def _be_rough(self) -> None:
        self._precise, self._rough = False, True
        self._model, self._inputs, self._pair = self._single

    def _failure(self, groups: Sequence[ChannelGroup]) -> _Failure | None:
        failure = self._failure_of(groups, mirrored=False)
        if failure is None and self._judgement.compares:
            failure = self._failure_of(groups, mirrored=True)
        return failure

    def _failure_of(self, groups: Sequence[ChannelGroup], *, mirrored: bool) -> _Failure | None:
        names = {group.name for group in groups}
        ties = [tie for tie in self._ties if names.issuperset(tie.groups)]
        kept = uneven_kept(groups, seed=0, ties=ties, mirrored=mirrored)
        masked, small = copied(self._model), sharing(self._model)
        zero_channels(masked, groups, kept)
        with channel_wise(self._mixed):
            settle(masked, self._inputs, small)
        try:
            at = self._judgement.witnesses or _MODEL
            at, expected = self._telling(masked, at, self._judgement.ends)
        except Exception as error:
            return self._roughly(groups, error, mirrored=mirrored)
        if not any(map(tells, expected)):
            return self._with_other_weights(groups, mirrored=mirrored)
        slice_model(small, groups, kept, ties=ties)
        failure = self._failure_in(
            small, lambda: _difference(expected, self._outputs(small, at), self._tolerance)
        )
        if failure is not None or not self._pair:
            return failure
        try:
            trained_at, trained = self._trained(masked)
        except Exception as error:
            return self._roughly(groups, error, mirrored=mirrored)
        return self._failure_in(
            small, lambda: self._difference_in_training(trained, small, trained_at)
        )

    def _roughly(
        self, groups: Sequence[ChannelGroup], error: Exception, *, mirrored: bool
    ) -> _Failure | None:
        """Try in float32 what does not run in float64: it casts to that by itself.

        Or random weights lead it astray.
        """
        if not self._precise:
            return _Failure(f"it does not run on random weights: {_first_line(error)}")
        self._be_rough()
        return self._failure_of(groups, mirrored=mirrored)

    def _failure_in(
        self, small: nn.Module, difference: Callable[[], str | None]
    ) -> _Failure | None:
        """Say what is wrong with a cut network, by what tells how it differs."""
        with _watched(small) as running:
            try:
                reason = difference()
            except Exception as error:  # whatever a stranger's forward raises is the finding
                how = " in training mode" * small.training
                return _Failure(f"cut, it no longer runs{how}: {_first_line(error)}", running[-1])
        if reason is not None and self._judgement.draws:
            reason += ", and it draws random numbers"
        return None if reason is None else _Failure(reason)

    def _with_other_weights(
        self, groups: Sequence[ChannelGroup], *, mirrored: bool
    ) -> _Failure | None:
        """Try again where nothing can be compared: with others a ReLU at the end may be open.

        An example that is all zeros, of which no weights make anything, is replaced, too.
        """
        if self._weights_left:
            self._weights_left -= 1
            randomise(self._model)
            self._inputs = tree_map(_not_zero, self._inputs)
            return self._failure_of(groups, mirrored=mirrored)
        self.most = 0  # it is no fault of some groups
        return _Failure("its outputs are zero or hold no floats, so a cut cannot be judged")

    def _telling(
        self, masked: nn.Module, at: Collection[str], ends: Collection[str]
    ) -> tuple[Collection[str], list[torch.Tensor]]:
        """Give what modules return, and whose it is: the ends', too, where the rest is not enough.

        Who only looked at zeros behind a ReLU, or at a mask, would call any two networks equal.
        """
        outputs = self._outputs(masked, at)
        if outputs and all(map(tells, outputs)):
            return at, outputs
        at = list(dict.fromkeys((*at, *ends)))
        return at, self._outputs(masked, at)

    def _trained(
        self, masked: nn.Module
    ) -> tuple[Collection[str], Sequence[Sequence[torch.Tensor]]]:
        """Give what training mode returns, twice: it differs where a network draws at random.

        Once is enough where only shapes are compared.
        """
        train_without_dropout(masked)
        at, expected = self._telling(masked, _MODEL, self._judgement.ends_in_training)
        again = () if self._mixed else (self._outputs(masked, at, seed=1),)
        return at, (expected, *again)

    def _difference_in_training(
        self,
        trained: Sequence[Sequence[torch.Tensor]],
        small: nn.Module,
        at: Collection[str],
    ) -> str | None:
        """Compare auxiliary heads, too, or their shapes where a network draws at random."""
        train_without_dropout(small)
        found = self._outputs(small, at)
        expected, *again = trained
        if not again or not all(map(torch.equal, expected, *again)):
            return _difference_of_shapes(expected, found)
        return _difference(expected, found, self._tolerance)

    @contextmanager
    def _alike(self, seed: int) -> Iterator[None]:
        """Draw the same for any number of channels, and what else is random from a seed."""
        chance = WithoutChance() if self._judgement.draws else nullcontext()
        with drawing_apart(self._model, seed=seed), chance:
            yield

    def _outputs(
        self, model: nn.Module, at: Collection[str], *, seed: int = 0
    ) -> list[torch.Tensor]:
        """Run a model in its mode; give what some of its modules return, as it was then."""
        mixed, inputs = self._mixed, self._inputs
        if model.training:
            mixed, inputs = frozenset(), self._pair
        with torch.no_grad(), channel_wise(mixed), self._alike(seed):
            return returned(model, inputs, at)


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf


def _not_zero(leaf: Any) -> Any:
    is_zero = isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and not leaf.any()
    return torch.rand_like(leaf) if is_zero else leaf


def _admit(
    trial: _Trial,
    units: list[Unit],
    admitted: list[ChannelGroup],
    broken: dict[str, str],
    failure: _Failure | None = None,
) -> None:
    """Move groups to `admitted` as far as all of them together hold; the rest to `broken`.

    What fails beside those that are admitted may be known: `failure`. It counts as a trial.
    """
    if not units:
        return
    groups = [group for unit in units for group in unit]
    if failure is None:
        failure = trial.failure([*admitted, *groups])
    else:
        trial.count += 1
    if failure is None:
        admitted.extend(groups)
    elif len(units) == 1 or trial.count >= trial.most:
        broken.update({group.name: failure.reason for group in groups})
    else:
        first, second = _parted(units, failure)
        before = len(broken)
        _admit(trial, first, admitted, broken)
        # Where the first hold, both together are what has just failed.
        _admit(trial, second, admitted, broken, failure if len(broken) == before else None)


def _parted(units: list[Unit], failure: _Failure) -> Sequence[list[Unit]]:
    """Set those apart that lie where the network failed; where that says nothing, halve."""
    inside = f"{failure.module}."
    near = [u for u in units if any(m.parameter.startswith(inside) for g in u for m in g.members)]
    if failure.module and 0 < len(near) < len(units):
        return [unit for unit in units if unit not in near], near
    return units[: len(units) // 2], units[len(units) // 2 :]


def _difference(
    expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor], tolerance: float
) -> str | None:
    if (reason := _difference_of_shapes(expected, found)) is not None:
        return reason
    off = [0.0]
    for a, b in zip(numbers_in(expected), numbers_in(found), strict=True):
        scale = float(a.abs().max()) if a.numel() else 0.0
        if not np.isfinite(scale):
            return "its outputs on random weights are not finite, so a cut cannot be judged"
        if a.numel():
            off.append(float((a - b).abs().max()) / (scale or 1.0))
    worst = float(np.max(off))  # not Python's: what is not a number is no agreement
    return None if worst <= tolerance else f"cut, its outputs change by {worst:.2g} of their size"


def _difference_of_shapes(
    expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]
) -> str | None:
    same = [t.shape for t in numbers_in(expected)] == [t.shape for t in numbers_in(found)]
    return None if same else "cut, its outputs have other shapes"


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
