"""Say it in a sentence when one of several processes is gone and the others cannot go on."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch.distributed as dist

from latprune.errors import ProcessLost

if TYPE_CHECKING:
    from collections.abc import Iterator

# gloo has no class of errors of its own.
GONE = re.compile(r"gloo|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)


@contextmanager
def together(processes: int) -> Iterator[None]:
    """Raise errors of communication as `ProcessLost`; with one process there are none.

    Raises:
        ProcessLost: If processes that talk to each other no longer can.
    """
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or GONE.search(str(error))
        if processes == 1 or not lost:
            raise
        raise ProcessLost(str(error).partition("\n")[0]) from error
