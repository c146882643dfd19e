"""Saliencies by name, kept in files so that an interrupted study goes on."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

import latprune as lp
from latprune.saliency import probe, scored
from latprune.saliency.named import absolute
from latprune.tuning import cross_entropy, distillation

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from studies.subjects import Subject

UNBOUNDED = "unbounded_"  # before a criterion: relative, and in branches as everywhere


@dataclass(frozen=True)
class Scored:
    """A saliency and what it took."""

    saliency: lp.Saliency
    seconds: float


def score(
    criterion: str,
    subject: Subject,
    graph: lp.PruningGraph,
    settings: Mapping[str, Any],
    path: Path,
) -> Scored:
    """Score a network by a criterion, or read what was scored before."""
    of_channels, beside = _of_channels(criterion, path)
    if of_channels != criterion:  # valued another way, scored the same
        found = score(of_channels, subject, graph, settings, beside)
        trunk = {"trunk": 0.0} if criterion.startswith(UNBOUNDED) else {}
        valued = lp.relative(found.saliency, graph, **trunk)
        if graph.branches and not trunk:
            valued = _priced(valued, subject, graph, path)
        return Scored(replace(valued, criterion=criterion), found.seconds)
    if not is_scored(criterion, path):
        begin = time.process_time()
        saliency = _score(criterion, subject, graph, settings, path.parent)
        _write(Scored(saliency, time.process_time() - begin), path)
    return read(criterion, path)


def is_scored(criterion: str, path: Path) -> bool:
    """Tell whether `score` would read what was scored before."""
    return _of_channels(criterion, path)[1].is_file()


def _of_channels(criterion: str, path: Path) -> tuple[str, Path]:
    """Give the criterion that scores the channels, and its file."""
    name = absolute(criterion).removeprefix(UNBOUNDED)
    return name, path.with_name(path.name.replace(criterion, name))


def _priced(
    valued: lp.Saliency, subject: Subject, graph: lp.PruningGraph, path: Path
) -> lp.Saliency:
    """Measure what branches are worth, or read what was measured before."""
    prices = path.with_suffix(".gone.json")
    if not prices.is_file():
        priced = lp.price_branches(
            valued,
            subject.model,
            graph,
            subject.scoring,
            cross_entropy,
            distil=distillation,
        )
        prices.write_text(json.dumps(priced.gone))
    return replace(valued, gone=json.loads(prices.read_text()))


def _score(
    criterion: str,
    subject: Subject,
    graph: lp.PruningGraph,
    settings: Mapping[str, Any],
    folder: Path,
) -> lp.Saliency:
    model, batches = subject.model, subject.scoring
    if not criterion.startswith("probe"):
        return scored(criterion, model, graph, batches, cross_entropy)
    options: dict[str, Any] = {
        "order": score("fisher", subject, graph, settings, folder / "fisher.npz").saliency,
        "shares": settings["shares"],
        "images": settings["probe_images"],
    }
    if criterion == "probe_outputs":
        options["by"] = "outputs"
    found = probe(model, graph, batches, cross_entropy, **options)
    return lp.Saliency(found.scores, criterion=criterion, curves=found.curves)


def _write(found: Scored, path: Path) -> None:
    arrays = {f"scores/{group}": s for group, s in found.saliency.scores.items()}
    arrays |= {f"curves/{group}": c for group, c in found.saliency.curves.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name("unfinished.npz")
    np.savez(unfinished, seconds=np.array(found.seconds), **arrays)  # type: ignore[arg-type]
    unfinished.replace(path)


def read(criterion: str, path: Path) -> Scored:
    with np.load(path) as stored:
        parts = {
            part: {name.split("/", 1)[1]: stored[name] for name in stored if name.startswith(part)}
            for part in ("scores/", "curves/")
        }
        seconds = float(stored["seconds"])
    saliency = lp.Saliency(parts["scores/"], criterion=criterion, curves=parts["curves/"])
    return Scored(saliency, seconds)
