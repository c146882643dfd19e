"""A model's state as tensors alone, which files hold, also where a module keeps something else.

And what of its numbers no processor likes.

What a `get_extra_state` gives may be no tensor. It is written as the bytes of `torch.save`, and
read as weights are: numbers, strings, tensors, and lists, tuples and dicts of these.
"""

from __future__ import annotations

import copy
import io
import warnings
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latprune.errors import CannotSave, SubnormalWeights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_WIDE = (torch.float32, torch.float64, torch.bfloat16)
_WRITTEN = "."  # ends the name of what was no tensor; no module's tensor has such a name


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Give a model's state dict with bytes, by another name, in the place of what is no tensor.

    Raises:
        CannotSave: If something in it cannot be read back.
    """
    state: Mapping[str, Any] = model.state_dict()
    return {
        **{name: value for name, value in state.items() if isinstance(value, Tensor)},
        **{
            name + _WRITTEN: _as_bytes(model, name, value)
            for name, value in state.items()
            if not isinstance(value, Tensor)
        },
    }


def state_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Give the state dict that `tensors_of` made tensors of."""
    return {
        name.removesuffix(_WRITTEN): _read(tensor) if name.endswith(_WRITTEN) else tensor
        for name, tensor in tensors.items()
    }


def count_subnormals(model: nn.Module) -> int:
    """Count the weights and statistics that are nearer to zero than usual numbers get (1.2e-38).

    Long decay leaves such ones, and CPUs may compute with them many times slower. Half precision's
    are left out: they begin at 6e-5.
    """
    return sum(int(is_subnormal.sum()) for _, is_subnormal in _subnormals(model))


def drop_subnormals(model: nn.Module) -> int:
    """Set what `count_subnormals` counts to zero, in place; give how many there were."""
    found = 0
    for tensor, is_subnormal in _subnormals(model):
        tensor.masked_fill_(is_subnormal, 0)
        found += int(is_subnormal.sum())
    return found


def leave_out_subnormals(model: nn.Module) -> None:
    """Set what `count_subnormals` counts to zero, in place, and say so.

    Warns:
        SubnormalWeights: If there was any.
    """
    if count := drop_subnormals(model):
        remedy = "They are set to zero, in the dense network, too"
        warnings.warn(SubnormalWeights(count, remedy), stacklevel=3)


def _subnormals(model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Give tensors that hold some, and where."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dtype in _WIDE and tensor.layout == torch.strided and not tensor.is_meta:
                is_small = (tensor != 0) & (tensor.abs() < torch.finfo(tensor.dtype).tiny)
                if bool(is_small.any()):
                    yield tensor, is_small


def hand_on(model: nn.Module, other: nn.Module) -> None:
    """Give another model of the same modules what this one's state holds beside tensors."""
    rest = {n: value for n, value in model.state_dict().items() if not isinstance(value, Tensor)}
    if rest:  # beside all that is there: a module may look for what it wrote
        other.load_state_dict({**other.state_dict(), **copy.deepcopy(rest)})


@contextmanager
def tensors_alone(*models: nn.Module) -> Iterator[None]:
    """Leave out of state dicts what is no tensor, and further names of one that is there already.

    For those who change in place whatever a state dict holds: a tied weight once, not twice.
    """
    with ExitStack() as hooks:
        for model in models:
            register: Any = model._register_state_dict_hook
            hooks.callback(register(_drop_rest).remove)
        yield


def _drop_rest(model: nn.Module, state: dict[str, Any], *_: object) -> None:
    rest = {name for name, value in state.items() if not isinstance(value, Tensor)}
    for named in (model.named_parameters, model.named_buffers):
        rest |= dict(named(remove_duplicate=False)).keys() - dict(named()).keys()
    for name in rest & state.keys():
        del state[name]


def _as_bytes(model: nn.Module, name: str, value: Any) -> Tensor:
    written = io.BytesIO()
    try:
        torch.save(value, written)
        tensor = torch.frombuffer(bytearray(written.getvalue()), dtype=torch.uint8)
        _read(tensor)
    except Exception as error:  # whatever a stranger's object raises
        owner = name.rpartition(".")[0]
        kind = type(model.get_submodule(owner)).__name__
        where = f"{owner}, a {kind}," if owner else f"the model, a {kind},"
        raise CannotSave(
            f"the state of {where} holds {name!r}, a {type(value).__name__} that cannot be written "
            f"and read back: {error}. Let its get_extra_state give numbers, strings and tensors, "
            "or lists, tuples and dicts of them."
        ) from error
    return tensor


def _read(tensor: Tensor) -> Any:
    written = io.BytesIO(tensor.cpu().numpy().tobytes())
    return torch.load(written, weights_only=True, map_location="cpu")
