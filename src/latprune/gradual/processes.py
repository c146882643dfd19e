"""Several processes that train one network: they score together and cut alike."""

from __future__ import annotations

import json
import os
import pickle
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from latprune.errors import LatpruneError, import_extra
from latprune.tuning.together import together

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

Made = TypeVar("Made")

PATIENCE = timedelta(hours=6)
"""How long processes wait for the first one, which measures and judges for all."""


def meet() -> None:
    """Join the other processes of `accelerate launch` or `torchrun`, if there are any.

    Raises:
        MissingExtra: If there are, and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Without being told, accelerate would have every process of a CPU train by itself.
        on_cpu = not torch.accelerator.is_available()
        import_extra("accelerate", "train").PartialState(cpu=on_cpu, timeout=PATIENCE)


def world() -> int:
    """Give the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Give the number of this process, from 0; that one writes files."""
    return 0 if world() == 1 else dist.get_rank()


def averaged(tensor: Tensor) -> Tensor:
    """Give the mean over all processes, the same bits in each."""
    if world() == 1:
        return tensor
    together = tensor.clone()
    dist.all_reduce(together)
    return together / world()


def agreed(decide: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Let the first process decide for all.

    The others may have measured other times or have other libraries, and must not cut otherwise.

    Args:
        decide: Gives JSON values.

    Returns:
        What it gave, after a trip through JSON text.

    Raises:
        LatpruneError: In every process, if it fails in the first.
    """
    decided: dict[str, Any] = json.loads(shared(lambda: json.dumps(decide())))
    return decided


def shared(make: Callable[[], Made]) -> Made:
    """Let the first process make something for all, that can be pickled.

    Raises:
        LatpruneError: In every process, if it fails in the first.
        ProcessLost: If another process is gone.
    """
    if world() == 1:
        return make()
    said: list[Any] = [None, None]
    failure: LatpruneError | None = None
    if rank() == 0:
        try:
            # The bytes of what goes to the others are made here: an error of pickling is one.
            said = [pickle.dumps(make()), None]
        except LatpruneError as error:
            failure, said = error, [None, f"in process 0: {error}"]
    with together(world()):
        dist.broadcast_object_list(said)
    if failure is not None:
        raise failure
    if said[1] is not None:
        raise LatpruneError(said[1])
    made: Made = pickle.loads(said[0])
    return made


def gathered(value: Any) -> list[Any]:
    """Give every process's value, in each."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Return when every process has come here."""
    if world() > 1:
        dist.barrier()


def wrapper_of(model: nn.Module) -> DistributedDataParallel | None:
    """Give the data-parallel wrapper that a cut has to tell, None where there is one process.

    Raises:
        ValueError: If several processes train, and not through a wrapper that can be told.
    """
    inner: nn.Module | None = model
    while inner is not None and not isinstance(inner, DistributedDataParallel):
        inner = inner._modules.get("_orig_mod") or inner._modules.get("module")
    if inner is None:
        if world() == 1:
            return None
        raise ValueError(
            f"{world()} processes train: give the network wrapped in DistributedDataParallel, as "
            f"the loop calls it (accelerate's prepare does it); FSDP and DeepSpeed hold weights "
            f"in pieces that cannot be cut"
        )
    if inner.mixed_precision is not None:
        raise ValueError(
            "DistributedDataParallel(mixed_precision=…) keeps casts of the dense weights: leave "
            "it out and train under torch.autocast"
        )
    if inner.process_group != dist.group.WORLD:
        raise ValueError(
            "a network is cut in all processes alike: wrap it for the default process group"
        )
    return inner


def rebuild(wrapper: DistributedDataParallel) -> None:
    """Have a wrapper lay out its gradient buckets again, for parameters of other shapes.

    It does what it does when it has been unpickled; the object stays the same.
    """
    hooks = list(wrapper._comm_hooks)
    state = wrapper.__getstate__()  # type: ignore[no-untyped-call]  # torch's own omission
    # The old reducer takes its hooks off the parameters when it goes.
    del wrapper.reducer, wrapper.logger
    wrapper.__setstate__(state)  # type: ignore[no-untyped-call]
    if wrapper.static_graph:
        # Its first backward pass reduces late; the new reducer has not had one.
        wrapper._static_graph_delay_allreduce_enqueued = False
    wrapper._comm_hooks.clear()
    for hook, hook_state in hooks:
        wrapper.register_comm_hook(hook_state, hook)
