"""Take batches apart by samples, whatever form their labels have."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from latprune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Batch = tuple[Any, Any]


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
            such as a detector's dicts of boxes.
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
        if len(value) == of and not _holds_batched(value, of):
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
            "sample: make batches larger"
        ) from error


def _is_for_all(value: Any) -> bool:
    """Whether a value is one for all samples."""
    if isinstance(value, Tensor):
        return value.dim() == 0
    return value is None or isinstance(value, bool | int | float | str)


def _is_batched(value: Any, of: int) -> bool:
    shape: Sequence[int] = getattr(value, "shape", ())
    return len(shape) > 0 and shape[0] == of


def _holds_batched(value: Sequence[Any], of: int) -> bool:
    """Whether all tensors and arrays that lie in a list as they are hold all samples."""
    arrays = [part for part in value if len(getattr(part, "shape", ())) > 0]
    return bool(arrays) and all(_is_batched(part, of) for part in arrays)
