"""How far a long job has come, told to whoever wants to show it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a long job calls as it goes. It must return quickly and may ignore everything."""

    def stage(self, name: str) -> None:
        """Begin the stage `name`, which ends the one before it."""

    def step(self, done: int, total: int | None, what: str) -> None:
        """Say that `done` of `total` units of the stage are finished.

        Args:
            done: Units finished.
            total: Units in all; None where nobody knows.
            what: What was just done or is being done, in a few words.
        """


class Quiet:
    """Shows nothing: the default wherever a `Progress` is accepted."""

    def stage(self, name: str) -> None:
        """Begin a stage, silently."""

    def step(self, done: int, total: int | None, what: str) -> None:
        """Count a step, silently."""
