"""Small networks, one per mechanism that a graph must follow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class ConvNorm(nn.Sequential):
    def __init__(self, into: int, out: int, kernel: int = 3, *, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(into, out, kernel, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
        )


class Head(nn.Sequential):
    def __init__(self, into: int, out: int = 5) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(into, out))


class Plain(nn.Module):
    """Two convolutions and a head: the smallest network with two groups."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = ConvNorm(3, width)
        self.second = ConvNorm(width, 2 * width)
        self.head = Head(2 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x)))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """A trunk that several layers write."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 12)
        self.inner = ConvNorm(12, 10)
        self.outer = nn.Conv2d(10, 12, 1)
        self.head = Head(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.outer(self.inner(x)))  # type: ignore[no-any-return]


class Concatenated(nn.Module):
    """Two branches of different widths that one layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = ConvNorm(3, 6), ConvNorm(3, 10)
        self.norm = nn.BatchNorm2d(16)
        self.both = ConvNorm(16, 8)
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([self.left(x), self.right(x)], dim=1)
        return self.head(self.both(self.norm(joined)))  # type: ignore[no-any-return]


class PreNorm(nn.Module):
    """The norm comes before the convolution, behind a pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.norm = nn.BatchNorm2d(12)
        self.conv = nn.Conv2d(12, 10, 3, padding=1)
        self.head = Head(10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.pool(self.stem(x))))
        return self.head(self.conv(y))  # type: ignore[no-any-return]


class Depthwise(nn.Module):
    """An inverted residual with a squeeze-excite gate."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depth = ConvNorm(3, 12, 1), ConvNorm(12, 12, groups=12)
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.head = Head(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depth(self.expand(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head(x * gate)  # type: ignore[no-any-return]


class Grouped(nn.Module):
    """Many narrow groups, then few wide ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ConvNorm(3, 16)
        self.many = ConvNorm(16, 16, groups=8)
        self.few = ConvNorm(16, 24, groups=2)
        self.head = Head(24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.few(self.many(self.first(x))))  # type: ignore[no-any-return]


class Shuffled(nn.Module):
    """Channels are split, one half passes, and both are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.worked = ConvNorm(3, 16), ConvNorm(8, 8)
        self.head = Head(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        passed, worked = self.stem(x).chunk(2, dim=1)
        x = torch.cat([passed, self.worked(worked)], dim=1)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        return self.head(x.reshape(batch, channels, height, width))  # type: ignore[no-any-return]


class ShuffledAgain(nn.Module):
    """A trunk that is chunked and shuffled block by block, of a width that halves only once."""

    def __init__(self, half: int = 10, blocks: int = 3) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 2 * half)
        self.blocks = nn.ModuleList(ConvNorm(half, half) for _ in range(blocks))
        self.after = nn.Conv2d(2 * half, 8, 1)
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            passed, worked = x.chunk(2, dim=1)
            x = torch.cat([passed, block(worked)], dim=1)
            batch, channels, height, width = x.shape
            x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2)
            x = x.reshape(batch, channels, height, width)
        return self.head(self.after(x))  # type: ignore[no-any-return]


class Chunked(nn.Module):
    """Two halves of one layer go to two readers: wrong where positions are not followed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 16)
        self.left, self.right = ConvNorm(8, 6), ConvNorm(8, 6)
        self.head = Head(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u, v = self.stem(x).chunk(2, dim=1)
        return self.head(self.left(u) + self.right(v))  # type: ignore[no-any-return]


class Flattened(nn.Module):
    """A linear layer reads several entries per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(ConvNorm(3, 8), nn.AdaptiveAvgPool2d(3))
        self.hidden, self.out = nn.Linear(8 * 9, 20), nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = torch.flatten(self.features(x), 1)
        return self.out(F.relu(self.hidden(flat)))  # type: ignore[no-any-return]


class PaddedShortcut(nn.Module):
    """A shortcut without parameters that adds channels of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.back = ConvNorm(3, 8), ConvNorm(8, 12), nn.Conv2d(12, 16, 1)
        self.head = Head(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        shortcut = F.pad(x[:, :, ::1, ::1], (0, 0, 0, 0, 4, 4))
        return self.head(shortcut + self.back(self.wide(x)))  # type: ignore[no-any-return]


class LayerScaled(nn.Module):
    """A bare parameter, and a buffer, on the channel axis."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = ConvNorm(3, 8), nn.Conv2d(8, 8, 1)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.register_buffer("shift", torch.zeros(1, 8, 1, 1))
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.branch(x) * self.scale + self.shift)  # type: ignore[no-any-return]


class Transposed(nn.Module):
    """Down and up again; outputs an image."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 10, 4, 2, 1), nn.BatchNorm2d(10), nn.ReLU())
        self.up = nn.ConvTranspose2d(10, 6, 2, 2)
        self.out = nn.Conv2d(6, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(F.relu(self.up(self.down(x))))  # type: ignore[no-any-return]


class SharedLayer(nn.Module):
    """One module, called twice on inputs of different size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = ConvNorm(3, 8), ConvNorm(8, 8)
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.shared(self.stem(x))
        return self.head(self.shared(F.max_pool2d(x, 2)))  # type: ignore[no-any-return]


class Auxiliary(nn.Module):
    """A second head that only runs in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = ConvNorm(3, 8), ConvNorm(8, 8)
        self.head, self.extra = Head(8), Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        x = self.stem(x)
        out: torch.Tensor = self.head(self.body(x))
        return (out, self.extra(x)) if self.training else out


class FixedAuxiliary(nn.Module):
    """A second head whose code expects a width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = ConvNorm(3, 8), ConvNorm(8, 8)
        self.head, self.extra = Head(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        x = self.stem(x)
        out: torch.Tensor = self.head(self.body(x))
        return (out, self.extra(x.mean((2, 3)).view(-1, 8))) if self.training else out


class HardCoded(nn.Module):
    """Sizes that stand in the forward code: must be found out by trying."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.free = ConvNorm(3, 12), ConvNorm(6, 8)
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = torch.split(self.stem(x), 6, dim=1)
        return self.head(self.free(first + second))  # type: ignore[no-any-return]


class SoftmaxOverChannels(nn.Module):
    """Channels that are mixed without a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mixed, self.after = ConvNorm(3, 8), ConvNorm(8, 8), ConvNorm(8, 8)
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.after(torch.softmax(self.mixed(self.stem(x)), dim=1)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Fused queries, keys and values, whose sizes stand in attributes; no norm."""

    def __init__(self, *, heads: int = 4, head_dim: int = 6) -> None:
        super().__init__()
        self.heads, self.head_dim, self.inner = heads, head_dim, heads * head_dim
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.positions = nn.Parameter(torch.zeros(1, 9, 16))
        self.qkv = nn.Linear(16, 3 * self.inner)
        self.proj = nn.Linear(self.inner, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        x = x + self.proj(mixed.reshape(batch, tokens, self.inner))
        return self.head(x.mean(dim=1))  # type: ignore[no-any-return]


class AttentionByHand(nn.Module):
    """Separate queries, keys and values, a bias per head, and products written out."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.scale = 3, 0.5
        self.stem = nn.Conv2d(3, 12, 4, 4)
        self.q, self.k, self.v = (nn.Linear(12, 15) for _ in range(3))
        self.bias = nn.Parameter(torch.zeros(3, 9, 9))
        self.proj, self.head = nn.Linear(15, 12), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        batch, tokens, _ = x.shape
        q, k, v = (
            layer(x).reshape(batch, tokens, self.heads, -1).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        weights = torch.softmax(self.scale * q @ k.transpose(-2, -1) + self.bias, dim=-1)
        mixed = (weights @ v).transpose(1, 2).reshape(batch, tokens, -1)
        return self.head((x + self.proj(mixed)).mean(dim=1))  # type: ignore[no-any-return]


class AttentionBySizes(nn.Module):
    """Bare weights; the code takes widths from tensors, as functional attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 3
        self.stem = nn.Conv2d(3, 12, 4, 4)
        self.qkv_weight = nn.Parameter(torch.zeros(36, 12))
        self.qkv_bias = nn.Parameter(torch.zeros(36))
        self.proj, self.head = nn.Linear(12, 12), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        batch, tokens, width = x.shape
        bias, length = self.qkv_bias.clone(), self.qkv_bias.numel() // 3
        bias[length : 2 * length].zero_()
        qkv = F.linear(x, self.qkv_weight, bias)
        qkv = qkv.reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = torch.softmax((width // self.heads) ** -0.5 * q @ k.transpose(-2, -1), dim=-1)
        mixed = (weights @ v).transpose(1, 2).reshape(batch, tokens, width)
        return self.head((x + self.proj(mixed)).mean(dim=1))  # type: ignore[no-any-return]


class CrossCovariance(nn.Module):
    """Attention of channels to channels within each head."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 3
        self.stem = nn.Conv2d(3, 24, 4, 4)
        self.temperature = nn.Parameter(torch.ones(3, 1, 1))
        self.qkv = nn.Linear(24, 72)
        self.proj, self.head = nn.Linear(24, 24), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 4, 1).unbind(0)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        weights = torch.softmax(q @ k.transpose(-2, -1) * self.temperature, dim=-1)
        mixed = (weights @ v).permute(0, 3, 1, 2).reshape(batch, tokens, width)
        return self.head((x + self.proj(mixed)).mean(dim=1))  # type: ignore[no-any-return]


class TalkingHeads(nn.Module):
    """A linear layer mixes the heads before and after the softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.head_dim = 4, 6
        self.stem = nn.Conv2d(3, 12, 4, 4)
        self.qkv = nn.Linear(12, 72)
        self.before, self.after = nn.Linear(4, 4), nn.Linear(4, 4)
        self.proj, self.head = nn.Linear(24, 12), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = self.before((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1))
        weights = self.after(torch.softmax(scores, dim=2)).permute(0, 3, 1, 2)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        return self.head((x + self.proj(mixed)).mean(dim=1))  # type: ignore[no-any-return]


class SingleHead(nn.Module):
    """One head, whose queries and keys have a width apart from its values'."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 4, 4)
        self.q, self.k, self.v = (nn.Linear(12, 8) for _ in range(3))
        self.proj, self.head = nn.Linear(8, 12), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        q, k, v = (layer(x).unsqueeze(1) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        return self.head((x + self.proj(mixed)).mean(dim=1))  # type: ignore[no-any-return]


class ChunkedUnevenly(nn.Module):
    """Fourteen channels in three chunks: the last one is shorter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = ConvNorm(3, 14), ConvNorm(5, 5), ConvNorm(5, 5)
        self.head = Head(14)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second, third = self.stem(x).chunk(3, dim=1)
        first = self.first(first)
        second = self.second(first + second)
        return self.head(torch.cat([first, second, third], dim=1))  # type: ignore[no-any-return]


class SizedMask(nn.Module):
    """Multiplies by a constant as long as there are channels, which must be as many as it says."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 12
        self.stem, self.head = ConvNorm(3, 12), Head(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if x.shape[1] != self.channels:
            raise ValueError(f"{x.shape[1]} channels, not {self.channels}")
        return self.head(x * x.new_full((1, x.shape[1], 1, 1), 0.5))  # type: ignore[no-any-return]


class ToldSplit(nn.Module):
    """Unequal parts whose sizes stand in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.widths = (5, 7)
        self.stem, self.left, self.right = ConvNorm(3, 12), ConvNorm(5, 6), ConvNorm(7, 6)
        self.head = Head(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = torch.split(self.stem(x), list(self.widths), dim=1)
        return self.head(self.left(left) + self.right(right))  # type: ignore[no-any-return]


class ToldSlice(nn.Module):
    """The first channels pass, the others are worked on; an attribute says how many."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 4
        self.stem, self.worked = ConvNorm(3, 12), ConvNorm(8, 6)
        self.head = Head(10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        worked = self.worked(x[:, self.passed :])
        return self.head(torch.cat([x[:, : self.passed], worked], dim=1))  # type: ignore[no-any-return]


class ToldRest(nn.Module):
    """A part, and the rest: one size is the difference of two attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.worked = 12, 5
        self.stem, self.part, self.head = ConvNorm(3, 12), ConvNorm(5, 5), Head(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sizes = [self.worked, self.width - self.worked]
        worked, passed = torch.split(self.stem(x), sizes, dim=1)
        return self.head(torch.cat([self.part(worked), passed], dim=1))  # type: ignore[no-any-return]


class Gated(nn.Module):
    """One half of the channels gates the other one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 20, 3, padding=1), Head(10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.glu(self.stem(x), dim=1))  # type: ignore[no-any-return]


class Blurred(nn.Module):
    """One filter without parameters for all channels."""

    kernel: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.channels = 10
        self.stem, self.after = ConvNorm(3, 10), ConvNorm(10, 8)
        self.register_buffer("kernel", torch.full((1, 1, 3, 3), 1 / 9))
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel = self.kernel.expand(self.channels, 1, 3, 3)
        blurred = F.conv2d(self.stem(x), kernel, padding=1, groups=self.channels)
        return self.head(self.after(blurred))  # type: ignore[no-any-return]


class Upscaled(nn.Module):
    """Channels become pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.after = ConvNorm(3, 32), ConvNorm(8, 6)
        self.head = Head(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.after(F.pixel_shuffle(self.stem(x), 2)))  # type: ignore[no-any-return]


class Selected(nn.Module):
    """Branches are stacked, weighed by a softmax over branches, and summed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze = ConvNorm(3, 6), nn.Conv2d(8, 4, 1)
        self.first, self.second = ConvNorm(6, 8), ConvNorm(6, 8, 1)
        self.weigh, self.head = nn.Conv2d(4, 16, 1), Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        branches = torch.stack([self.first(x), self.second(x)], dim=1)
        gate = self.weigh(F.relu(self.squeeze(branches.sum(dim=1).mean((2, 3), keepdim=True))))
        batch, _, channels, *_ = branches.shape
        weights = torch.softmax(gate.view(batch, 2, channels, 1, 1), dim=1)
        return self.head((branches * weights).sum(dim=1))  # type: ignore[no-any-return]


class Normalised(nn.Module):
    """LayerNorm over tokens' channels and GroupNorm over feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.conv = nn.Conv2d(16, 12, 4, 4)
        self.norm, self.up, self.down = nn.LayerNorm(12), nn.Linear(12, 20), nn.Linear(20, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(F.relu(self.grouped(self.stem(x)))).flatten(2).transpose(1, 2)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x.mean(dim=1))  # type: ignore[no-any-return]


EVERY = (
    Attention,
    AttentionByHand,
    AttentionBySizes,
    CrossCovariance,
    TalkingHeads,
    SingleHead,
    ChunkedUnevenly,
    SizedMask,
    ToldSplit,
    ToldSlice,
    ToldRest,
    Gated,
    Blurred,
    Upscaled,
    Selected,
    Plain,
    Residual,
    Concatenated,
    Depthwise,
    Grouped,
    Shuffled,
    ShuffledAgain,
    Chunked,
    Flattened,
    PaddedShortcut,
    LayerScaled,
    Transposed,
    SharedLayer,
    Auxiliary,
    HardCoded,
    SoftmaxOverChannels,
)
