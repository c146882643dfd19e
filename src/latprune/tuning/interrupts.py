"""Ctrl-C waits for the end of a step, so that what is saved is a whole number of steps."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class Interrupts:
    """Turns Ctrl-C into `KeyboardInterrupt` between, and not within, `held()` blocks.

    A second Ctrl-C within a block does not wait. Outside the main thread, where Python delivers
    no signals, nothing changes.

    Attributes:
        torn: Whether a held block was left by an exception, half done.
    """

    def __init__(self) -> None:
        self.torn = False
        self._pending = False
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold Ctrl-C back until the block is done."""
        self.torn = True
        yield
        self.torn = False
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        if not self.torn or self._pending:
            raise KeyboardInterrupt
        self._pending = True
