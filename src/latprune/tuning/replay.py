"""The same batches again: order, augmentation and dropout follow from the seed and the position.

Nothing random is carried from one step to the next. So a run that continues from step 1,000 sees
what the unbroken run would have seen, without a random state being stored, and does not decode
the pictures that it skips.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import count, islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset

from latprune.errors import DataError
from latprune.samples import pair_of, pairs

if TYPE_CHECKING:
    from collections.abc import Callable

    Batch = tuple[Any, Any]

# What a seed is for, so that no two uses share a stream.
ORDER, PICTURE, FETCH, STEP = range(4)
ENDLESS = 1_000_000  # batches; nobody tunes for so long


class Batches(Protocol):
    """What `tune` trains on: a `DataLoader`, or anything that can be run through several times."""

    def __iter__(self) -> Iterator[Any]:
        """Give batches of (images, labels), one pass."""


class Replay(Protocol):
    """Epochs of batches that can be had again."""

    @property
    def steps(self) -> int:
        """Batches of an epoch, for one process."""

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Give the batches of an epoch from number `start` on; both are counted from 0."""


def replayed(loader: Batches, *, seed: int, process: int = 0, processes: int = 1) -> Replay:
    """Make a loader repeatable.

    Args:
        loader: With a `DataLoader` over an indexed dataset, skipped batches cost nothing and
            processes share each epoch's batches, unless its sampler gives each its own, as a
            `DistributedSampler` does. Anything else, such as a subclass of `DataLoader`
            with an `__iter__` of its own, is run through and skipped batches are thrown away; it
            has to give each process its own share.
        seed: Of everything random.
        process: Which of `processes` this is.
        processes: That train together.

    Raises:
        DataError: If there are no batches, or the loader is an iterator without a length, which is
            used up by the first pass.
    """
    if isinstance(loader, DataLoader) and _indexed(loader):
        replay: Replay = _Indexed(loader, seed=seed, process=process, processes=processes)
        return _checked(replay)
    known = _length(loader)
    if isinstance(loader, Iterator) and known is None:  # others begin anew, such as DALI's
        raise DataError(
            f"batches are run through several times, and a {type(loader).__name__} is used up "
            f"after the first: give a DataLoader, a list, or an object whose __iter__ begins anew"
        )
    replay = _RunThrough(loader, seed=seed)
    # Without a length it takes a whole pass to know, which not everybody needs.
    return replay if known is None else _checked(replay)


def counted(loader: Batches) -> Batches:
    """Give a loader a length, if it has none: how many batches it gives, once somebody asks."""
    if isinstance(loader, Iterator) or _length(loader) is not None:
        return loader
    return _Counted(loader)


class _Counted:
    """A loader without a length, and what was found when it was run through to be counted."""

    def __init__(self, loader: Batches) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loader)

    def __len__(self) -> int:
        return self._batches

    @cached_property
    def _batches(self) -> int:
        batches = sum(1 for _ in islice(self._loader, ENDLESS))
        if batches == ENDLESS:
            raise DataError(
                f"the loader has no length, and {ENDLESS} batches were not all that it gives: let "
                f"it end after an epoch, or tell its length by __len__"
            )
        return batches


