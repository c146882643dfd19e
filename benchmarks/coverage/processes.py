"""Run work in a process of its own, with a limit of time and one of memory.

Networks crash, hang and swell; none of that shall end the examination of the others. The processes
are forked from a server that has the libraries loaded, which saves their seconds every time.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Record = dict[str, Any]
Tell = Callable[[Record], None]
Work = Callable[..., None]


@dataclass(frozen=True)
class Limits:
    """What one process may take.

    Attributes:
        cpu_s: Seconds of computing, of all its threads: a busy machine does not shorten them.
        clock_s: Seconds on the clock, for what waits without computing.
        gib: GiB of private memory.
    """

    cpu_s: float
    clock_s: float
    gib: float


def record_of(work: Work, *args: Any, limits: Limits, preload: Sequence[str] = ()) -> Record:
    """Give what `work(*args, tell)` told before it ended or was stopped.

    Args:
        work: A function of a module; called in the other process with `args` and a `tell` that
            takes dictionaries.
        args: Values that can be pickled.
        limits: Past a time the process is killed; past the memory its allocations fail.
        preload: Modules to load before processes are forked.

    Returns:
        All that was told, joined; `stopped` says how the process ended if not by itself.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(work, args, sender, limits), daemon=True)
    process.start()
    sender.close()
    record: Record = {}
    _wait_for_its_begin(receiver)
    begin = time.monotonic()
    ended = _receive(receiver, record, until=begin + limits.clock_s)
    if not ended:
        process.kill()
    process.join()
    if not ended:
        record["stopped"] = f"after {limits.clock_s:g} s"
    elif process.exitcode == -signal.SIGXCPU:
        record["stopped"] = f"after {limits.cpu_s:g} s of computing"
    elif process.exitcode:
        record["stopped"] = f"by itself, with exit code {process.exitcode}"
    return record


def start_server(preload: Sequence[str]) -> None:
    """Start what processes are forked from, deaf to Ctrl-C; call it in the main thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


def kill_all() -> None:
    """End all processes that still work."""
    for process in multiprocessing.active_children():
        process.kill()


def _wait_for_its_begin(receiver: Connection) -> None:
    """Starting a process is not its work, and takes none of its time."""
    with suppress(EOFError):
        receiver.recv()


def _receive(receiver: Connection, record: Record, *, until: float) -> bool:
    """Take in what is told; say whether the other side ended before `until`."""
    while receiver.poll(max(until - time.monotonic(), 0)):
        try:
            record.update(receiver.recv())
        except EOFError:
            return True
    return False


def _work(work: Work, args: Sequence[Any], sender: Connection, limits: Limits) -> None:
    import torch

    torch.set_num_threads(1)
    _be_silent()
    allowed = int(limits.gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
    seconds = math.ceil(limits.cpu_s)
    # Where both limits are the same, the process is killed without saying for which reason.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    sender.send(None)
    work(*args, sender.send)
    sender.close()


def _be_silent() -> None:
    """Exporters print whole graphs when they fail; what is to be known is told."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
