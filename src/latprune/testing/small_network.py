"""A residual network with its channel groups written down by hand, and data for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latprune.graph.groups import ChannelGroup, Member, PruningGraph

if TYPE_CHECKING:
    from latprune.graph.groups import Role


class SmallNetwork(nn.Module):
    """A residual network of three convolutions, one of them without a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 4, 3, padding=1)
        self.outer = nn.Conv2d(4, 8, 1, bias=False)
        self.outer_norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [batch, 3, height, width]."""
        trunk = F.relu(self.stem_norm(self.stem(images)))
        branch = self.outer_norm(self.outer(F.relu(self.inner(trunk))))
        scores: Tensor = self.head(F.relu(trunk + branch).mean(dim=(2, 3)))
        return scores


def small_network(seed: int = 0) -> tuple[SmallNetwork, PruningGraph]:
    """Make a network with random weights and statistics, and its channel groups by hand."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmallNetwork()
        for norm in (model.stem_norm, model.outer_norm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(norm.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    norms: list[tuple[str, int, Role]] = [
        (f"{norm}.{entries}", 0, role)
        for norm in ("stem_norm", "outer_norm")
        for entries, role in _NORM_ROLES
    ]
    trunk = _group(
        "stem",
        8,
        [
            ("stem.weight", 0, "writes"),
            ("outer.weight", 0, "writes"),
            *norms,
            ("inner.weight", 1, "reads"),
            ("head.weight", 1, "reads"),
        ],
    )
    inner = _group(
        "inner",
        4,
        [("inner.weight", 0, "writes"), ("inner.bias", 0, "writes"), ("outer.weight", 1, "reads")],
    )
    return model, PruningGraph(layers=(), groups=(trunk, inner))


_NORM_ROLES: tuple[tuple[str, Role], ...] = (
    ("weight", "scale"),
    ("bias", "shift"),
    ("running_mean", "statistic"),
    ("running_var", "statistic"),
)


def _group(name: str, channels: int, members: list[tuple[str, int, Role]]) -> ChannelGroup:
    positions = np.arange(channels)[:, None]
    return ChannelGroup(
        name,
        channels,
        tuple(Member(parameter, axis, positions, role) for parameter, axis, role in members),
    )


def random_batches(count: int = 3, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Draw pairs of images [4, 3, 6, 6] and labels [4] for `SmallNetwork`."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(4, 3, 6, 6, generator=generator),
            torch.randint(5, (4,), generator=generator),
        )
        for _ in range(count)
    ]
