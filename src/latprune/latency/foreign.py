"""How much of the machine others use while something is timed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

BUSY_CORES = 0.2
"""From so many cores on that others keep busy, a machine counts as busy."""

_STAT = Path("/proc/stat")
_BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal


class Used(NamedTuple):
    """Seconds that only grow.

    Attributes:
        all_s: Processor time that this machine has spent, all cores together.
        own_s: What of it went to this process and to children that have ended.
        now_s: The time.
    """

    all_s: float
    own_s: float
    now_s: float


class ForeignLoad:
    """Watches from when it is made; without the system's counters (Linux) it sees nothing.

    Args:
        read: Gives what was used so far.
    """

    def __init__(self, read: Callable[[], Used | None] | None = None) -> None:
        self._read = read or used_so_far
        self._begin = self._read()

    def cores(self) -> float:
        """How many cores others kept busy since then, on average; 0.0 where nobody counts."""
        begin, now = self._begin, self._read()
        if begin is None or now is None or now.now_s <= begin.now_s:
            return 0.0
        others_s = (now.all_s - begin.all_s) - (now.own_s - begin.own_s)
        return max(others_s, 0.0) / (now.now_s - begin.now_s)


def used_so_far() -> Used | None:
    """Read the system's counters; None where it has none that are known here."""
    try:
        ticks = [
            int(number) for number in _STAT.read_text(encoding="utf-8").split("\n")[0].split()[1:]
        ]
        all_s = sum(ticks[index] for index in _BUSY) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
    times = os.times()
    own_s = times.user + times.system + times.children_user + times.children_system
    return Used(all_s, own_s, time.monotonic())
