"""An independent judge of a cut: it trusts nothing that the graph says about what lies where.

Every parameter and buffer is overwritten with its own flat indices and the network is cut; the
numbers that are left tell which entries survived, and in which order. The cut network then gets the
original values of those, the original zeros in the place of all others, and both must compute the
same in float64.

A norm over channels (layer norm, group norm, standardised weights) sees fewer of them after a cut,
and no cut under it can leave its numbers as they were; nor those of attention, which divides by the
root of a head's width. If the outputs differ, they are therefore
compared once more with a stand-in in both networks: such a norm multiplies by one number, the same
in both, before its own scale and shift. That judges the structure alone. A convolution that runs
along an axis that was cut, as efficient channel attention's, keeps of its kernel what reads the
channel that it writes, and of an average, as local response norm's, the channel itself is left.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from latprune.graph.verifying import settle

Cutter = Callable[[nn.Module], nn.Module]
Tensors = list[torch.Tensor]

TOLERANCE = 1e-6
"""Largest difference of an output, relative to the largest one, in float64."""
HIDDEN = "the outputs do not show what was removed"


@dataclass(frozen=True)
class Verdict:
    """What the judge found.

    Attributes:
        holds: `exact`; `structure`, if only with stand-ins for the norms over channels; `wrong`;
            or `open`, if the outputs say nothing.
        difference: The largest one of an output, relative to the largest output.
        why: Of a cut that is wrong, or of one that could not be judged.
    """

    holds: Literal["exact", "structure", "wrong", "open"]
    difference: float
    why: str = ""


def judge(
    model: nn.Module, cutter: Cutter, example: torch.Tensor, *, watch: Sequence[str] = ()
) -> Verdict:
    """Judge what `cutter` makes of `model`.

    Args:
        model: The network; it stays as it is.
        cutter: Gives a smaller copy of any network of the same architecture, always the same cut.
        example: An input, [batch, ...].
        watch: Modules whose outputs are compared, too, by dotted name.
    """
    with _in_float64():
        whole = copy.deepcopy(model).double().eval()
        fill(whole)
        wide = example.double()
        dense = copy.deepcopy(whole)
        try:
            small = _cut_and_fill(whole, cutter, wide, dense)
        except NotMoved as error:
            return Verdict("wrong", float("inf"), str(error))
        before = _outputs(dense, wide, watch)
        del dense
        expected, found = (_outputs(network, wide, watch) for network in (whole, small))
        difference, why = _difference(expected, found)
        if difference <= TOLERANCE:
            hidden = _difference(before, expected)[0] <= TOLERANCE
            return Verdict("open" if hidden else "exact", difference, HIDDEN if hidden else "")
        replaying = _Replaying(*_in_cuts(whole, small, wide))
        with replaying, _SameScale(replaying):
            expected = _outputs(whole, wide, watch)
        with replaying.again(), _SameScale(replaying):
            found = _outputs(small, wide, watch)
        difference, still = _difference(expected, found)
        if replaying.replayed and difference <= TOLERANCE:
            return Verdict("structure", difference)
        return Verdict("wrong", difference, still if replaying.replayed else why)


class NotMoved(Exception):
    """A cut changed values instead of taking some away."""


def fill(model: nn.Module) -> None:
    """Give a model random weights, in place, that keep activations in range and hide nothing.

    Freshly built networks have zeros (the last norm of a branch, layer scale) behind which a wrong
    cut would not show. Buffers other than a norm's statistics are part of the architecture.
    """
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            leaf = name.rpartition(".")[2]
            if tensor.dim() >= 2:
                fan_in = max(math.prod(tensor.shape[1:]), 1)
                tensor.normal_(std=(2.0 / fan_in) ** 0.5)
            elif "bias" in leaf or "beta" in leaf:
                tensor.normal_(std=0.1)
            else:
                tensor.uniform_(0.5, 1.0)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)


def _cut_and_fill(
    whole: nn.Module, cutter: Cutter, example: torch.Tensor, dense: nn.Module
) -> nn.Module:
    """Cut; give the small network the surviving values; zero the others in the whole, in place.

    Batch norms of all three, of the `dense` one too, then hold what those of the whole see, so that
    its signals do not die on the way.
    """
    numbered = copy.deepcopy(whole)
    with torch.no_grad():
        for tensor in _tensors(numbered).values():
            tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape))
    small = cutter(numbered).eval()
    del numbered
    originals = _tensors(whole)
    survivors = {
        name: _indices(name, tensor, originals[name].numel())
        for name, tensor in _tensors(small).items()
    }
    with torch.no_grad():
        for name in survivors.keys() & dict(whole.named_parameters()).keys():
            stays = torch.zeros(originals[name].numel(), dtype=torch.bool)
            stays[survivors[name].ravel()] = True
            originals[name].mul_(stays.view(originals[name].shape))
        settle(whole, (example,), dense)
        for name, tensor in _tensors(small).items():
            tensor.copy_(originals[name].ravel()[survivors[name]].view(tensor.shape))
    return small


def _indices(name: str, tensor: torch.Tensor, count: int) -> torch.Tensor:
    indices = tensor.long()
    if tensor.numel() and not (
        torch.equal(indices.double(), tensor) and indices.min() >= 0 and indices.max() < count
    ):
        raise NotMoved(f"the cut changed values of {name}, besides removing some")
    return indices


def _tensors(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """The floating-point parameters and buffers, one that has several names once."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}


