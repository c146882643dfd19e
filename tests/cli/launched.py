"""`latprune` as a launcher starts it, with the runtime `synthetic`; tells what each process made.

`SEEN` names the folder for that. `DIES=RANK:STEP` kills one process at a step of the optimizer.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import latprune as lp
import latprune.gradually
from latprune.cli import main
from latprune.gradual import GradualPruning
from latprune.gradually import prune_gradually
from tests.synthetic import Synthetic


def watch(patch: pytest.MonkeyPatch, *, rank: str, seen: Path, dies: str) -> None:
    """Count the steps of this process and keep what it ends with, or end it at a step."""
    step, steps = GradualPruning.step, 0

    def counted(pruning: GradualPruning) -> lp.Plan | None:
        nonlocal steps
        steps += 1
        if dies == f"{rank}:{steps}":
            os.kill(os.getpid(), signal.SIGKILL)
        return step(pruning)

    def kept(*arguments: Any, **options: Any) -> Any:
        pruned = prune_gradually(*arguments, **options)
        pruned.save(seen / f"{rank}.safetensors")
        (seen / f"{rank}.steps").write_text(str(steps))
        return pruned

    patch.setattr(GradualPruning, "step", counted)
    patch.setattr(latprune.gradually, "prune_gradually", kept)


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        Synthetic(whole=1.2).install(patch)
        seen, dies = Path(os.environ["SEEN"]), os.environ["DIES"]
        watch(patch, rank=os.environ["RANK"], seen=seen, dies=dies)
        main()
