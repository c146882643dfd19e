"""A network that crashes, hangs or swells says how far it came, and ends alone."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import torch
from benchmarks.coverage.processes import Limits, Record, Tell, Work
from benchmarks.coverage.processes import record_of as record_in_process

AMPLE = Limits(cpu_s=100, clock_s=600, gib=8)


def finish(number: int, tell: Tell) -> None:
    tell({"stage": "first"})
    tell({"stage": "second", "number": number})


def hang(tell: Tell) -> None:
    tell({"stage": "hanging"})
    time.sleep(600)


def compute(tell: Tell) -> None:
    tell({"stage": "computing"})
    while True:
        pass


def die(tell: Tell) -> None:
    tell({"stage": "dying"})
    os._exit(3)


def swell(tell: Tell) -> None:
    try:
        torch.ones(2**30)
    except RuntimeError:
        tell({"refused": True})


def record_of(work: Work, *args: object, limits: Limits = AMPLE) -> Record:
    """What was told; torch is loaded once for all."""
    return record_in_process(work, *args, limits=limits, preload=["torch"])


def test_what_is_told_is_joined() -> None:
    assert record_of(finish, 7) == {"stage": "second", "number": 7}


def test_what_hangs_is_stopped_and_has_said_where() -> None:
    record = record_of(hang, limits=replace(AMPLE, clock_s=3))

    assert record == {"stage": "hanging", "stopped": "after 3 s"}


def test_what_computes_too_long_is_stopped() -> None:
    record = record_of(compute, limits=replace(AMPLE, cpu_s=2))

    assert record == {"stage": "computing", "stopped": "after 2 s of computing"}


def test_what_dies_says_how() -> None:
    record = record_of(die)

    assert record == {"stage": "dying", "stopped": "by itself, with exit code 3"}


def test_memory_beyond_the_limit_is_refused() -> None:
    assert record_of(swell, limits=replace(AMPLE, gib=2)) == {"refused": True}
