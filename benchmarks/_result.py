"""What a benchmark leaves behind: its numbers beside where they come from, and bars held or not."""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import latprune as lp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def origin(benchmark: str, *packages: str) -> dict[str, Any]:
    """Say by which command, and with which versions of what, numbers were made.

    Args:
        benchmark: The module, below `benchmarks`.
        packages: Whose versions matter, beside Python's and latprune's.
    """
    return {
        "command": " ".join([f"python -m benchmarks.{benchmark}", *sys.argv[1:]]),
        "versions": {
            "latprune": lp.__version__,
            **{package: version(package) for package in packages},
            "python": platform.python_version(),
        },
    }


def write(file: Path | None, document: Mapping[str, Any]) -> None:
    """Write the numbers, if a file was named."""
    if file is not None:
        file.write_text(json.dumps(document, indent=1) + "\n")


def verdict(missed: Sequence[str]) -> int:
    """Say which bars were missed, and give the exit code."""
    print("\n".join(f"MISSED {bar}" for bar in missed) or "every bar is held")
    return 1 if missed else 0