def _length(loader: object) -> int | None:
    """Give a loader's length, if it tells one: that of an `IterableDataset` may not."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def _checked(replay: Replay) -> Replay:
    """Make sure that there are batches.

    Raises:
        DataError: If not.
    """
    if replay.steps < 1:
        raise DataError("there is nothing to tune on: the loader has no batch")
    return replay


def seed_everything(*position: int, device: torch.device | None = None) -> None:
    """Seed Python's, NumPy's and torch's generators from a position.

    Args:
        position: Whole numbers >= 0; other numbers give unrelated streams.
        device: Whose generator is seeded beside the CPU's.
    """
    seed = int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0] >> np.uint64(1))
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if device is None or device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextmanager
def own_chance(*, on_gpus: bool = False) -> Iterator[None]:
    """Draw from seeds of one's own: the caller's generators are then as they were.

    Args:
        on_gpus: Whether the accelerators' are kept, too.
    """
    of_python, of_numpy = random.getstate(), np.random.get_state()
    is_there = on_gpus and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count()) if is_there else ()):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def _apart(batches: Iterator[Any]) -> Iterator[Any]:
    """Fetch every batch by seeds of its own."""
    while True:
        with own_chance():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _indexed(loader: DataLoader[Any]) -> bool:
    """Whether a loader gives what its dataset and its order say, and does nothing besides."""
    if type(loader).__iter__ is not DataLoader.__iter__:
        return False
    return loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset)


class _Position(NamedTuple):
    """Where in the run a picture stands, and its index in the dataset."""

    epoch: int
    batch: int
    place: int
    index: Any


class _Indexed:
    def __init__(self, loader: DataLoader[Any], *, seed: int, process: int, processes: int) -> None:
        self._order = _Order(loader, seed=seed, process=process, processes=processes)
        self._loader: DataLoader[Any] = DataLoader(
            _SeededPictures(loader.dataset, seed),
            batch_sampler=self._order,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=_DeafToCtrlC(loader.worker_init_fn),
            multiprocessing_context=loader.multiprocessing_context,
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
        )
        self.steps = len(self._order)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        self._order.epoch, self._order.start = epoch, start
        with own_chance():
            batches = iter(self._loader)
        return pairs(_apart(batches))


class _Order(Sampler[list[_Position]]):
    """One process's batches of an epoch, in the order that the loader's own sampler draws."""

    def __init__(self, loader: DataLoader[Any], *, seed: int, process: int, processes: int) -> None:
        self.epoch, self.start = 0, 0
        self._loader, self._seed = loader, seed
        self._process, self._processes = process, processes
        by: Any = loader.batch_sampler
        self._drawers: list[Any] = [loader.sampler, by, getattr(by, "sampler", None)]
        # A sampler that draws one process's share, as `DistributedSampler`, is not split again.
        is_share = any(getattr(one, "num_replicas", 1) == processes for one in self._drawers)
        self._of = 1 if is_share else processes

    def __len__(self) -> int:
        known = _length(self._loader)
        batches = len(self._drawn(self.epoch)) if known is None else known
        return (batches + self._of - 1) // self._of

    def __iter__(self) -> Iterator[list[_Position]]:
        # Other epochs may be begun before this one is read to its end.
        return self._batches(self.epoch, self.start)

    def _batches(self, epoch: int, start: int) -> Iterator[list[_Position]]:
        batches = self._drawn(epoch)
        for step in range(start, len(self)):
            # The last round begins again at the front, so that every process takes each step.
            batch = step * self._processes + self._process
            indices = batches[(batch if self._of > 1 else step) % len(batches)]
            yield [_Position(epoch, batch, place, i) for place, i in enumerate(indices)]

    def _drawn(self, epoch: int) -> list[list[Any]]:
        with own_chance(), ExitStack() as stack:
            seed_everything(self._seed, ORDER, epoch)
            for drawer in self._drawers:
                if hasattr(drawer, "set_epoch"):
                    drawer.set_epoch(epoch)
                generator = getattr(drawer, "generator", None)
                if generator is not None:
                    stack.callback(generator.set_state, generator.get_state())
                    generator.manual_seed(torch.initial_seed())
            return [list(batch) for batch in self._loader.batch_sampler]  # type: ignore[union-attr]


class _SeededPictures(Dataset[Any]):
    """A dataset whose randomness depends on the position alone, in whichever worker."""

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self._dataset, self._seed = dataset, seed

    def __getitem__(self, position: _Position) -> Any:
        seed_everything(self._seed, PICTURE, *position[:3])
        return self._dataset[position.index]

    def __getitems__(self, positions: list[_Position]) -> Any:
        # A subset asks its dataset, if that reads several at once, and then for one after another.
        several = getattr(self._dataset, "__getitems__", None)
        if several is None or isinstance(self._dataset, Subset):
            return [self[position] for position in positions]
        seed_everything(self._seed, PICTURE, *positions[0][:3])
        return several([position.index for position in positions])


class _DeafToCtrlC:
    """Starts loader workers that leave Ctrl-C to the process that trains."""

    def __init__(self, then: Callable[[int], None] | None) -> None:
        self._then = then

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self._then is not None:
            self._then(worker)


class _RunThrough:
    def __init__(self, loader: Batches, *, seed: int) -> None:
        self._loader, self._seed = loader, seed

    @cached_property
    def steps(self) -> int:
        """Batches of an epoch; to count them may take one."""
        known = _length(self._loader)
        return len(_Counted(self._loader)) if known is None else known

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        with own_chance():
            seed_everything(self._seed, ORDER, epoch)
            batches = iter(self._loader)
        for number in count():
            with own_chance():
                seed_everything(self._seed, FETCH, epoch, number)
                batch = next(batches, None)
            if batch is None:
                return
            if number >= start:
                yield pair_of(batch)