def _outputs(model: nn.Module, example: torch.Tensor, watch: Sequence[str]) -> Tensors:
    """Everything that the model and the watched modules return."""
    seen: Tensors = []
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output: seen.extend(_leaves(output))
        )
        for name in watch
    ]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            result = model(example.clone())  # which a network may write into
    finally:
        for hook in hooks:
            hook.remove()
    return [*_leaves(result), *seen]


def _leaves(output: Any) -> Iterator[torch.Tensor]:
    for leaf in tree_leaves(output):
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            yield leaf.detach().clone()


def _difference(expected: Tensors, found: Tensors) -> tuple[float, str]:
    """The largest relative difference, and in words what is wrong if there is anything."""
    shapes = [[tuple(t.shape) for t in side] for side in (expected, found)]
    if shapes[0] != shapes[1]:
        return float("inf"), f"outputs of shapes {shapes[0][:4]} became {shapes[1][:4]}"
    worst = 0.0
    largest = 0.0
    for a, b in zip(expected, found, strict=True):
        scale = float(a.abs().max()) if a.numel() else 0.0
        if scale != scale or scale == float("inf"):
            return float("inf"), "the outputs on random weights are not finite"
        largest = max(largest, scale)
        if scale:
            worst = max(worst, float((a - b).abs().max()) / scale)
        elif bool(b.any()):
            worst = float("inf")
    if not largest:
        return float("inf"), "the outputs on random weights are all zero"
    if worst != worst:
        return float("inf"), "the cut network's outputs are not finite"
    return worst, f"outputs change by {worst:.2g} of the largest"


def _in_cuts(
    whole: nn.Module, small: nn.Module, example: torch.Tensor
) -> tuple[set[int], set[int]]:
    """What the small network does over other sizes, by the order of the calls.

    Returns:
        The convolutions and averages that run along another size, and the statistics over another
        number of entries for another number of results.
    """
    seen: list[_Sizes] = []
    for network in (whole, small):
        with _Sizes() as sizes:
            _outputs(network, example, ())
        seen.append(sizes)
    along = _numbers(seen[0].images, seen[1].images, lambda before, after: before != after)
    crossed = _numbers(
        seen[0].reduced,
        seen[1].reduced,
        lambda before, after: all(a != b for a, b in zip(before, after, strict=True)),
    )
    return along, crossed


def _numbers(whole: list[Any], small: list[Any], differ: Callable[[Any, Any], bool]) -> set[int]:
    if len(whole) != len(small):
        return set()
    return {at for at, pair in enumerate(zip(whole, small, strict=True)) if differ(*pair)}


