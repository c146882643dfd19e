"""Single layers, timed kernel by kernel, several in turns.

A runtime opens each layer as a session that can say what every kernel of every run took: where the
runtime knows that, the call is no part of a layer, nor are the neighbours that it stands between
(`onnx_layers`). Needs numpy alone, so that it runs on devices that have no torch.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import replace
from functools import cached_property
from itertools import dropwhile
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np

from latprune.latency.onnx_layers import CONTEXT
from latprune.latency.timing import Measurement, steady_median, summarise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from latprune.latency.timing import Clock

    Key = TypeVar("Key")
    Model = TypeVar("Model")

REFORMAT = "Reformat"
"""A kernel's operator that changes the layout, where a runtime has no name of its own for it."""

_LAYOUT = ("ReorderInput", "ReorderOutput", "Reorder", REFORMAT)
_AT_THE_END = (*_LAYOUT, "Transpose", "DequantizeLinear")
_LAYERS_AT_ONCE = 16
_BYTES_AT_ONCE = 256 * 2**20
_LEAST_RUNS, _MOST_RUNS = 10, 24
_LEAST_ROUNDS = 12  # for the sentinel's sake, where layers are soon known
_STEADY = 0.015  # standard error of a layer's median, relative, at which it is known well enough
_VISIT_S = 1e-3
_LEAST_REPEATS, _MOST_REPEATS = 2, 4  # one alone would cost as much again for its warm caches
_WARMUP_S = 0.1  # a processor that rested needs a while to reach its pace
_FINEST_MS = 5e-4  # profiles count whole microseconds
_BEAT_S = 0.01  # how long the sentinel waits for its next turn, about


class Profile(NamedTuple):
    """What the kernels of a session took.

    Attributes:
        names: Of the kernels, in order of execution.
        operators: Of the kernels.
        times_ms: [kernels, runs].
    """

    names: Sequence[str]
    operators: Sequence[str]
    times_ms: np.ndarray


class Profiled(Protocol):
    """A session that remembers what its kernels took.

    Attributes:
        warm: Whether its layer, inside a network, finds most of its data in the caches.
    """

    warm: bool

    def run(self) -> None:
        """Run once, always on the same data."""

    def profile(self) -> Profile:
        """End the session and give the times of all its runs."""


def random_input(sizes: Sequence[int]) -> np.ndarray:
    """Give data to run a layer on: float32, of these sizes, always the same."""
    values = np.random.default_rng(0).standard_normal(4001, dtype=np.float32)
    return np.resize(values, tuple(sizes))


def time_models(
    models: Iterable[tuple[Key, Model]],
    open_model: Callable[[Model], Profiled],
    *,
    clock: Clock,
    sentinel: tuple[Key, Model] | None = None,
    size: Callable[[Model], int] = len,  # type: ignore[assignment]
    apart: int = 0,
) -> Iterator[tuple[Key, Measurement]]:
    """Time models of single layers, several sessions in turns.

    Args:
        models: Pairs of a key and a model, such as the bytes that `layer_model` gives.
        open_model: Opens one of them.
        clock: Leaves out what is no cost of a model, such as waiting for a processor.
        sentinel: One more, to be timed between the runs of the others, every 10 ms or so: how
            quick the machine was at that very moment does not count for them.
        size: Bytes that a model takes: not too many are open at a time.
        apart: How many bytes are read between two runs of a layer that is not warm, at most
            `_BYTES_AT_ONCE`; 0: as many as the others take that are open.

    Yields:
        Every key once, in order, with what its layer takes without its neighbours; and the
        sentinel's before those that it was timed beside.
    """
    warmup_s = _WARMUP_S
    apart = min(apart, _BYTES_AT_ONCE)
    most = apart or _BYTES_AT_ONCE
    for chunk in _chunks(models, [] if sentinel is None else [sentinel], size, most):
        between = _Between(apart, sum(size(model) for _, model in chunk))
        yield from _time_together(
            chunk,
            open_model,
            clock,
            between,
            has_sentinel=sentinel is not None,
            warmup_s=warmup_s,
        )
        warmup_s = 0.0


