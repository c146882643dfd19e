"""The command `latprune`, outside of the package, which takes a moment to import.

Whoever interrupts it then is told so in a word, not by a traceback.
"""

from __future__ import annotations

import sys

INTERRUPTED = 130


def main() -> None:
    """Import the command line, and run it."""
    try:
        from latprune.cli import main as run
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    run()
