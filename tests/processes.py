"""Runs a function in two processes that talk over gloo, as torchrun would."""

from __future__ import annotations

import os
import pickle
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WORLD = 2
PATIENCE = timedelta(seconds=120)


def run_together(function: Callable[[int, Path], Any], folder: Path) -> list[Any]:
    """Call a function in every process; give what each returned.

    Args:
        function: Takes the process's number and the folder; can be pickled.
        folder: For whatever they write.

    Raises:
        torch.multiprocessing.ProcessRaisedException: If one fails; the other is ended.
        torch.multiprocessing.ProcessExitedException: If one is killed.
    """
    (folder / "meeting").unlink(missing_ok=True)
    # A fork need not import torch again; with an accelerator about, autograd forbids it.
    forks = sys.platform == "linux" and not torch.accelerator.is_available()
    start_processes(  # type: ignore[no-untyped-call]
        _run, (function, folder), nprocs=WORLD, start_method="fork" if forks else "spawn"
    )
    return [pickle.loads((folder / f"answer{rank}").read_bytes()) for rank in range(WORLD)]


def _run(rank: int, function: Callable[[int, Path], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD)}
    os.environ |= {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    if "accelerate" in sys.modules:  # it may remember a test before the fork
        sys.modules["accelerate"].state.AcceleratorState._reset_state(reset_partial_state=True)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=WORLD,
        timeout=PATIENCE,
    )
    (folder / f"answer{rank}").write_bytes(pickle.dumps(function(rank, folder)))
    dist.destroy_process_group()
