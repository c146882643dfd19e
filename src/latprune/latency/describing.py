"""Layers in a few words: `conv 3x3 /2  64 → 128 at 28x28, norm, relu`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latprune.graph.layers import LayerShape


def kernel_words(shape: LayerShape) -> str:
    """Name the kernel: kind, size, and whatever is not 1 of stride, dilation and groups."""
    words = [shape.kind.replace("_", "-")]
    if shape.transposed:
        words.insert(0, "transposed")
    if shape.is_depthwise:
        words.insert(0, "depthwise")
    if shape.kernel:
        words.append(_by(shape.kernel))
    if set(shape.stride) - {1}:
        words.append(f"/{_one(shape.stride)}")
    if set(shape.dilation) - {1}:
        words.append(f"dilated {_one(shape.dilation)}")
    return " ".join(words)


def setting_words(shape: LayerShape) -> str:
    """Name all but the kernel and the widths: size, what the layer does at its end, neighbours."""
    rows = f"{shape.size[0]} row{'s' if shape.size[0] > 1 else ''}" if len(shape.size) == 1 else ""
    words = [f"at {rows or _by(shape.size)}" if shape.size else ""]
    parts = {"bias": shape.bias, "norm": shape.norm, "sum": shape.adds}
    words += [name for name, there in parts.items() if there]
    if shape.activation:
        words.append(shape.activation)
    neighbours = {"reads ≥ 0": shape.rectified, "before a depthwise": shape.to_depthwise}
    words += [name for name, there in neighbours.items() if there]
    return ", ".join(filter(None, words))


def shape_words(shape: LayerShape) -> str:
    """Name the kernel, the widths and the setting."""
    widths = f"{shape.in_channels} → {shape.out_channels}"
    return f"{kernel_words(shape)}  {widths} {setting_words(shape)}"


def _by(numbers: Sequence[int]) -> str:
    return "x".join(map(str, numbers))


def _one(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(set(numbers)) == 1 else _by(numbers)
