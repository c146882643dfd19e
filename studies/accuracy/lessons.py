"""What every network of a seed is tuned with: the same augmented pictures and the same teaching.

Pictures are drawn and augmented before any run, pass after pass over the training set, until there
are as many as a run takes; what the dense network answers is computed once, too, and shared by all
networks of the seed.
"""

from __future__ import annotations

import itertools
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import latprune as lp
from latprune.tuning import distillation
from latprune.tuning.replay import replayed

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from studies.subjects import Subject

Taught = dict[str, Tensor]


class Lessons(Dataset[tuple[Tensor, Taught]]):
    """Pictures [n, 3, h, w], their labels [n] and the dense network's logits [n, classes]."""

    def __init__(self, images: Tensor, labels: Tensor, logits: Tensor) -> None:
        self.images, self.labels, self.logits = images, labels, logits

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Taught]:
        return self.images[index], {"labels": self.labels[index], "logits": self.logits[index]}


def lessons(subject: Subject, path: Path, *, count: int, batch_size: int, seed: int) -> Lessons:
    """Draw a seed's pictures and have the dense network answer, or read what was drawn before."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = _drawn(subject, count=count, batch_size=batch_size, seed=seed)
        unfinished = path.with_suffix(".part")
        save_file(drawn, unfinished)
        unfinished.replace(path)
    return Lessons(**load_file(path))


@torch.no_grad()
def _drawn(subject: Subject, *, count: int, batch_size: int, seed: int) -> Taught:
    dense, loader = subject.model.eval(), DataLoader(subject.tuning(), batch_size, shuffle=True)
    passes, there = replayed(loader, seed=seed), 0
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for images, labels in chain.from_iterable(map(passes.epoch, itertools.count())):
        parts.append((images, labels, dense(images.contiguous(memory_format=torch.channels_last))))
        if (there := there + len(labels)) >= count:
            break
    images, labels, logits = (torch.cat(part)[:count] for part in zip(*parts, strict=True))
    return {"images": images.contiguous(), "labels": labels, "logits": logits}


def loss(outputs: Tensor, taught: Taught, *, recipe: lp.Recipe) -> Tensor:
    """Mix the labels' word with the teacher's, as `lp.tune` does where the teacher is at hand."""
    labelled = lp.cross_entropy(outputs, taught["labels"])
    distilled = distillation(outputs, taught["logits"], temperature=recipe.temperature)
    return torch.lerp(labelled, distilled, recipe.distillation)


def batches(pool: Lessons, *, batch_size: int) -> DataLoader[Any]:
    return DataLoader(pool, batch_size, shuffle=True, drop_last=True)


def tune(model: nn.Module, pool: Lessons, *, batch_size: int, recipe: lp.Recipe) -> float:
    """Train a network in place; give the mean loss of the last epoch."""
    own = partial(loss, recipe=recipe)
    tuned = lp.tune(model, batches(pool, batch_size=batch_size), recipe=recipe, loss=own)
    return tuned.history[-1].loss
