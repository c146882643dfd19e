"""After a cut, layers that lost inputs can make good for them: fit their weights anew.

What the channels that went told a layer, those that stayed tell it in part: its weights become
those by which it gives, from what is left, what it gave in the dense network (least squares). No
labels, no gradients: one pass through either network.
"""

from __future__ import annotations

import math
import sys
import weakref
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latprune.errors import DataError
from latprune.graph.slicing import kept_entries
from latprune.modes import device_of, evaluating
from latprune.planning import Plan
from latprune.progress import Quiet
from latprune.samples import (
    is_finite,
    joined,
    outputs_of,
    pairs,
    samples_of,
    several_at_once,
    taken,
)
from latprune.tuning.batchnorm import batch_norms, by_batch, settled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch.utils.hooks import RemovableHandle

    from latprune.graph.groups import PruningGraph
    from latprune.progress import Progress

Layer = nn.modules.conv._ConvNd | nn.Linear

IMAGES = 512
MOST_NUMBERS = 128 * 96 * 112 * 112
"""That a layer may give for all images, for memory: 0.6 GB, and a few are there at once. It is what
EfficientNet-Lite0 gives for 128 of 224 x 224."""
ROWS_PER_INPUT = 4
LEAST_ROWS = 2048
HELD_OUT = 4  # every fourth sample says whether, and how firmly bound, new weights are better
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)  # of the inputs' mean square, what binds weights to what they were
MOST_AT_ONCE = 1 << 25  # numbers that a layer multiplies, of all groups that are fitted together
NEGLIGIBLE = 1e-9  # of what the layer gives: its inputs are as they were
FORWARDS = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward, nn.Linear.forward)


@dataclass(frozen=True)
class Reconstructed:
    """How far a layer's outputs are from the dense network's.

    Attributes:
        layer: Its name.
        before: The mean square of the difference, on samples that did not fit its weights, over
            that of the outputs, with the weights that the cut left.
        after: The same with new weights; as `before` where those were no better, and were not
            taken.
    """

    layer: str
    before: float
    after: float


