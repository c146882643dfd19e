"""Lend a model to something that needs another mode or place, and put it back as it was."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from latprune.closures import refer_to_copies
from latprune.copying import shared_parts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode; every module's own mode comes back afterwards.

    Modules whose `train` does more than set a flag, as adapters that merge their weights into the
    layer's for evaluation, are told by it.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            if module.training != training and _does_more(module):
                module.train(training)
        for module, training in modes:
            module.training = training


def _does_more(module: nn.Module) -> bool:
    """Whether a module has a `train` of its own."""
    return getattr(module.train, "__func__", None) is not nn.Module.train


def train_without_dropout(model: nn.Module) -> None:
    """Put a model into training mode, but for the modules that drop activations at random."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()


@contextmanager
def drawing_apart(model: nn.Module, *, seed: int | None = None) -> Iterator[None]:
    """Let a model draw random numbers of its own: the caller's go on as if it had drawn none.

    Args:
        model: Draws on the CPU and where it lies; generators of other accelerators are not touched,
            whose seeding would start them.
        seed: What it draws by; None: it goes on from the caller's numbers.
    """
    tensors = chain(model.parameters(), model.buffers())
    gpus = sorted({t.device.index for t in tensors if t.device.type == "cuda"})
    with torch.random.fork_rng(devices=gpus):
        if seed is not None:
            for generator in (torch.default_generator, *(_generator_of(gpu) for gpu in gpus)):
                generator.manual_seed(seed)
        yield


def _generator_of(gpu: int) -> torch.Generator:
    return torch.cuda.default_generators[gpu]


@contextmanager
def placed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a model to a device, channels last, and back afterwards, laid out as it was."""
    home = device_of(model)
    lay_last = {name for name, parameter in model.named_parameters() if _lies_last(parameter)}
    model.to(device)
    arrange(model, torch.channels_last)
    try:
        yield
    finally:
        model.to(home)
        arrange(model, torch.contiguous_format, besides=lay_last)


Module = TypeVar("Module", bound=nn.Module)


def copied(model: Module) -> Module:
    """Copy a module, also one that keeps tensors which something was derived from.

    `weight_norm` keeps the weight that it made, and modules that `forget` keep what they computed
    with: PyTorch refuses to copy such tensors with their history. The copy has forgotten them.
    Functions that refer to the module, as hooks do, refer to the copy. What cannot be copied at
    all, such as a lock or an open file, is the same one in the copy.

    Raises:
        CannotCopy: If a module refuses to be copied.
    """
    return _copied(model, {})


def _copied(model: Module, twins: Mapping[int, nn.Parameter]) -> Module:
    """Copy a module; some parameters' copies are there already, by the ids of what they are of."""
    derived: dict[int, Any] = {
        id(tensor): tensor.detach().clone()
        for module in model.modules()
        for tensor in _tensors(vars(module))
        if not tensor.is_leaf
    }
    derived.update(twins)
    copies: dict[int, Any] = dict(derived)
    try:
        twin = copy.deepcopy(model, copies)
    except Exception:  # whatever a stranger's class raises: what is in it tells which part does
        copies = derived | shared_parts(model, derived)
        twin = copy.deepcopy(model, copies)
    refer_to_copies(twin, model, copies)
    forget(twin)
    return twin


def sharing(model: Module) -> Module:
    """Copy a module, but for the memory of its parameters, which is most of a large one.

    For copies whose parameters nobody writes to in place. Of adapters that do, to merge their
    weights into the layer's for evaluation, and of all else that has a `train` of its own, `copied`
    copies everything; buffers are always copied.
    """
    if any(map(_does_more, model.modules())):
        return copied(model)
    parameters = [p for p in model.parameters() if type(p) is nn.Parameter]
    twins = {id(p): nn.Parameter(p.data, requires_grad=p.requires_grad) for p in parameters}
    return _copied(model, twins)


def forget(model: nn.Module) -> None:
    """Have modules drop what they keep from one evaluation to the next; they stay in their modes.

    timm's LeViT keeps its attention biases, of as many heads as there then are, until it is to be
    trained.
    """
    with evaluating(model):
        model.train()


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Give the tensors in lists, tuples and dicts, however nested."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def moved(value: Any, device: torch.device) -> Any:
    """Give labels on a device: tensors in lists, tuples and dicts, however nested; the rest as is.

    What is there already is not copied.
    """
    if isinstance(value, torch.Tensor):
        return on_device(value, device)
    if isinstance(value, dict):
        return {name: moved(part, device) for name, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [moved(part, device) for part in value]
        if isinstance(value, list):
            return parts
        # A named tuple takes its fields one by one.
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def on_device(value: Any, device: torch.device) -> Any:
    """Give a tensor on a device, or what moves to one as a tensor does.

    Nobody waits for what goes to an accelerator, whose next kernels do. The CPU would read what is
    not there yet.
    """
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=device.type != "cpu")
    return value.to(device)


def copies_of(inputs: Any) -> Any:
    """Copy the tensors in what a network is given: it may write into them, as `x *= 255` does."""
    return tree_map_only(torch.Tensor, torch.clone, inputs)


def device_of(model: nn.Module) -> torch.device:
    """Give the device of a model's first parameter; the CPU for one without."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _lies_last(parameter: torch.Tensor) -> bool:
    """Whether a parameter lies channels last, and not also as most do."""
    if parameter.dim() != 4 or parameter.is_contiguous():
        return False
    return parameter.is_contiguous(memory_format=torch.channels_last)


def arrange(
    model: nn.Module, memory_format: torch.memory_format, *, besides: Collection[str] = ()
) -> None:
    """Lay the 4-D parameters out, but some; `Module.to` would refuse a model with 5-D ones."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 4 and name not in besides:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)
