"""The same batches again, from anywhere, in any worker and on any number of processes."""

from __future__ import annotations

import random
from itertools import chain, repeat
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
)

from latprune.errors import DataError
from latprune.tuning import replay
from latprune.tuning.replay import Batches, counted, replayed


class Noisy(Dataset[tuple[Tensor, int]]):
    """Pictures that differ each time they are read, by three generators."""

    def __init__(self, length: int = 10) -> None:
        self.length, self.read = length, 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read += 1
        noise = [random.random(), np.random.rand(), torch.rand(1).item()]
        return torch.tensor(noise), index


class Stream(IterableDataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return 10

    def __iter__(self) -> Any:
        yield from ((torch.rand(3), index) for index in torch.randperm(10).tolist())


class Endless(Stream):
    """A stream that tells no length."""

    __len__ = None  # type: ignore[assignment]


class Drawing:
    """Batches that are drawn as they are asked for, without any of torch's loaders."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Any:
        return ((torch.rand(2), torch.ones(2)) for _ in range(4))


class Doubled(DataLoader[Any]):
    """A loader that does something to its batches."""

    def __iter__(self) -> Any:
        return ((2 * images, labels) for images, labels in super().__iter__())


class ReadAtOnce(Noisy):
    """Pictures that are read a batch at a time."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise AssertionError("one by one is slower")

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        return [super(ReadAtOnce, self).__getitem__(index) for index in indices]


class Threes:
    """An order of pictures that tells no length."""

    def __iter__(self) -> Any:
        order = torch.randperm(10)
        return iter([order[at : at + 3] for at in range(0, 10, 3)])


def shuffled(length: int = 10, **options: Any) -> DataLoader[Any]:
    return DataLoader(Noisy(length), batch_size=3, shuffle=True, **options)


def read(loader: Batches, epoch: int = 0, *, start: int = 0, **options: Any) -> list[list[float]]:
    """Give each batch as a flat list of what it holds."""
    replay = replayed(loader, seed=5, **options)
    batches = []
    for images, labels in replay.epoch(epoch, start=start):
        batches.append([*images.flatten().tolist(), *labels.tolist()])
        torch.rand(3 + start), random.random()  # what a step draws must not matter
    return batches


def loaders() -> list[Any]:
    weights = WeightedRandomSampler([1.0, 2.0] * 5, 10)
    return [
        pytest.param(shuffled, id="shuffled"),
        pytest.param(lambda: shuffled(generator=torch.Generator()), id="own generator"),
        pytest.param(lambda: DataLoader(Noisy(), batch_size=3, sampler=weights), id="weighted"),
        pytest.param(lambda: DataLoader(Stream(), batch_size=3), id="stream"),
        pytest.param(lambda: DataLoader(Endless(), batch_size=3), id="stream without length"),
        pytest.param(lambda: DataLoader(Noisy(), batch_sampler=Threes()), id="own order"),
        pytest.param(Drawing, id="own batches"),
        pytest.param(lambda: Doubled(Noisy(), batch_size=3, shuffle=True), id="own loader"),
        pytest.param(lambda: DataLoader(ReadAtOnce(), batch_size=3, shuffle=True), id="at once"),
    ]


@pytest.mark.parametrize("make", loaders())
def test_an_epoch_from_the_middle_is_the_epoch_without_its_front(make: Any) -> None:
    loader = make()
    whole = read(loader, 2)

    assert len(whole) == replayed(loader, seed=5).steps == 4
    assert read(loader, 2, start=2) == whole[2:]
    assert read(loader, 2, start=4) == []


@pytest.mark.parametrize("make", loaders())
def test_another_epoch_is_another_order(make: Any) -> None:
    assert read(make(), 0) != read(make(), 1)


def drawn() -> list[float]:
    """Give the next number of every generator."""
    return [random.random(), np.random.rand(), torch.rand(1).item()]


@pytest.mark.parametrize("make", loaders())
def test_whoever_draws_between_batches_draws_as_without_them(make: Any) -> None:
    loader = make()
    generator = getattr(loader, "generator", None) or torch.Generator()
    own = generator.get_state()
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    alone = [drawn() for _ in range(6)]
    random.seed(1), np.random.seed(2), torch.manual_seed(3)

    batches = replayed(loader, seed=5)
    beside = [drawn()]
    beside += [drawn() for _ in batches.epoch(1)]
    beside.append(drawn())

    assert beside == alone
    assert torch.equal(own, generator.get_state())


# Python 3.12 and later warn of any fork beside threads; these workers only draw numbers.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_change_nothing(persistent: bool) -> None:
    helped = replayed(shuffled(num_workers=2, persistent_workers=persistent), seed=5)
    for epoch, start in ((0, 0), (1, 0), (1, 2)):
        got = [[*x.flatten().tolist(), *y.tolist()] for x, y in helped.epoch(epoch, start=start)]
        assert got == read(shuffled(), epoch, start=start)


@pytest.mark.parametrize("make", loaders())
def test_epochs_that_are_open_at_once_do_not_disturb_each_other(make: Any) -> None:
    loader = make()
    replay = replayed(loader, seed=5)
    opened = [replay.epoch(0), replay.epoch(1, start=2)]

    found = [[[*x.flatten().tolist(), *y.tolist()] for x, y in batches] for batches in opened]

    assert found == [read(loader, 0), read(loader, 1, start=2)]


def test_skipped_pictures_are_not_read() -> None:
    loader = shuffled()
    read(loader, start=3)

    assert isinstance(loader.dataset, Noisy)
    assert loader.dataset.read == 1


def test_what_a_loader_of_ones_own_does_to_batches_is_done() -> None:
    pictures = TensorDataset(torch.arange(6.0), torch.arange(6))

    batches = replayed(Doubled(pictures, batch_size=3), seed=0).epoch(0)

    assert [images.tolist() for images, _ in batches] == [[0, 2, 4], [6, 8, 10]]


@given(length=st.integers(1, 40), processes=st.integers(1, 5), epoch=st.integers(0, 3))
def test_processes_share_an_epoch_and_take_equally_many_steps(
    length: int, processes: int, epoch: int
) -> None:
    alone = read(shuffled(length), epoch)
    shares = [
        read(shuffled(length), epoch, process=process, processes=processes)
        for process in range(processes)
    ]
    labels = {label for share in shares for batch in share for label in batch[-len(batch) // 4 :]}

    assert len({len(share) for share in shares}) == 1
    assert labels == set(range(length))
    for number, batch in enumerate(alone):
        assert shares[number % processes][number // processes] == batch


def distributed(process: int, processes: int) -> DataLoader[Any]:
    pictures = TensorDataset(torch.arange(24.0), torch.arange(24))
    sampler: DistributedSampler[Any] = DistributedSampler(
        pictures, num_replicas=processes, rank=process
    )
    return DataLoader(pictures, batch_size=3, sampler=sampler)


@pytest.mark.parametrize("processes", [1, 2])
def test_shares_that_a_sampler_gives_are_not_split_again_and_are_shuffled_anew(
    processes: int,
) -> None:
    loaders = [distributed(process, processes) for process in range(processes)]
    replays = [
        replayed(loader, seed=0, process=process, processes=processes)
        for process, loader in enumerate(loaders)
    ]

    first, second = (
        [torch.cat([labels for _, labels in one.epoch(epoch)]).tolist() for one in replays]
        for epoch in range(2)
    )

    assert {one.steps for one in replays} == {8 // processes}
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(24))
    assert first != second


def test_a_loader_without_a_length_is_counted_once() -> None:
    passes = []

    class Told:
        def __iter__(self) -> Any:
            passes.append(1)
            return iter([(torch.ones(1), torch.ones(1))] * 3)

    loader = counted(Told())

    assert [replayed(loader, seed=0).steps for _ in range(3)] == [3, 3, 3]
    assert len(passes) == 1


def test_a_loader_that_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class On:
        def __iter__(self) -> Any:
            return repeat((torch.ones(1), torch.ones(1)))

    monkeypatch.setattr(replay, "ENDLESS", 9)
    with pytest.raises(DataError, match="9 batches were not all"):
        _ = replayed(On(), seed=0).steps


def test_an_iterator_is_refused_before_it_is_used_up() -> None:
    with pytest.raises(DataError, match="a list_iterator is used up after the first"):
        replayed(iter([(torch.ones(1), torch.ones(1))]), seed=0)


def test_a_loader_that_is_its_own_iterator_and_begins_anew_can_be_run_through_twice() -> None:
    class Rewound:
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Any:
            self.given = 0
            return self

        def __next__(self) -> Any:
            if self.given == len(self):
                raise StopIteration
            self.given += 1
            return torch.full((1,), self.given), torch.ones(1)

    batches = replayed(Rewound(), seed=0)

    for epoch in range(2):
        assert [float(images) for images, _ in batches.epoch(epoch)] == [1, 2, 3]


def test_a_loader_without_batches_is_an_error() -> None:
    with pytest.raises(DataError, match="no batch"):
        replayed(DataLoader(Noisy(2), batch_size=3, drop_last=True), seed=0)
