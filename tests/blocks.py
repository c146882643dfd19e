"""Small residual networks, one per way in which a branch may add to its trunk, or may not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.networks import ConvNorm, Head


class Basic(nn.Module):
    """A block that ends in a ReLU, after a trunk of nothing or of a convolution."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(into, 6, 3, 1 if into == out else 2, 1, bias=False), nn.BatchNorm2d(6)
        )
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Sequential(nn.Conv2d(6, out, 3, padding=1), nn.BatchNorm2d(out))
        self.down: nn.Module | None = None
        if into != out:
            self.down = nn.Sequential(nn.Conv2d(into, out, 1, 2), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.second(self.relu(self.first(x)))
        branch += x if self.down is None else self.down(x)
        return self.relu(branch)  # type: ignore[no-any-return]


class Inverted(nn.Module):
    """An inverted residual with a gate, and nothing after the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand, self.depth = ConvNorm(width, 10, 1), ConvNorm(10, 10, groups=10)
        self.squeeze, self.excite = nn.Conv2d(10, 4, 1), nn.Conv2d(4, 10, 1)
        self.project = nn.Sequential(nn.Conv2d(10, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depth(self.expand(x))
        y = y * self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        return x + self.project(y)  # type: ignore[no-any-return]


class Mixer(nn.Module):
    """Two branches in one block, each behind a norm, channels last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up1, self.down1 = nn.Linear(width, 10), nn.Linear(10, width)
        self.mlp = nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width))
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.down1(F.gelu(self.up1(self.norm1(x))))
        return x + self.scale * self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Blocks(nn.Module):
    """A stem, blocks and a head."""

    def __init__(self, *blocks: nn.Module, width: int = 8, out: int = 8) -> None:
        super().__init__()
        self.stem, self.blocks = ConvNorm(3, width), nn.Sequential(*blocks)
        self.head = Head(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)))  # type: ignore[no-any-return]


class Residuals(Blocks):
    """Basic blocks, one of them between widths."""

    def __init__(self) -> None:
        super().__init__(Basic(8, 8), Basic(8, 12), Basic(12, 12), out=12)


class Inverteds(Blocks):
    """Inverted residuals."""

    def __init__(self) -> None:
        super().__init__(Inverted(8), Inverted(8))


class Mixers(nn.Module):
    """Blocks of two branches over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.Sequential(Mixer(8), Mixer(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(x.mean(dim=1))  # type: ignore[no-any-return]


class BothSides(nn.Module):
    """A sum of two branches without a trunk: one of them has to stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 8)
        self.left = nn.Sequential(ConvNorm(8, 6), nn.Conv2d(6, 8, 1))
        self.right = nn.Sequential(ConvNorm(8, 10), nn.Conv2d(10, 8, 1))
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(self.left(x) + self.right(x))  # type: ignore[no-any-return]


class Multiplied(nn.Module):
    """A branch that multiplies what it stands beside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 8)
        self.branch = nn.Sequential(ConvNorm(8, 6), nn.Conv2d(6, 8, 1))
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x * self.branch(x))  # type: ignore[no-any-return]


class Bordered(nn.Module):
    """A branch whose constant is another one at the border of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 8)
        self.branch = nn.Sequential(
            ConvNorm(8, 6), nn.Conv2d(6, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        )
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.branch(x))  # type: ignore[no-any-return]


class Activated(nn.Module):
    """A trunk that its branch changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.block = Preactivated()
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.stem(x)))  # type: ignore[no-any-return]


class Preactivated(nn.Module):
    """A branch that starts with an activation in place."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.ReLU(inplace=True), nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)  # type: ignore[no-any-return]


class Leaky(Basic):
    """A block that adds its trunk in place, and ends in no ReLU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.second(self.relu(self.first(x)))
        branch += x
        return F.leaky_relu(branch, 0.1)


class Leakies(Blocks):
    """Blocks that end in a leaky ReLU."""

    def __init__(self) -> None:
        super().__init__(Leaky(8, 8), Leaky(8, 8))


class Counted(nn.ReLU):
    """Counts how often such modules run, copies of them too."""

    runs = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Counted.runs += 1
        return super().forward(x)


class Stage(nn.Module):
    """Adds to its trunk what its blocks give."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 4, 1), Counted(), nn.Conv2d(4, 4, 1)) for _ in range(blocks)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)  # type: ignore[no-any-return]


class ReadTwice(nn.Module):
    """A branch whose inside something else needs, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = ConvNorm(3, 8), ConvNorm(8, 6)
        self.outer, self.other = nn.Conv2d(6, 8, 1), nn.Conv2d(6, 8, 1)
        self.head = Head(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.inner(x)
        return self.head(torch.cat([x + self.outer(y), self.other(y)], dim=1))  # type: ignore[no-any-return]


class Asking(Blocks):
    """A network that asks its first block for more than its result."""

    def __init__(self) -> None:
        super().__init__(Basic(8, 8), Basic(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.blocks
        x = first(self.stem(x))
        return self.head(second(x) if first.down is None else x)  # type: ignore[no-any-return]


class AskingToTrain(Blocks):
    """A network that asks its first block for more than its result in training mode."""

    def __init__(self) -> None:
        super().__init__(Basic(8, 8), Basic(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.blocks
        x = first(self.stem(x))
        return self.head(second(x) if not self.training or first.down is None else x)  # type: ignore[no-any-return]


class Keeping(Blocks):
    """A network that a hook of its first block leads back to, and that keeps what this gave."""

    def __init__(self) -> None:
        super().__init__(Basic(8, 8), Basic(8, 8))
        self.kept: list[torch.Tensor] = []
        self.blocks[0].register_forward_hook(self.keep)

    def keep(self, _module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        self.kept.append(output)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept.clear()
        x = self.blocks(self.stem(x))
        return self.head(x + self.kept[0].flip(1))  # type: ignore[no-any-return]


class Told(Basic):
    """A block whose branch is scaled and shifted by a condition, given or left with it."""

    left: torch.Tensor

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.film = nn.Linear(5, 16)

    def forward(self, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        branch = self.second(self.relu(self.first(x)))
        told = getattr(self, "left", None) if condition is None else condition
        if told is not None:
            scale, shift = self.film(told.to(x.dtype))[..., None, None].chunk(2, dim=1)
            branch = branch * scale + shift
        return x + branch  # type: ignore[no-any-return]


class ToldByKeyword(nn.Module):
    """Gives its block a condition beside its input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.condition, self.block = ConvNorm(3, 8), Head(8), Told()
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(self.block(x, condition=self.condition(x)))  # type: ignore[no-any-return]


class ToldByAttribute(ToldByKeyword):
    """Leaves a condition, one for all samples, with its block."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        self.block.left = self.condition(x).mean(dim=0, keepdim=True)
        return self.head(self.block(x))  # type: ignore[no-any-return]


WITH_BRANCHES = (Residuals, Inverteds, Mixers, BothSides, Leakies)
WITHOUT = (Multiplied, Bordered, ReadTwice, Activated)
TOLD = (ToldByKeyword, ToldByAttribute)
