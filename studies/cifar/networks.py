"""Networks of any widths, kept in files, judged on the test pictures."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from latprune.latency.onnx_export import export_network
from latprune.latency.onnx_sessions import open_session
from studies.cifar_resnet import STAGES, resnet56

if TYPE_CHECKING:
    from torch import Tensor

JUDGED_AT_ONCE = 100
Stages = tuple[int, int, int]


def save_network(model: nn.Module, path: Path, *, stages: Stages = STAGES) -> None:
    """Write a network, whole or not at all; `stages` are those that its shortcuts pad to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    unfinished = path.with_suffix(".part")
    save_file(tensors, unfinished, metadata={"stages": json.dumps(stages)})
    unfinished.replace(path)


def load_network(path: Path) -> nn.Module:
    """Bring a network back, whoever chose its widths."""
    return shaped_as(load_file(path), resnet56(stages_of(path)))


def stages_of(path: Path) -> Stages:
    """Read what the shortcuts of a network in a file pad to."""
    with safe_open(path, "pt") as file:
        first, second, third = json.loads(file.metadata()["stages"])
    return first, second, third


def shaped_as(tensors: dict[str, Tensor], model: nn.Module) -> nn.Module:
    """Give a network the weights of one with fewer channels, and their shapes."""
    for name, tensor in tensors.items():
        owner_name, _, own = name.rpartition(".")
        owner = model.get_submodule(owner_name)
        if own in owner._parameters:
            owner.register_parameter(own, nn.Parameter(tensor))
        else:
            owner.register_buffer(own, tensor)
    for module in model.modules():
        _follow_weight(module)
    return model


def _follow_weight(module: nn.Module) -> None:
    """Let a layer's own account of its widths follow its weight."""
    if isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = module.weight.shape[:2]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.BatchNorm2d):
        module.num_features = len(module.weight)


def top1(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Give the share of pictures named rightly, in ONNX Runtime: as shipped, and quicker there.

    Raises:
        ValueError: If the pictures are not a multiple of 100, which go through it at once.
    """
    if len(labels) % JUDGED_AT_ONCE:
        raise ValueError(f"judge a multiple of {JUDGED_AT_ONCE} pictures, not {len(labels)}")
    session = _session(model)
    (name,) = (put.name for put in session.get_inputs())
    right = 0
    for start in range(0, len(labels), JUDGED_AT_ONCE):
        batch = slice(start, start + JUDGED_AT_ONCE)
        (logits,) = session.run(None, {name: images[batch].numpy()})
        right += int((np.asarray(logits).argmax(axis=1) == labels[batch].numpy()).sum())
    return right / len(labels)


def _session(model: nn.Module) -> Any:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_network(model, torch.zeros(JUDGED_AT_ONCE, 3, 32, 32), path)
        return open_session(path)
