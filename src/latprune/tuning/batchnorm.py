"""After a cut, batch norms remember another network's statistics: take them anew."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from latprune.errors import DataError, NotFinite
from latprune.graph.shortcuts import Constant, settle
from latprune.modes import device_of, evaluating
from latprune.samples import outputs_of, pairs, samples_of, several, several_at_once

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor, nn


@torch.no_grad()
def recalibrate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    images: int = 1024,
    max_skips: int = 3,
) -> int:
    """Re-estimate the running mean and variance of every batch norm.

    Each becomes the plain average of its batches' statistics, all layers in one pass: a layer
    sees inputs that the layers before it normalised by the batch, as in training.

    Args:
        model: Changed in place. Only its batch norms are in training mode meanwhile (dropout is
            not); every mode and momentum is put back. Removed branches from now on add what they
            would with their own batch norms re-estimated. Without either nothing happens.
        loader: Batches of (images, labels), or of images alone, in random order: the first
            `images` must be a fair sample. Several inputs come in a tuple. Moved to the model's
            device. Lone images are joined into batches, one beside larger batches is left out.
        images: After which to stop, at the end of a batch.
        max_skips: How many batches may make statistics nan or infinite; they count for nothing.

    Returns:
        How many images were used.

    Raises:
        DataError: If the loader gives nothing, no batches of inputs, or first a single sample, of
            which a batch norm cannot take statistics.
        NotFinite: If more than `max_skips` batches are not finite, or all are; after any error
            norms and removed branches are as they were.
    """
    norms = [norm for norm in batch_norms(model) if norm.track_running_stats]
    if not norms:
        settle(model)
        return 0
    device = device_of(model)
    seen = skipped = 0
    with evaluating(model), settled(model), _averaging(norms):
        for inputs, _ in several((inputs, None) for inputs, _ in pairs(loader)):
            before = _buffers(norms)
            with several_at_once():
                outputs_of(model, inputs, device)
            if _finite(norms):
                seen += samples_of(inputs)
            else:
                skipped += 1
                _put_back(norms, before)
            if seen >= images or skipped > max_skips:
                break
        _check(seen, skipped, max_skips)
    return seen


def _check(seen: int, skipped: int, max_skips: int) -> None:
    """Make sure that there was something to average, and not too much that could not be."""
    if skipped > max_skips or (skipped and not seen):
        raise NotFinite(
            f"{skipped} batches make the statistics of batch norms nan or infinite, and "
            f"{max_skips if seen else 'not all'} may: check the inputs and the weights"
        )
    if not seen:
        raise DataError("batch norms need images to be re-estimated: the loader gave none")


def _buffers(norms: list[_BatchNorm]) -> list[dict[str, Tensor]]:
    return [{k: v.clone() for k, v in norm.named_buffers(recurse=False)} for norm in norms]


def _put_back(norms: list[_BatchNorm], buffers: list[dict[str, Tensor]]) -> None:
    for norm, of_norm in zip(norms, buffers, strict=True):
        for name, value in of_norm.items():
            norm.get_buffer(name).copy_(value)


def _finite(norms: list[_BatchNorm]) -> bool:
    buffers = (buffer for norm in norms for buffer in norm.buffers(recurse=False))
    return bool(torch.stack([buffer.isfinite().all() for buffer in buffers]).all())


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Give all batch norms of a network."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def by_batch(model: nn.Module) -> Iterator[None]:
    """Let batch norms of a network in evaluation mode use the batch, and leave them as they are."""
    norms = batch_norms(model)
    before = _buffers(norms)
    for norm in norms:
        norm.training = True
    try:
        yield
    finally:
        _put_back(norms, before)
        for norm in norms:
            norm.training = False


@contextmanager
def settled(model: nn.Module) -> Iterator[None]:
    """Let removed branches settle; on an error they are as they were."""
    drifts = [module.drift for module in model.modules() if isinstance(module, Constant)]
    before = [drift.clone() for drift in drifts]
    settle(model)
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for drift, value in zip(drifts, before, strict=True):
                drift.copy_(value)
        raise


@contextmanager
def _averaging(norms: list[_BatchNorm]) -> Iterator[None]:
    """Let norms gather a plain average from scratch; on an error they are as they were."""
    momenta = [norm.momentum for norm in norms]
    before = _buffers(norms)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.training = True
    try:
        yield
    except BaseException:
        _put_back(norms, before)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
