"""Keep a whole training run with its pruning in one file, and take it up again."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from latprune.gradual.facts import decoded, encoded
from latprune.gradual.processes import gathered, rank, wait_for_all
from latprune.states import state_of, tensors_of
from latprune.tuning.checkpoint import (
    Checkpoint,
    optimizer_tensors,
    read_checkpoint,
    restore_optimizer,
    write_checkpoint,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from latprune.gradual.live import LiveNetwork
    from latprune.tuning.companion import Stateful


TENSOR = "latprune.tensor"


def keep(folder: Path, pruning: Stateful, live: LiveNetwork, facts: Mapping[str, Any]) -> None:
    """Write a run where it stands; the first process does, for all of them."""
    encoded_facts = encoded(dict(facts))
    randoms = gathered(_random_state())
    if rank() == 0:
        state = pruning.state_dict()
        tensors = {f"pruning.{name}": t for name, t in state.pop("tensors").items()}
        for name, network in _networks(live).items():
            tensors |= {f"{name}.{key}": value for key, value in tensors_of(network).items()}
        tensors |= {f"wrappers.{name}": buffer for name, buffer in live.own_buffers().items()}
        slots = optimizer_tensors(live.optimizer)
        tensors |= {f"optimizer.{name}": value for name, value in slots.items()}
        stored = {
            "pruning": state,
            "optimizer": _settings(live.optimizer),
            "random": randoms,
            "facts": encoded_facts,
        }
        write_checkpoint(folder, Checkpoint(pruning.identity(), stored, tensors))
    wait_for_all()


def take_up(folder: Path, pruning: Stateful, live: LiveNetwork) -> dict[str, Any] | None:
    """Put a run back to where it was kept; None if there is none."""
    stored = read_checkpoint(folder, pruning.identity())
    wait_for_all()  # nobody may replace the file before everybody has read it
    if stored is None:
        return None
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in stored.tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    pruning.load_state_dict({**stored.state["pruning"], "tensors": parts.get("pruning", {})})
    for name, network in _networks(live).items():
        network.load_state_dict(state_of(parts[name]))
    for name, buffer in live.own_buffers().items():
        buffer.copy_(parts["wrappers"][name])
    restore_optimizer(live.optimizer, parts.get("optimizer", {}))
    _put_back(live.optimizer, stored.state["optimizer"])
    _set_random_state(stored.state["random"][rank()])
    facts: dict[str, Any] = decoded(stored.state["facts"])
    return facts


def _networks(live: LiveNetwork) -> dict[str, nn.Module]:
    return {"model": live.model, **{f"copy{i}": copy for i, copy in enumerate(live.copies)}}


def _settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Give what an optimizer holds beside its tensors, as JSON values.

    Raises:
        TypeError: If a setting is something that is not kept.
    """
    state = optimizer.state_dict()
    groups = [
        {
            name: _plain(value, where=f"{name!r} of the optimizer's group {number}")
            for name, value in group.items()
            if name != "params"
        }
        for number, group in enumerate(state["param_groups"])
    ]
    slots = {
        str(number): {n: v for n, v in of_one.items() if not isinstance(v, torch.Tensor)}
        for number, of_one in state["state"].items()
    }
    return {"groups": groups, "slots": slots}


def _put_back(optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]) -> None:
    for group, stored in zip(optimizer.param_groups, settings["groups"], strict=True):
        for name, plain in stored.items():
            now, value = group.get(name), _as_it_was(plain)
            if isinstance(now, torch.Tensor):
                now.copy_(torch.as_tensor(value))
            else:
                group[name] = value
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for owner, slots in settings["slots"].items():
        if slots:
            key: Any = parameters[int(owner)] if owner.isdigit() else owner
            optimizer.state[key].update(slots)


def _plain(value: Any, *, where: str) -> Any:
    """Give a setting as JSON values; `_as_it_was` gives it back."""
    if not isinstance(value, torch.Tensor):
        return encoded(value, where=where)
    dtype, device = str(value.dtype).removeprefix("torch."), str(value.device)
    return {TENSOR: value.tolist(), "dtype": dtype, "device": device}


def _as_it_was(value: Any) -> Any:
    if not isinstance(value, dict) or TENSOR not in value:
        return decoded(value)
    dtype = getattr(torch, value["dtype"])
    return torch.tensor(value[TENSOR], dtype=dtype, device=value["device"])


def _random_state() -> dict[str, Any]:
    """Give this process's random states as JSON values."""
    _, words, position, has_gauss, gauss = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [np.asarray(words).tolist(), position, has_gauss, gauss],
        "torch": torch.get_rng_state().tolist(),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state().tolist()
    return states


def _set_random_state(states: Mapping[str, Any]) -> None:
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    keys, *rest = states["numpy"]
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(torch.tensor(states["torch"], dtype=torch.uint8))
    if "cuda" in states:
        torch.cuda.set_rng_state(torch.tensor(states["cuda"], dtype=torch.uint8))
