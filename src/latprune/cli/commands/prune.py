"""`latprune prune`: a smaller network."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from latprune.cli.config import Config
from latprune.cli.options import spread
from latprune.cli.options.choice import BudgetText, Solvable, budget_of
from latprune.cli.options.data import Calibrating
from latprune.cli.options.network import Judged
from latprune.cli.options.output import AsJson
from latprune.cli.options.place import Carried, Settings
from latprune.cli.options.training import Cuts, Training
from latprune.cli.shown import conclude


@spread
def prune_command(
    context: typer.Context,
    *,
    network: Judged,
    budget: BudgetText,
    out: Annotated[Path, typer.Option("--out", help="Folder for the result.")],
    config: Config = None,
    labelled: Calibrating,
    settings: Settings,
    choice: Solvable,
    cuts: Cuts,
    training: Training,
    place: Carried,
    as_json: AsJson = False,
) -> None:
    """Prune a network to a latency budget, and tune it.

    Without --data, channels are scored by the size of their weights and nothing is tuned. The
    folder --out gets pruned.safetensors, report.json and report.txt. After Ctrl-C the same command
    goes on. With --steps it is pruned while it is trained, and the command may be started by
    `accelerate launch -m`, in as many processes as there are GPUs.
    """
    from latprune.cli.elsewhere import chosen_device
    from latprune.cli.live import working
    from latprune.cli.pruning import Asked
    from latprune.gradual.processes import meet, rank
    from latprune.report.text import to_text

    del config  # its values are the other arguments' by now
    asked = Asked(network, budget_of(budget), labelled, settings, choice, cuts, training)
    asked.check(place)
    meet()
    with (
        chosen_device(context, **vars(place)) as device,
        working() as progress,
        ExitStack() as held,
    ):
        folder, pruned, dense = asked.prune(out, device=device, progress=progress, held=held)
        if rank():
            return  # the first process speaks and writes for all
        facts = {
            **pruned.report.to_json(),
            "also": [report.to_json() for report in pruned.also],
            "before_tuning": dict(pruned.before_tuning),
            "reranked": dict(pruned.reranked),
        }
        text = to_text(pruned.report, also=pruned.also)
        classes = asked.source.classes
        folder.keep(pruned, facts=facts, text=text, input=dense.input, classes=classes)
    conclude([pruned.report, *pruned.also], facts if as_json else None)