def _chunks(
    models: Iterable[tuple[Key, Model]],
    always: Sequence[tuple[Key, Model]],
    size: Callable[[Model], int],
    most: int,
) -> Iterator[list[tuple[Key, Model]]]:
    """Give a few models at a time, those that `always` come in front; no part is empty.

    More than `most` bytes only where one alone takes more.
    """
    chunk: list[tuple[Key, Model]] = []
    taken, begun = 0, False
    for key, model in models:
        if chunk and (len(chunk) == _LAYERS_AT_ONCE or taken + size(model) > most):
            yield [*always, *chunk]
            chunk, taken, begun = [], 0, True
        chunk.append((key, model))
        taken += size(model)
    if chunk or (always and not begun):
        yield [*always, *chunk]


def _time_together(
    models: Sequence[tuple[Key, Model]],
    open_model: Callable[[Model], Profiled],
    clock: Clock,
    between: _Between,
    *,
    has_sentinel: bool,
    warmup_s: float,
) -> Iterator[tuple[Key, Measurement]]:
    begin = time.perf_counter()
    layers = [_Layer(open_model(model), clock) for _, model in models]
    while time.perf_counter() - begin < warmup_s:
        layers[0].warm_up()
    pace = _Pace(layers[0] if has_sentinel else None)
    order = layers[has_sentinel:]
    shuffle = random.Random(0).shuffle
    for number in range(_MOST_RUNS):  # a layer that is not warm has one run in each
        if number >= _LEAST_ROUNDS and all(layer.steady for layer in order):
            break
        shuffle(order)
        if any(not (layer.warm or layer.steady) for layer in order):
            between.read()
        for layer in order:
            if not layer.steady:
                layer.visit(pace.now())
        pace.beat()
    for (key, _), layer in zip(models, layers, strict=True):
        found = layer.measured(pace if layer in order else None)
        yield key, found if layer.warm else replace(found, apart=between.apart)


