"""Whole networks are timed at the pace of a machine that changes it."""

from __future__ import annotations

import pytest

from latprune.latency.networks import WHOLE_S, time_whole


class Machine:
    """Runs a network of so many milliseconds, slower by half in spells of so many seconds."""

    def __init__(self, network_ms: float, spell_s: float) -> None:
        self.now_s, self.runs = 0.0, 0
        self._network_ms, self._spell_s = network_ms, spell_s

    @property
    def slowness(self) -> float:
        return 1.5 if self.now_s / self._spell_s % 2 < 1 else 1.0

    def run(self) -> None:
        self.runs += 1
        self.now_s += self._network_ms / 1e3 * self.slowness

    def pace(self) -> float:
        """What the machine can do at its best over what it can do now; asking takes a while."""
        self.now_s += 0.1
        return 1 / self.slowness


@pytest.mark.parametrize(
    ("network_ms", "spell_s"),
    [(3.0, 0.9), (3.0, 2.1), (40.0, 0.9), (40.0, 2.1), (40.0, 60.0), (900.0, 60.0)],
)
def test_a_spell_in_which_the_machine_is_slow_makes_no_network_slow(
    network_ms: float, spell_s: float
) -> None:
    machine = Machine(network_ms, spell_s)

    found = time_whole(machine.run, clock=lambda: machine.now_s, pace=machine.pace)

    assert found.median_ms == pytest.approx(network_ms, rel=0.01)


def test_a_network_is_timed_only_until_its_median_is_known() -> None:
    machine = Machine(40.0, spell_s=60.0)

    found = time_whole(machine.run, clock=lambda: machine.now_s, pace=machine.pace)

    assert 10 <= found.runs <= machine.runs
    assert machine.now_s < WHOLE_S


def test_a_slow_network_is_run_a_few_times_and_no_more() -> None:
    machine = Machine(3000.0, spell_s=60.0)

    time_whole(machine.run, clock=lambda: machine.now_s, pace=machine.pace)

    assert machine.runs <= 20
