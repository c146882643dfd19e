"""Networks of any widths, kept in files, judged on the test pictures."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.nn.functional as F

from latprune.latency.onnx_export import export_network
from latprune.latency.onnx_sessions import open_session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

JUDGED_AT_ONCE = 100


def save_network(model: nn.Module, path: Path) -> None:
    """Write a network, whole or not at all: with its code's names, since anybody narrowed it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    torch.save(model, unfinished)
    unfinished.replace(path)


def load_network(path: Path) -> nn.Module:
    """Bring a network of this study back."""
    return cast("nn.Module", torch.load(path, weights_only=False))


def judge(
    model: nn.Module, images: Tensor, labels: Tensor, *, among: Sequence[int] | None = None
) -> dict[str, float]:
    """Give the share of pictures named rightly, in ONNX Runtime: as shipped, and quicker there.

    Args:
        model: The network.
        images: [n, 3, h, w]; n is a multiple of 100, which go through it at once.
        labels: [n].
        among: The classes that there are pictures of; None: all.

    Returns:
        `top1`; `top1_restricted`, where only the classes `among` are asked about; and among these
        the mean cross entropy, `test_loss`, which tells networks apart on fewer pictures.

    Raises:
        ValueError: If n is no multiple of 100.
    """
    if len(labels) % JUDGED_AT_ONCE:
        raise ValueError(f"judge a multiple of {JUDGED_AT_ONCE} pictures, not {len(labels)}")
    logits, right = _logits(model, images), labels.numpy()
    judged = {"top1": float((logits.argmax(axis=1) == right).mean())}
    known = np.arange(logits.shape[1]) if among is None else np.array(sorted(among))
    asked = logits[:, known]
    if among is not None:
        judged["top1_restricted"] = float((known[asked.argmax(axis=1)] == right).mean())
    places = torch.from_numpy(np.searchsorted(known, right))
    judged["test_loss"] = float(F.cross_entropy(torch.from_numpy(asked), places))
    return judged


def _logits(model: nn.Module, images: Tensor) -> np.ndarray:
    parts = torch.split(images, JUDGED_AT_ONCE)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_network(model, torch.zeros_like(parts[0]), path)
        session = open_session(path)
    (name,) = (put.name for put in session.get_inputs())
    return np.concatenate([session.run(None, {name: part.numpy()})[0] for part in parts])