class _Between:
    """What is read between two runs of a layer: the others that are open, and some more."""

    def __init__(self, apart: int, others: int) -> None:
        self.apart = apart
        self._more = np.ones(max(0, apart - others) // 4, dtype=np.float32)

    def read(self) -> None:
        """Bring into the caches what the others do not."""
        self._more.sum()


class _Layer:
    """One layer's session, the waiting seen from outside, and what its profile says."""

    def __init__(self, session: Profiled, clock: Clock) -> None:
        self._session = session
        self.warm = session.warm
        self._clock = clock
        self._counts: list[bool] = []
        self._begins_s: list[float] = []
        self._waits_ms: list[float] = []
        self._busy_ms: list[float] = []
        self._paces_ms: list[float] = []
        self._visits: list[int] = []  # where each begins among the runs that count
        self._run()
        begin = time.perf_counter()
        self.warm_up()
        repeats = math.ceil(_VISIT_S / (time.perf_counter() - begin))
        self._repeats = min(max(repeats, _LEAST_REPEATS), _MOST_REPEATS)

    def warm_up(self) -> None:
        """Run once without it counting."""
        self._run()

    def visit(self, pace_ms: float = 1.0) -> float:
        """Run a few times in a row, behind one run that fills the caches, or once without it.

        Args:
            pace_ms: What the sentinel takes just now, seen from outside.

        Returns:
            What a run took, seen from outside.
        """
        self._visits.append(sum(self._counts))
        if not self.warm:
            self._run(pace_ms)
            return self._busy_ms[-1]
        self._run()
        for _ in range(self._repeats):
            self._run(pace_ms)
        return float(np.median(self._busy_ms[-self._repeats :]))

    def _run(self, pace_ms: float | None = None) -> None:
        begin, own = time.perf_counter(), self._clock()
        self._session.run()
        passed, busy = time.perf_counter() - begin, self._clock() - own
        self._begins_s.append(begin)
        self._waits_ms.append(max(0.0, passed - busy) * 1e3)
        self._busy_ms.append(busy * 1e3)
        self._counts.append(pace_ms is not None)
        self._paces_ms.append(pace_ms or 1.0)

    @property
    def steady(self) -> bool:
        """Whether there are enough runs, and they agree well enough, seen from outside."""
        timed = np.array(self._busy_ms)[self._counted] / np.array(self._paces_ms)[self._counted]
        if _LEAST_RUNS <= len(timed) < _MOST_RUNS:
            return steady_median([timed.tolist()], tolerance=_STEADY)
        return len(timed) >= _MOST_RUNS

    def measured(self, pace: _Pace | None = None) -> Measurement:
        """End the profile and give the time of the layer's kernels, without the waiting."""
        if pace is None:
            return summarise(self._samples_ms)
        return summarise(self._samples_ms * pace.factors(np.array(self._begins_s)[self._counted]))

    @cached_property
    def visits(self) -> tuple[np.ndarray, np.ndarray]:
        """End the profile; give, per visit, when it was and what the layer took, the median."""
        begins_s = np.split(np.array(self._begins_s)[self._counted], self._visits[1:])
        samples_ms = np.split(self._samples_ms, self._visits[1:])
        return np.array([*map(np.mean, begins_s)]), np.array([*map(np.median, samples_ms)])

    @cached_property
    def _samples_ms(self) -> np.ndarray:
        samples = time_inside(self._session.profile(), waits_ms=np.array(self._waits_ms))
        counted: np.ndarray = samples[self._counted]
        return counted

    @property
    def _counted(self) -> np.ndarray:
        return np.array(self._counts, dtype=bool)


class _Pace:
    """How quick the machine is from moment to moment, by a layer that is run again and again.

    On a shared machine that changes from one moment to the next, by half. What is timed beside such
    a change would come out too quick or too slow by as much.

    Args:
        sentinel: The layer; None: nobody knows the pace.
    """

    def __init__(self, sentinel: _Layer | None) -> None:
        self._sentinel = sentinel
        self._now_ms = 1.0
        self._due_s = -math.inf

    def now(self) -> float:
        """What the sentinel takes just now, seen from outside, in ms."""
        if time.perf_counter() >= self._due_s:
            self.beat()
        return self._now_ms

    def beat(self) -> None:
        """Run the sentinel."""
        if self._sentinel is not None:
            self._now_ms = self._sentinel.visit()
            self._due_s = time.perf_counter() + _BEAT_S

    def factors(self, times_s: np.ndarray) -> np.ndarray:
        """Give what brings runs at these times to the sentinel's usual pace."""
        if self._sentinel is None:
            return np.ones(len(times_s))
        when_s, taken_ms = self._sentinel.visits
        factors: np.ndarray = self._sentinel.measured().median_ms / np.interp(
            times_s, when_s, taken_ms
        )
        return factors


def time_inside(profile: Profile, *, waits_ms: np.ndarray) -> np.ndarray:
    """Add up what a layer costs inside a network.

    Args:
        profile: Of all runs.
        waits_ms: How long each run waited for a processor, [runs].

    Returns:
        Milliseconds [runs]: without the layer's neighbours, without conversions of the layout, or
        to float, at either end, and without the waiting. That lies in the longest kernel of a run,
        since it is what made that kernel so long; or in none, where even that took no longer.
    """
    own = profile.times_ms.copy()
    own[own.argmax(axis=0), np.arange(own.shape[1])] -= np.where(
        waits_ms < own.max(axis=0), waits_ms, 0.0
    )
    samples: np.ndarray = np.maximum(own[kernels_inside(profile)].sum(axis=0), _FINEST_MS)
    return samples


def kernels_inside(profile: Profile) -> list[int]:
    """Give the places of the kernels that are a layer's own, in order of execution."""
    between = _between_conversions(profile.operators)
    return [kernel for kernel in between if not _beside(profile, kernel)]


def _beside(profile: Profile, kernel: int) -> bool:
    """Whether a kernel is a neighbour's, or brings what a neighbour quantised into its layout."""
    if profile.operators[kernel] == "Transpose" and kernel > 0:
        kernel -= profile.operators[kernel - 1] == "QuantizeLinear"
    return profile.names[kernel].startswith(CONTEXT)


def _between_conversions(operators: Sequence[str]) -> list[int]:
    """The kernels without those at either end that bring the data into another form."""
    kernels = list(range(len(operators)))
    for form in (_LAYOUT, _AT_THE_END):
        kernels = _without_first(kernels, operators, form)[::-1]
    return kernels


def _without_first(
    kernels: Sequence[int], operators: Sequence[str], form: Sequence[str]
) -> list[int]:
    return list(dropwhile(lambda kernel: operators[kernel] in form, kernels))