@torch.no_grad()
def reconstruct(
    small: nn.Module,
    dense: nn.Module,
    graph: PruningGraph,
    plan: Plan | Mapping[str, Sequence[int]],
    loader: Iterable[Any],
    *,
    images: int = IMAGES,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Reconstructed]:
    """Fit the weights of a cut network's layers to what they gave in the dense one.

    Convolutions and linear layers, one after the other in the order in which they run, each on
    what the layers before it give by then: so it makes good for these, too. New weights W minimise
    ‖Y - XW‖² + ridge ‖W - W₀‖², X being what they multiply in the small network at some drawn
    positions, Y what came out in the dense one there, W₀ what they were. The groups of a grouped
    convolution are fitted one by one; a depthwise one keeps its weights. A fourth of the samples
    is held out, for the ridge, and for whether new weights are better at all.

    Args:
        small: What `cut` gave; changed in place. Its batch norms use the statistics of the batch
            meanwhile, and are then as they were: `recalibrate` them.
        dense: What it was cut from; it stays as it is.
        graph: Traced from `dense`.
        plan: What `small` was cut to; or per group the channels that stayed, as `kept_channels`
            finds them in a network that another tool cut.
        loader: Batches of (inputs, labels), or of inputs alone: labels are not looked at. Several
            inputs come in a tuple. The small network is given all that are used as one batch; those
            with nan or infinite numbers, or of another size than the first, are left out.
        images: How many to use, at the most; fewer where a layer would give more numbers for them
            than `MOST_NUMBERS`: a ResNet-50 gets 192 of 224 x 224, EfficientNet-Lite0 128.
        seed: Of the positions.
        progress: Is told of every layer.

    Returns:
        What became of every layer that was looked at, in the order in which they run.

    Raises:
        DataError: If the loader gives no batch of finite images, or they cannot be taken apart.
        ModelMismatch: If `graph` was traced from another model.

    Source:
        He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, section
        3.1, whose layers are given what the small network gives them, too; Luo et al., "ThiNet",
        ICCV 2017.
    """
    parts = _enough(dense, loader, images)
    kept = plan.kept if isinstance(plan, Plan) else plan
    fits = _fits(small, dense, graph, kept, sizes=list(map(samples_of, parts)), seed=seed)
    with evaluating(dense), _hooked() as hooked:
        for fit in fits:
            hooked(fit.of_dense.register_forward_hook(fit.remember))
        for norm in batch_norms(dense):
            hooked(norm.register_forward_pre_hook(partial(_look_for_norms, fits)))
        for part in parts:
            for fit in fits:
                fit.samples = samples_of(part)
            outputs_of(dense, part, device_of(dense))
    progress, found = progress or Quiet(), []

    def solve(fit: _Fit, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        done = fit.solve(given[0])
        if done is not None:
            found.append(done)
            progress.step(len(found), len(fits), "layers reconstructed")

    at_once = several_at_once()
    with evaluating(small), settled(small), by_batch(small), at_once, _hooked() as hooked:
        for fit in fits:
            hooked(fit.of_small.register_forward_pre_hook(partial(solve, fit)))
        outputs_of(small, joined(parts), device_of(small))
    return found


def _enough(dense: nn.Module, loader: Iterable[Any], images: int) -> list[Any]:
    parts: list[Any] = []
    form: Any = None
    wanted, there = images, 0
    for inputs, _ in pairs(loader):
        if not is_finite(inputs):
            continue
        if not parts:
            one = first_of(inputs)
            form, wanted = _form(one), max(1, min(images, MOST_NUMBERS // _largest(dense, one)))
        elif _form(inputs) != form:
            continue
        parts.append(taken(inputs, 0, wanted - there, of=samples_of(inputs)))
        there += samples_of(parts[-1])
        if there >= wanted:
            break
    if not parts:
        raise DataError(
            "layers are reconstructed on images, and the loader gave none without nan: check what "
            "it reads, or leave reconstruction out (reconstruct=False)"
        )
    return parts


def first_of(inputs: Any) -> Any:
    """Give the first sample of a batch's inputs.

    Raises:
        DataError: If they cannot be taken apart by samples, and then not joined, either.
    """
    try:
        return taken(inputs, 0, 1, of=samples_of(inputs))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"layers are reconstructed on the pictures of several batches as one, and of these "
            f"{error}: let the loader give tensors [samples, ...], or leave reconstruction out "
            f"(reconstruct=False)"
        ) from error


def _form(inputs: Any) -> list[Any]:
    """Give what is the same in batches that can be joined."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    return [(type(part), part.shape[1:] if isinstance(part, Tensor) else None) for part in parts]


def _largest(dense: nn.Module, inputs: Any) -> int:
    """Count the numbers of the largest tensor that the network is given or a module gives."""
    counts = [int(one.numel()) for one in (inputs if isinstance(inputs, tuple) else (inputs,))]

    def count(_: nn.Module, __: object, given: object) -> None:
        counts.append(given.numel() if isinstance(given, Tensor) else 0)

    with evaluating(dense), _hooked() as hooked:
        for module in dense.modules():
            hooked(module.register_forward_hook(count))
        outputs_of(dense, inputs, device_of(dense))
    return max(counts)


def _fits(
    small: nn.Module,
    dense: nn.Module,
    graph: PruningGraph,
    kept: Mapping[str, Sequence[int]],
    *,
    sizes: Sequence[int],
    seed: int,
) -> list[_Fit]:
    """Give the layers that both networks have and whose weights can be fitted."""
    random = np.random.default_rng(seed)
    entries = kept_entries(dense, graph.groups, kept, ties=graph.ties)
    wholes, found = dict(dense.named_modules()), []
    uses = Counter(
        id(parameter) for module in small.modules() for parameter in module._parameters.values()
    )
    for name, module in small.named_modules():
        whole = wholes.get(name)
        if not (_is_plain(module) and _is_plain(whole)) or uses[id(module.weight)] > 1:
            continue
        if _is_depthwise(whole):  # it lost nothing that its other inputs could tell
            continue
        outputs = entries.get(f"{name}.weight", {}).get(0, np.arange(len(whole.weight)))
        rows = max(LEAST_ROWS, ROWS_PER_INPUT * module.weight[0].numel())
        given = torch.from_numpy(outputs)
        found.append(_Fit(name, whole, module, given, rows / sum(sizes), len(sizes), random))
    return found


def _is_plain(module: nn.Module | None) -> TypeGuard[Layer]:
    """Tell whether a layer is nothing but weights that multiply its inputs."""
    if not isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
        return False
    return module._parameters.get("weight") is not None and type(module).forward in FORWARDS


def _is_depthwise(layer: Layer) -> bool:
    return getattr(layer, "groups", 1) > 1 and layer.weight.shape[1] == 1


def _nothing() -> None:
    return None


@dataclass(eq=False)
class _Fit:
    """A layer in both networks, and what it gave in the dense one.

    Attributes:
        name: Its name in both.
        of_dense: The dense one.
        of_small: The one whose weights are fitted.
        kept: Which of the dense one's outputs it gives.
        rows: How many positions of every sample are looked at, about.
        parts: How many batches there are.
        random: Draws positions.
        samples: How many there are in the batch that is running.
        is_centred: Whether a batch norm takes the mean of what it gives.
        given: Says what the dense one gave last, while it is there.
        places: Per batch the positions, [rows of the layer's first axis, drawn].
        wanted: What the dense one gave there, [rows of the first axis, drawn, kept].
    """

    name: str
    of_dense: Layer
    of_small: Layer
    kept: Tensor
    rows: float
    parts: int
    random: np.random.Generator
    samples: int = 0
    is_centred: bool = False
    given: Callable[[], Tensor | None] = _nothing
    places: list[Tensor] = field(default_factory=list)
    wanted: list[Tensor] = field(default_factory=list)

    def remember(self, _: nn.Module, __: object, given: Tensor) -> None:
        """Keep what the dense layer gives at drawn positions."""
        self.given = weakref.ref(given)
        by_place = _by_place(self.of_dense, given)
        most = by_place.shape[1]
        count = min(math.ceil(self.rows * self.samples / len(by_place)), most)
        drawn = [self.random.permutation(most)[:count] for _ in range(len(by_place))]
        places = torch.from_numpy(np.stack(drawn)).to(given.device)
        self.places.append(places)
        at = places[..., None].expand(-1, -1, by_place.shape[2])
        self.wanted.append(by_place.gather(1, at)[..., self.kept.to(given.device)])

    def solve(self, inputs: Tensor) -> Reconstructed | None:
        """Give the layer new weights if they are better; None if it does not run once a batch."""
        if len(self.wanted) != self.parts or sum(map(len, self.places)) != len(inputs):
            return None
        if len(inputs) < HELD_OUT:
            return None  # too few to tell whether other weights are better
        groups = getattr(self.of_small, "groups", 1)
        x = _by_group(_seen(self.of_small, inputs, torch.cat(self.places)), groups)
        y = _by_group(torch.cat(self.wanted), groups)
        self.wanted.clear()
        weight, bias = self.of_small.weight, self.of_small.bias
        now = weight.reshape(groups, len(weight) // groups, -1).mT
        is_centred = self.is_centred or bias is not None
        at_once = max(1, MOST_AT_ONCE // x[0].numel())
        fitted = [
            _least_squares(*some, is_centred=is_centred)
            for some in zip(*(torch.split(part, at_once) for part in (x, y, now)), strict=True)
        ]
        wanted = max(sum(one.wanted for one in fitted), sys.float_info.min)
        before = sum(one.before for one in fitted) / wanted
        after = sum(one.after for one in fitted) / wanted
        if not (before > NEGLIGIBLE and after < before):
            return Reconstructed(self.name, before, before)
        weight.copy_(torch.cat([one.weights.mT for one in fitted]).reshape(weight.shape))
        if bias is not None:
            bias.copy_(torch.cat([one.bias.flatten() for one in fitted]))
        return Reconstructed(self.name, before, after)


def _look_for_norms(fits: Sequence[_Fit], _: nn.Module, given: tuple[Tensor, ...]) -> None:
    """Find the layer whose outputs a batch norm is given."""
    for fit in fits:
        if fit.given() is given[0]:
            fit.is_centred = True


def _by_place(layer: Layer, given: Tensor) -> Tensor:
    """Give what a layer gave as [first axis, places, outputs]."""
    if isinstance(layer, nn.Linear):
        return given.unsqueeze(1).flatten(1, -2)
    return given.flatten(2).transpose(1, 2)


def _by_group(parts: Tensor, groups: int) -> Tensor:
    """Give [first axis, drawn, numbers] as [groups, first axis, drawn, numbers of a group]."""
    return parts.reshape(*parts.shape[:2], groups, -1).movedim(2, 0)


def _seen(layer: Layer, inputs: Tensor, places: Tensor) -> Tensor:
    """Give what a layer multiplies at some places of its outputs.

    Args:
        layer: The layer.
        inputs: Of the layer.
        places: [first axis, drawn], numbers of places in the outputs.

    Returns:
        [first axis, drawn, inputs of one place], in the order of the flattened weight.
    """
    if isinstance(layer, nn.Linear):
        rows = inputs.unsqueeze(1).flatten(1, -2)
        return rows.gather(1, places[..., None].expand(-1, -1, rows.shape[2]))
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    extents = torch.tensor(padded.shape[2:])
    reach = torch.tensor(layer.dilation) * (torch.tensor(layer.kernel_size) - 1)
    sizes = (extents - reach - 1) // torch.tensor(layer.stride) + 1
    corners = torch.unravel_index(places, tuple(sizes.tolist()))
    flat, columns = padded.flatten(2), []
    for offset in product(*map(range, layer.kernel_size)):
        at = torch.zeros_like(places)
        for corner, step, stride, dilation, extent in zip(
            corners, offset, layer.stride, layer.dilation, padded.shape[2:], strict=True
        ):
            at = at * extent + corner * stride + step * dilation
        columns.append(flat.gather(2, at[:, None].expand(-1, flat.shape[1], -1)))
    return torch.stack(columns, dim=2).flatten(1, 2).transpose(1, 2)


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Weights of some groups, and how good they are on the samples that were held out.

    Attributes:
        wanted: The sum of the squares of what the layer should give there.
        before: That of what is missing from it with the weights that it had.
        after: The same with these.
        weights: [groups, inputs, outputs].
        bias: With which the mean is as it should be, [groups, outputs].
    """

    wanted: float
    before: float
    after: float
    weights: Tensor
    bias: Tensor


def _least_squares(x: Tensor, y: Tensor, now: Tensor, *, is_centred: bool) -> _Fitted:
    """Find better weights for some groups of a layer, each for itself.

    Args:
        x: What they are given, [groups, samples, places, inputs].
        y: What they should give, [groups, samples, places, outputs].
        now: Their weights, [groups, inputs, outputs]; a group keeps them where none are better.
        is_centred: Whether only differences from the mean matter.
    """
    x, y, now = x.double(), y.double(), now.double()
    held = torch.arange(x.shape[1]) % HELD_OUT == HELD_OUT - 1
    (x_fit, y_fit), (x_held, y_held) = (
        (x[:, chosen].flatten(1, 2), y[:, chosen].flatten(1, 2)) for chosen in (~held, held)
    )
    if is_centred:
        x_mean, y_mean = (fit.mean(1, keepdim=True) for fit in (x_fit, y_fit))
        x_held, y_held = x_held - x_mean, y_held - y_mean
        x_fit, y_fit = x_fit - x_mean, y_fit - y_mean
    gram, moved = x_fit.mT @ x_fit, x_fit.mT @ (y_fit - x_fit @ now)
    scale = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    unit = torch.eye(gram.shape[1]).to(gram)
    missing = y_held - x_held @ now
    before = missing.square().sum((1, 2))
    least, found = before, now
    for ridge in RIDGES:
        root, failed = torch.linalg.cholesky_ex(gram + ridge * scale * unit)
        change = torch.cholesky_solve(moved, root)
        left = (missing - x_held @ change).square().sum((1, 2))
        better = (failed == 0) & (left < least)  # not where it is nan
        least = torch.where(better, left, least)
        found = torch.where(better[:, None, None], now + change, found)
    bias = y.mean((1, 2)) - (x.mean((1, 2))[:, None] @ found).squeeze(1)
    wanted = float(y_held.square().sum())
    return _Fitted(wanted, float(before.sum()), float(least.sum()), found, bias)


@contextmanager
def _hooked() -> Iterator[Callable[[RemovableHandle], object]]:
    """Give what takes hooks, to remove them in the end."""
    with ExitStack() as hooks:
        yield lambda handle: hooks.callback(handle.remove)
