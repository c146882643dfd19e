"""One file that holds a run where it stands: tensors, and JSON in the metadata. No pickle.

A new checkpoint takes the place of the old one in one step, so that there is always a whole one.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from latprune.errors import DamagedFile, ModelMismatch
from latprune.files import replacing
from latprune.states import tensors_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

FILE = "last.safetensors"
KEY = "latprune.checkpoint"
WEIGHTS = "the hash of the weights"
"""Of a run: those that it began with."""
REACHED = "reached"
"""Of a state: hashes of the weights that the run has come to, which may go on, too."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run where it stands.

    Attributes:
        run: What tells this run from others; must be equal to continue it.
        state: Where it stands, as JSON values.
        tensors: By name.
    """

    run: Mapping[str, Any]
    state: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in the place of the last one, all or nothing.

    Raises:
        OSError: If it cannot be written, as on a full disk; the last one stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Clones, since the format refuses tensors that share memory, as tied weights do.
    own = {k: v.detach().cpu().clone().contiguous() for k, v in checkpoint.tensors.items()}
    facts = {"run": checkpoint.run, "state": checkpoint.state}
    with replacing(folder / FILE) as unfinished, unfinished.open("wb") as file:
        file.write(to_bytes(own, metadata={KEY: json.dumps(facts)}))
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(folder: Path, run: Mapping[str, Any]) -> Checkpoint | None:
    """Read the last checkpoint of this run.

    Returns:
        None if the folder has none.

    Raises:
        DamagedFile: If the file cannot be read.
        ModelMismatch: If it belongs to another run; says in what it differs.
    """
    if folder.is_file():
        raise ModelMismatch(f"{folder} is a file: give the folder that keeps the run")
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[KEY])
            found = Checkpoint(facts["run"], facts["state"], tensors={})
            wanted = json.loads(json.dumps(run))
            if wanted.get(WEIGHTS) in found.state.get(REACHED, []):
                wanted[WEIGHTS] = found.run[WEIGHTS]
            _check_same_run(path, found.run, wanted)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise DamagedFile(
            f"the checkpoint {path} cannot be read ({error}). Delete it to start afresh."
        ) from error
    return Checkpoint(found.run, found.state, tensors)


def hash_of_weights(model: nn.Module) -> str:
    """Give twelve digits that tell a network's names, shapes and values from others."""
    found = hashlib.sha256()
    for name, tensor in tensors_of(model).items():
        found.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        whole = tensor.detach().cpu().contiguous().view(-1)
        found.update(whole.view(torch.uint8).numpy().data)
    return found.hexdigest()[:12]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Give an optimizer's state as tensors by `number of the parameter.slot`.

    Some optimizers keep what belongs to no parameter, by a name in the place of the number.
    """
    return {
        f"{number}.{slot}": value
        for number, slots in optimizer.state_dict()["state"].items()
        for slot, value in slots.items()
        if isinstance(value, torch.Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int | str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        owner, _, slot = name.partition(".")
        if owner.isdigit():
            of_one = _laid_out_like(parameters[int(owner)], value)
            state.setdefault(int(owner), {})[slot] = of_one
        else:
            state.setdefault(owner, {})[slot] = value.clone()
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Give a value the parameter's memory format: sums in another order round differently."""
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _check_same_run(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differences = [
        f"{name} is {found.get(name)!r} there and {wanted.get(name)!r} here"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if differences:
        raise ModelMismatch(
            f"the checkpoint {path} belongs to another run: {'; '.join(differences)}. "
            f"Continue with what it was begun with, or delete it to start afresh."
        )