class _Sizes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Remembers what operators run over, in their order.

    Attributes:
        images: The sizes of the images of convolutions and averages.
        reduced: How many results a statistic has, and over how many entries each.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.images: list[torch.Size] = []
        self.reduced: list[tuple[int, int]] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,  # torch hands it over
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if _operator(func) in _RUN_ALONG:
            self.images.append(args[0].shape[2:])
        elif _operator(func) in _STATISTICS:
            count = next(t.numel() for t in tree_leaves(result))
            self.reduced.append((count, args[0].numel() // max(count, 1)))
        return result


_RUN_ALONG = frozenset({"convolution", "avg_pool2d", "avg_pool3d"})


def _own_place(args: Sequence[Any]) -> torch.Tensor:
    """A convolution's weight with zeros but where an output reads the place that it stands in."""
    weight, padding, dilation = args[1], args[4], args[5]
    place = (..., *(pad // step for pad, step in zip(padding, dilation, strict=True)))
    own = torch.zeros_like(weight)
    own[place] = weight[place]
    return own


def _own_entry(args: Sequence[Any]) -> torch.Tensor:
    """What an average's windows, one entry apart, have in their middles: a convolution with it."""
    x, kernel, padding = args[0], args[1], args[3] if len(args) > 3 else 0
    middle = x.new_zeros(1, 1, *kernel)
    middle[(..., *(size // 2 for size in kernel))] = 1
    convolve = F.conv2d if len(kernel) == 2 else F.conv3d
    own = convolve(x.reshape(-1, 1, *x.shape[-len(kernel) :]), middle, padding=padding)
    return own.reshape(*x.shape[: -len(kernel)], *own.shape[2:])


class _Replaying(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """What is taken over channels is recorded in one network, and replayed in the other.

    Norms over channels multiply by one number: what brings the norm's input to variance one, so
    that activations stay in range. Means and variances over an axis
    that was cut are those of the whole axis, and where others of its results are gone, too, as of
    whole groups of a norm and of channels in each, one number for all of them.

    Args:
        run_along_cuts: Which convolutions and averages, by their order, run along an axis that
            was cut.
        crossed: Which statistics, by the order of all, lost entries and results.

    Attributes:
        replayed: Whether anything was.
    """

    def __init__(self, run_along_cuts: Collection[int], crossed: Collection[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.replayed = bool(run_along_cuts)
        self._run_along_cuts, self._crossed = run_along_cuts, crossed
        self._run_along = self._statistics = 0
        self._recorded: list[Any] = []
        self._next: int | None = None

    def again(self) -> _Replaying:
        """From now on, replay."""
        self._next = self._run_along = self._statistics = 0
        return self

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,  # torch hands it over
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if _operator(func) in _STATISTICS:
            return self._statistic(args[0], func(*args, **kwargs))
        if _operator(func) in _RUN_ALONG:
            self._run_along += 1
            if self._run_along - 1 in self._run_along_cuts and _operator(func) != "convolution":
                return _own_entry(args)
            if self._run_along - 1 in self._run_along_cuts:
                args = (args[0], _own_place(args), *args[2:])
        place = _norm_over_channels(func, args)
        if place is None:
            return func(*args, **kwargs)
        weight, bias, axis = place
        x = args[0] * self.same(args[0].var(correction=0).clamp_min(1e-12).rsqrt())
        for tensor, apply in ((weight, torch.mul), (bias, torch.add)):
            if tensor is not None:
                shape = tensor.shape if axis < 0 else (-1, *[1] * (x.dim() - axis - 1))
                x = apply(x, tensor.reshape(shape))
        return (x, *(x.new_zeros(0) for _ in func._schema.returns[1:])) if _many(func) else x

    def _statistic(self, x: torch.Tensor, own: Any) -> Any:
        """The whole's, if it is one number for all channels of an axis that was cut."""
        self._statistics += 1
        if self._statistics - 1 in self._crossed:
            number = self.same(next(_leaves(own)).mean().item())
            return tree_map_only(torch.Tensor, lambda t: torch.full_like(t, number), own)
        shape, whole = self._recall((x.shape, own))
        sizes = [[t.shape for t in _leaves(side)] for side in (own, whole)]
        if shape == x.shape or sizes[0] != sizes[1]:
            return own
        self.replayed = True
        return whole

    def same(self, number: Any) -> Any:
        """The number of the network that ran first."""
        self.replayed = self.replayed or self._next is not None
        return self._recall(number)

    def _recall(self, value: Any) -> Any:
        if self._next is None:
            self._recorded.append(value)
            return value
        self._next += 1
        return self._recorded[self._next - 1]


class _SameScale(TorchFunctionMode):
    """Attention divides by the root of the width that its heads have in the whole network."""

    def __init__(self, replaying: _Replaying) -> None:
        super().__init__()
        self._replaying = replaying

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # torch hands it over
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is _attention and kwargs.get("scale") is None:
            query = args[0] if args else kwargs["query"]
            kwargs["scale"] = self._replaying.same(query.shape[-1] ** -0.5)
        with patch.object(F, _attention.__name__, self._unseen):
            return func(*args, **kwargs)

    def _unseen(self, query: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Stand in where no mode sees it: inside torch's own multi-head attention."""
        if kwargs.get("scale") is None:
            kwargs["scale"] = self._replaying.same(query.shape[-1] ** -0.5)
        return _attention(query, *args, **kwargs)


_attention = F.scaled_dot_product_attention


_STATISTICS = frozenset(
    {
        *("mean", "var", "var_mean", "std", "std_mean"),
        *("max", "amax", "min", "amin", "logsumexp"),
    }
)


def _operator(func: Any) -> str:
    name: str = func._schema.name.partition("::")[2]
    return name


def _norm_over_channels(
    func: Any, args: Sequence[Any]
) -> tuple[torch.Tensor | None, torch.Tensor | None, int] | None:
    """Scale, shift and the axis they lie on (-1: the last ones); None for any other operator."""
    name = _operator(func)
    if name == "native_layer_norm":
        return args[2], args[3], -1
    if name == "native_group_norm":
        return args[1], args[2], 1
    if name in ("rms_norm", "_fused_rms_norm"):
        return args[2] if len(args) > 2 else None, None, -1
    if name == "native_batch_norm" and args[5] and args[3] is None:  # standardised weights
        return args[1], args[2], 1
    if name == "_native_batch_norm_legit" and func._overloadname == "no_stats" and args[3]:
        return args[1], args[2], 1
    return None


def _many(func: Any) -> bool:
    return len(func._schema.returns) > 1


@contextmanager
def _in_float64() -> Iterator[None]:
    """Let what a forward makes by itself be float64, too."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)
