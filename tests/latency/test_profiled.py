from __future__ import annotations

import time
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latprune.latency import profiled
from latprune.latency.profiled import Profile, time_models

if TYPE_CHECKING:
    from latprune.latency.timing import Measurement

MB = 2**20


class Fake:
    """A layer of some bytes whose runs are written down; its kernel always takes 1 ms."""

    def __init__(self, name: str, events: list[str], *, warm: bool = False) -> None:
        self.name, self.warm, self._events = name, warm, events
        self._runs = 0

    def run(self) -> None:
        self._runs += 1
        self._events.append(self.name)

    def profile(self) -> Profile:
        self._events.append(f"end of {self.name}")
        return Profile([self.name], ["Conv"], np.ones((1, self._runs)))


def timed(
    sizes: dict[str, int], *, apart: int, warm: str = ""
) -> tuple[dict[str, Measurement], list[str]]:
    """Time layers called by a letter each; also what happened, in order."""
    events: list[str] = []

    def open_model(name: str) -> Fake:
        return Fake(name, events, warm=name in warm)

    models = [(name, name) for name in sizes]
    found = time_models(
        models, open_model, clock=time.perf_counter, size=sizes.__getitem__, apart=apart
    )
    return dict(found), events


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes were read beside the layers, each time."""
    found: list[int] = []

    def read(self: profiled._Between) -> None:
        found.append(self._more.nbytes)

    monkeypatch.setattr(profiled._Between, "read", read)
    return found


def test_what_the_other_layers_lack_is_read_between_two_runs(reads: list[int]) -> None:
    found, events = timed({"a": 4 * MB, "b": 3 * MB}, apart=10 * MB)

    assert set(reads) == {3 * MB}
    counted = found["a"].runs
    assert len(reads) >= counted
    assert events.count("a") >= counted


def test_as_many_layers_are_timed_together_as_the_network_reads_between_two_runs() -> None:
    _, events = timed(dict.fromkeys("abcd", 4 * MB), apart=9 * MB)

    assert events.index("end of b") < events.index("c")
    assert events.index("b") < events.index("end of a")


def test_a_layer_larger_than_that_is_timed_alone(reads: list[int]) -> None:
    found, _ = timed({"a": 12 * MB, "b": MB}, apart=9 * MB)

    assert found.keys() == {"a", "b"}
    assert {0, 8 * MB} == set(reads)


def test_nothing_is_read_for_layers_that_find_their_data_in_the_caches(reads: list[int]) -> None:
    found, _ = timed({"a": MB, "b": MB}, apart=9 * MB, warm="ab")

    assert not reads
    assert found["a"].apart == 0


def test_how_far_apart_its_runs_were_is_kept_with_a_layers_time() -> None:
    found, _ = timed({"a": MB, "b": MB}, apart=9 * MB, warm="a")

    assert (found["a"].apart, found["b"].apart) == (0, 9 * MB)


def test_nobody_reads_more_than_a_quarter_of_a_gigabyte() -> None:
    found, _ = timed({"a": MB}, apart=2**40)

    assert found["a"].apart == 256 * MB


class World:
    """A clock that runs drive on, and a machine that is half as quick now and then."""

    def __init__(self, *, slow: float, spell_s: float) -> None:
        self.now_s = 0.0
        self._slow, self._spell_s = slow, spell_s

    @property
    def slowness(self) -> float:
        # Spells of unequal length, so that rounds do not fall into step with them.
        place = self.now_s / self._spell_s % 3.7
        return self._slow if place < 1.3 else 1.0

    def perf_counter(self) -> float:
        return self.now_s

    def spend(self, cost_ms: float) -> float:
        """Run something that costs so much on the machine at its best; give what it took."""
        taken_ms = cost_ms * self.slowness
        self.now_s += taken_ms / 1e3
        return taken_ms


class Costing:
    """A layer that takes what its cost is in a world at that moment."""

    def __init__(self, world: World, cost_ms: float) -> None:
        self.name, self.warm = "layer", True
        self._world, self._cost_ms = world, cost_ms
        self._times_ms: list[float] = []

    def run(self) -> None:
        self._times_ms.append(self._world.spend(self._cost_ms))

    def profile(self) -> Profile:
        return Profile(["layer"], ["Conv"], np.array([self._times_ms]))


COSTS = {f"{cost} ms": cost for cost in (0.1, 0.3, 0.7, 1.0, 2.0, 4.0, 9.0)}


@pytest.mark.parametrize("spell_s", [0.1, 0.4, 2.0])
def test_a_machine_that_is_slow_for_moments_makes_no_single_layer_slow(
    spell_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(slow=1.6, spell_s=spell_s)
    monkeypatch.setattr(profiled, "time", world)

    found = dict(
        time_models(
            COSTS.items(),
            lambda cost_ms: Costing(world, cost_ms),
            clock=world.perf_counter,
            sentinel=("sentinel", 0.5),
            size=lambda _: 1,
        )
    )

    pace = found["sentinel"].median_ms / 0.5
    assert found.keys() == {"sentinel", *COSTS}
    for key, cost_ms in COSTS.items():
        assert found[key].median_ms / pace == pytest.approx(cost_ms, rel=0.01)


@pytest.mark.parametrize("warm", [True, False])
def test_a_layer_is_run_again_until_its_time_is_known(
    warm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(slow=1.0, spell_s=1.0)
    monkeypatch.setattr(profiled, "time", world)
    costs = {"steady": cycle([1.0]), "spread": cycle([1.0, 3.0, 2.0])}

    class Varying(Costing):
        def run(self) -> None:
            self._cost_ms = next(costs[self.name])
            super().run()

    def open_model(name: str) -> Costing:
        model = Varying(world, 1.0)
        model.name, model.warm = name, warm
        return model

    found = dict(
        time_models(
            [(name, name) for name in costs], open_model, clock=world.perf_counter, apart=100
        )
    )

    assert 10 <= found["steady"].runs < 14
    assert 24 <= found["spread"].runs < 28


def test_the_sentinel_is_timed_beside_layers_however_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(slow=1.0, spell_s=1.0)
    monkeypatch.setattr(profiled, "time", world)
    slow = Costing(world, 500.0)
    models = {"sentinel": Costing(world, 0.5), "slow": slow}

    found = dict(
        time_models(
            [("slow", "slow")],
            models.__getitem__,
            clock=world.perf_counter,
            sentinel=("sentinel", "sentinel"),
        )
    )

    assert found["sentinel"].runs >= 10
    assert found["slow"].median_ms == pytest.approx(500.0)
