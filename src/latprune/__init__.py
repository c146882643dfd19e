"""Prune a PyTorch network to a latency budget, measured on the machine that will run it.

The straight line, each step a function::

    model ─trace→ graph ─┬─measure→ table ────┐
                         └─taylor→ saliency ──┴─fit→ plan, small model ─tune→ ─check→ report

`prune` is that line in one call; `prune_in_steps` repeats score, plan and cut while you train, and
`prune_gradually` is that with the training.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latprune.public import *  # noqa: F403 (they are listed there)
    from latprune.public import __all__ as __all__
else:

    def __getattr__(name: str) -> object:
        """Import the library once something of it is asked for; the command's help does not."""
        import sys
        from importlib import import_module

        public = vars(import_module("latprune.public"))
        globals().update({one: public[one] for one in public.keys() - globals().keys()})
        if name in globals():
            return globals()[name]
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__]
        )

    def __dir__() -> list[str]:
        """List what is not imported yet, too."""
        return sorted({*globals(), *__getattr__("__all__")})


__version__ = "0.1.0"
