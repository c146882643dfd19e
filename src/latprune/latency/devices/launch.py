"""Time what a file of jobs holds, on this machine, one job after another.

    python runner.py jobs.zip results.jsonl

Needs Python 3.10 or newer, numpy and onnxruntime; the rest comes in the file of jobs. Ctrl-C at
any time: the same command goes on from there. "-" instead of results.jsonl writes to stdout.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

PARTS = ("numpy", "onnxruntime")


def launch(arguments: list[str]) -> int | str | None:
    """Look whether all is there, and begin; give the exit status, or a sentence."""
    if sys.version_info[:2] < (3, 10):  # noqa: UP036 # the device's Python is not latprune's
        return f"error: {sys.executable} is Python {sys.version.split()[0]}; 3.10 is needed"
    if len(arguments) != 2:
        return __doc__
    for part in PARTS:
        try:
            __import__(part)
        except ImportError as error:
            return (
                f"error: {sys.executable} cannot import {part} ({error}). Install it there: "
                f"{sys.executable} -m pip install {' '.join(PARTS)}"
            )
    damage = damage_of(arguments[0])
    if damage is not None:
        return damage
    sys.path.insert(0, arguments[0])
    try:
        from latprune.latency.devices.runner import run
    except ImportError as error:
        return f"error: {arguments[0]} is no file of jobs that latprune packed ({error})"
    return run(*arguments)


def damage_of(jobs: str) -> str | None:
    """Say what is wrong with a file of jobs before anything is imported from it."""
    if not Path(jobs).is_file():
        return f"error: there is no file {jobs}: copy the file of jobs here, and give its name"
    try:
        with zipfile.ZipFile(jobs) as packed:
            broken = packed.testzip()
    except Exception as error:  # zipfile raises its own, zlib's and others
        broken = str(error)
    return None if broken is None else f"error: {jobs} is damaged ({broken}): copy it here again"


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
