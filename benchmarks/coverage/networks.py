"""Which networks are examined: the list in `networks.toml`; `libraries` builds them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from benchmarks.coverage.libraries import BUILDERS, Library

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

LIST = Path(__file__).with_name("networks.toml")
BATCH = 2

Task = Literal["classification", "segmentation", "detection"]


@dataclass(frozen=True)
class Network:
    """One network of the list; its fields are those of `networks.toml`."""

    name: str
    library: Library
    family: str
    size: int
    task: Task = "classification"
    options: Mapping[str, Any] = field(default_factory=dict)
    watch: tuple[str, ...] = ()
    reparameterise: bool = False

    @property
    def key(self) -> str:
        """The name of its record: unlike every other one's."""
        return f"{self.library}:{self.name}" + ("+reparameterised" if self.reparameterise else "")

    def build(self) -> nn.Module:
        """Make the network, with random weights, in evaluation mode."""
        model = BUILDERS[self.library](self.name, self.options)
        if self.reparameterise:
            model = _reparameterised(model)
        return model.eval()

    def example(self) -> torch.Tensor:
        """Give an input, float [batch, 3, size, size], in [0, 1] as detectors want images."""
        return torch.rand(BATCH, 3, self.size, self.size)


def networks() -> tuple[Network, ...]:
    """Read the list.

    Raises:
        ValueError: If two entries have the same key.
    """
    found = tuple(_read(tomllib.loads(LIST.read_text())["family"]))
    keys = [network.key for network in found]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise ValueError(f"{LIST.name} names these more than once: {', '.join(sorted(twice))}")
    return found


def _read(families: list[dict[str, Any]]) -> Iterator[Network]:
    for entry in families:
        fields = {**entry, "family": entry["name"], "watch": tuple(entry.get("watch", ()))}
        for name in fields.pop("networks"):
            yield Network(**{**fields, "name": name})


def _reparameterised(model: nn.Module) -> nn.Module:
    from timm.utils.model import reparameterize_model

    merged: nn.Module = reparameterize_model(model)
    return merged
