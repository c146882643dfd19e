"""What a batch is, and how it comes apart by samples, whatever form its labels have."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latprune.errors import DataError
from latprune.modes import copies_of, on_device

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import nn

    Batch = tuple[Any, Any]

MOST_TOLD = 4  # parts of a batch, in an error
TOGETHER = 32  # lone samples that make a batch, of which batch norms can take statistics


def pairs(batches: Iterable[Any]) -> Iterator[Batch]:
    """Give every batch as (inputs, labels); see `pair_of`."""
    return map(pair_of, batches)


def pair_of(batch: Any) -> Batch:
    """Read a batch.

    Args:
        batch: A pair (inputs, labels), the inputs a tensor [n, ...] or several in a tuple or list,
            for networks that take several, the labels of any form; or inputs alone, as a tensor or
            a list of one.

    Returns:
        Inputs, several of them in a tuple, and labels; None where there are none.

    Raises:
        DataError: If it is anything else.
    """
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, tuple | list) and len(batch) in (1, 2):
        inputs, labels = batch if len(batch) == 2 else (*batch, None)
        parts = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
        if parts and all(map(_moves, parts)):
            return (parts if isinstance(inputs, tuple | list) else inputs), labels
    raise DataError(
        f"a batch is a pair (inputs, labels), its inputs a tensor or a tuple of tensors, and the "
        f"loader gave {described(batch)}. Let it give pairs, such as by a collate_fn of its own; "
        f"labels may have any form that a loss= of your own takes"
    )


def several(batches: Iterable[Any]) -> Iterator[Batch]:
    """Give batches of which batch norms can take statistics.

    Over one position there is no variance in a batch of one, and over a few there is little. So
    lone samples that can be are joined, about `TOGETHER` at a time. One that is left is given as it
    is by a loader that gives no others, and left out beside larger batches.

    Args:
        batches: As `pair_of` reads them.

    Raises:
        DataError: If one is no batch.
    """
    lone: list[Batch] = []
    only_lone = True
    for batch in pairs(batches):
        if samples_of(batch[0]) > 1:
            only_lone = False
            yield batch
            continue
        if lone and not _joins(lone[-1], batch):
            yield from _together(lone, only_lone=only_lone)
            lone = []
        lone.append(batch)
        if len(lone) == TOGETHER + 2:  # so that none is ever left over
            yield from _together(lone[:TOGETHER], only_lone=only_lone)
            lone = lone[TOGETHER:]
    yield from _together(lone, only_lone=only_lone)


def _together(lone: Sequence[Batch], *, only_lone: bool) -> Iterator[Batch]:
    """Give lone samples as a batch; a single one if there are no others."""
    if len(lone) > 1:
        inputs, labels = zip(*lone, strict=True)
        yield joined(inputs), _joined_labels(labels)
    elif only_lone:
        yield from lone


def _joins(one: Batch, other: Batch) -> bool:
    """Whether two lone samples are of one form, and can be given as one batch."""
    of_one, of_other = (
        [*(inputs if isinstance(inputs, tuple) else (inputs,)), labels]
        for inputs, labels in (one, other)
    )
    return len(of_one) == len(of_other) and all(map(_are_alike, of_one, of_other))


def _are_alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        forms = {(part.shape, part.dtype, part.device) for part in (one, other)}
        return len(forms) == 1 and one.shape[:1] == (1,)
    if isinstance(one, list) and isinstance(other, list):  # an entry per sample
        return len(one) == len(other) == 1 and not hasattr(one[0], "shape")
    return one is None and other is None


def _joined_labels(parts: Sequence[Any]) -> Any:
    if parts[0] is None:
        return None
    if isinstance(parts[0], list):
        return [own for part in parts for own in part]
    return torch.cat(list(parts))


def outputs_of(model: nn.Module, inputs: Any, device: torch.device) -> Any:
    """Give what a network on a device makes of a batch's inputs, which stay as they are."""
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    return model(*(on_device(one, device) for one in copies_of(given)))


def joined(parts: Sequence[Any]) -> Any:
    """Give the inputs of several batches as those of one."""
    if isinstance(parts[0], tuple):
        return tuple(joined(of_batches) for of_batches in zip(*parts, strict=True))
    return parts[0] if _is_for_all(parts[0]) else torch.cat(list(parts))


def is_finite(inputs: Any) -> bool:
    """Say whether a batch's inputs hold neither nan nor infinity."""
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    return all(bool(t.isfinite().all()) for t in tensors if isinstance(t, Tensor))


