"""The options of the commands, each in one place, in groups that commands share.

A group is a frozen dataclass: its fields are options, its methods read what was given. A command
takes the whole group as one argument, and `spread` shows typer the options one by one.
"""

from latprune.cli.options.spread import Sectioned, spread
from latprune.cli.options.usage import usage

__all__ = ["Sectioned", "spread", "usage"]
