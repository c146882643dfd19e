"""Networks with attention: fused or separate weights, heads by attribute or by size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


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


class SharedKeys(nn.Module):
    """Two heads share one of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.shared, self.head_dim = 4, 2, 6
        self.stem, self.q = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 24)
        self.k, self.v = nn.Linear(16, 12), nn.Linear(16, 12)
        self.proj, self.head = nn.Linear(24, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        batch, tokens, _ = x.shape
        q = self.q(x).view(batch, tokens, self.heads, self.head_dim).transpose(1, 2)
        k, v = (
            layer(x).view(batch, tokens, self.shared, self.head_dim).transpose(1, 2)
            for layer in (self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2)
        return self.head((x + self.proj(mixed.flatten(2))).mean(dim=1))  # type: ignore[no-any-return]


class AttentionByMultiples(nn.Module):
    """Queries, keys and values lie side by side in every head, three times as wide as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.head_dim = 3, 4
        self.stem, self.qkv = nn.Conv2d(3, 10, 4, 4), nn.Conv2d(10, 36, 1)
        self.proj, self.head = nn.Conv2d(12, 10, 1), nn.Linear(10, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        batch, _, height, width = x.shape
        qkv = self.qkv(x).view(batch, self.heads, self.head_dim * 3, -1)
        q, k, v = qkv.chunk(3, dim=2)
        weights = torch.softmax(0.5 * q.transpose(-2, -1) @ k, dim=-1)
        mixed = (v @ weights.transpose(-2, -1)).reshape(batch, -1, height, width)
        return self.head((x + self.proj(mixed)).mean((2, 3)))  # type: ignore[no-any-return]


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