def samples_of(inputs: Any) -> int:
    """Count the samples of a batch's inputs: a tensor [n, ...], or several of them."""
    return len(inputs[0] if isinstance(inputs, list | tuple) else inputs)


def at_most(batch: Batch, count: int) -> Batch:
    """Give a batch's first samples; the whole batch where its labels cannot be taken apart."""
    inputs, labels = batch
    samples = samples_of(inputs)
    if samples <= count:
        return inputs, labels
    try:
        own = taken(labels, 0, count, of=samples)
    except ValueError:
        return inputs, labels
    return taken(inputs, 0, count, of=samples), own


def taken(value: Any, begin: int, end: int, *, of: int) -> Any:
    """Give the inputs or labels of some samples.

    Args:
        value: None, or a tensor or array [of, ...]; dicts, lists and tuples of these, however
            nested, with what is the same for all samples; or a list with one entry per sample,
            such as a detector's dicts of boxes. As many equal tensors [of, k, ...] as there are
            samples, in a list, are taken for one of each.
        begin: The first sample.
        end: Behind the last one.
        of: Samples there are.

    Raises:
        ValueError: If it is not known what belongs to which sample.
    """
    if _is_for_all(value):
        return value
    if _is_batched(value, of):
        return value[begin:end]
    if isinstance(value, dict):
        return {name: taken(part, begin, end, of=of) for name, part in value.items()}
    if isinstance(value, list | tuple):
        if len(value) == of and _has_one_each(value):
            return value[begin:end]
        parts = [taken(part, begin, end, of=of) for part in value]
        if isinstance(value, list):
            return parts
        # A named tuple takes its fields one by one.
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    shape = getattr(value, "shape", None)
    what = type(value).__name__ if shape is None else f"{type(value).__name__} {list(shape)}"
    raise ValueError(f"a {what} does not say what belongs to which of {of} samples")


@contextmanager
def several_at_once() -> Iterator[None]:
    """Say what is needed where torch says that a batch norm was given one value per channel.

    Raises:
        DataError: In its place.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise DataError(
            "a batch norm behind a pooling needs batches of two samples or more, and was given one "
            "sample: make batches larger, or have the loader leave a lone last one out "
            "(drop_last=True)"
        ) from error


def _moves(value: Any) -> bool:
    """Whether a value is a tensor, or goes to a device as one does."""
    return isinstance(value, Tensor) or (hasattr(value, "to") and not isinstance(value, dict))


def described(value: Any) -> str:
    """Say what something is: its type, and what it holds."""
    kind = type(value).__name__
    if isinstance(value, dict):
        return f"a {kind} of {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, tuple | list):
        shown = [described(part) for part in value[:MOST_TOLD]]
        more = [f"{len(value) - MOST_TOLD} more"] if len(value) > MOST_TOLD else []
        return f"a {kind} of {len(value)} ({', '.join([*shown, *more])})"
    shape = getattr(value, "shape", None)
    return f"a {kind}" if shape is None else f"a {kind} {list(shape)}"


def _is_for_all(value: Any) -> bool:
    """Whether a value is one for all samples."""
    if isinstance(value, Tensor):
        return value.dim() == 0
    return value is None or isinstance(value, bool | int | float | str)


def _is_batched(value: Any, of: int) -> bool:
    shape: Sequence[int] = getattr(value, "shape", ())
    return len(shape) > 0 and shape[0] == of


def _has_one_each(value: Sequence[Any]) -> bool:
    """Whether a list as long as there are samples has an entry for each, or entries that hold all.

    Tensors and arrays that are all as long as there are samples may be either. A tuple holds things
    of all, as several inputs, and so does a list whose tensors are unlike, as classes beside boxes.

    Raises:
        ValueError: If nothing tells.
    """
    of, arrays = len(value), [part for part in value if len(getattr(part, "shape", ())) > 0]
    if hasattr(value, "_fields"):
        return False
    if not arrays or not all(_is_batched(part, of) for part in arrays):
        return True
    forms = {(tuple(array.shape), str(array.dtype)) for array in arrays}
    if of == 1 or isinstance(value, tuple) or len(forms) > 1 or len(arrays) < of:
        return False
    if arrays[0].ndim > 1:
        return True
    raise ValueError(
        f"a list of {of} tensors [{of}] may hold one for each of {of} samples, or {of} things of "
        f"all of them"
    )
