"""Memory that stays with the process between runs of a network.

PyTorch asks for memory for every result of every operator and frees it soon after. The C library of
most Linuxes gives large pieces back to the system at once and has them anew, page by page, in the
next run: a quarter of a quick network's time (`python -m benchmarks.memory`), or nothing of it, by
what else lies in memory.
"""

from __future__ import annotations

import ctypes
from functools import cache

import torch

KEPT = "memory kept"
"""Says in a runtime's version that its times are those of a process that keeps its memory."""

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt(3)
_NEVER, _NONE = -1, 0


@cache
def keep_memory() -> bool:
    """Let the allocator keep what is freed for this process, from now on.

    Returns:
        Whether it could be told to; allocators other than glibc's have no such setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # TypeError: Windows has no library called None
        return False
    return bool(mallopt(_MMAP_MAX, _NONE)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))


def torch_version() -> str:
    """Give the version of torch, and say that its memory is kept, where it is."""
    version = str(torch.__version__)
    return f"{version}, {KEPT}" if keep_memory() else version
