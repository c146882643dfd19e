"""Ctrl-C between steps, within one, and twice."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from latprune.tuning.interrupts import Interrupts


def press_ctrl_c(survived: list[str] | None = None, *, times: int = 1) -> None:
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)
        if survived is not None:
            survived.append("once")


def test_ctrl_c_within_a_block_waits_for_its_end() -> None:
    reached: list[str] = []
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.held():
            press_ctrl_c(reached)
        assert reached == ["once"]
        assert not interrupts.torn


def test_ctrl_c_outside_a_block_does_not_wait() -> None:
    with Interrupts() as interrupts:
        with interrupts.held():
            pass
        with pytest.raises(KeyboardInterrupt):
            press_ctrl_c()
        assert not interrupts.torn


def test_a_second_ctrl_c_does_not_wait_and_leaves_the_block_torn() -> None:
    reached: list[str] = []
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.held():
            press_ctrl_c(reached, times=2)
        assert reached == ["once"]
        assert interrupts.torn


def test_an_error_leaves_the_block_torn() -> None:
    with Interrupts() as interrupts:
        with pytest.raises(ZeroDivisionError), interrupts.held():
            _ = 1 / 0
        assert interrupts.torn


def test_the_handler_that_was_there_comes_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_in_another_thread_nothing_is_installed() -> None:
    seen = []

    def work() -> None:
        with Interrupts() as interrupts, interrupts.held():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
