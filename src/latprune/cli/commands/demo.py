"""`latprune demo`: all of it, offline."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from latprune.cli.options import usage
from latprune.cli.options.choice import BudgetText, budget_of
from latprune.cli.options.output import AsJson
from latprune.cli.shown import conclude, program


def demo_command(
    budget: BudgetText = "50%",
    out: Annotated[Path, typer.Option("--out", help="Folder for the result.")] = Path(
        "latprune-demo"
    ),
    as_json: AsJson = False,
) -> None:
    """Prune a reader of digits: offline, minutes.

    Trains a compact residual network on scikit-learn's handwritten digits, then prunes it.
    """
    from latprune.cli.folder import RunFolder
    from latprune.cli.live import working
    from latprune.demo import next_commands, run
    from latprune.report.text import to_text
    from latprune.tasks.digits import SIZE

    allowed = budget_of(budget)
    with working() as progress, ExitStack() as held:
        with usage("--out"):
            folder = RunFolder.claim(out, "demo", {"budget": str(allowed)})
            held.enter_context(folder.held())
        pruned = run(folder.path, allowed, progress=progress)
        facts = {**pruned.report.to_json(), "before_tuning": dict(pruned.before_tuning)}
        size = (1, SIZE, SIZE)
        folder.keep(pruned, facts=facts, text=to_text(pruned.report), input=size)
    after = "\n".join([f"All of it is in {out}. Next:", *next_commands(out, program=program())])
    conclude([pruned.report], facts if as_json else None, after=after)
