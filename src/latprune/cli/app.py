"""The command line's own side: which commands there are, and how they fail."""

from __future__ import annotations

import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from latprune import __version__
from latprune.cli.commands.check import check_command
from latprune.cli.commands.choosing import frontier_command, plan_command
from latprune.cli.commands.demo import demo_command
from latprune.cli.commands.export import export_command
from latprune.cli.commands.measure import measure_command
from latprune.cli.commands.prune import prune_command
from latprune.cli.commands.table import tables
from latprune.cli.commands.trace import trace_command
from latprune.cli.options import Sectioned
from latprune.cli.shown import FAILED, IMPOSSIBLE, INTERRUPTED, complain
from latprune.errors import BudgetTooSmall, DoesNotRun, LatpruneError, SubnormalWeights

RESUMABLE = ("measure", "plan", "frontier", "prune", "demo")
KEPT = "What was measured and trained is kept: the same command goes on from there."


def _told(message: Warning | str, *_args: Any, **_kwargs: Any) -> None:
    complain(f"warning: {message}")


class Commands(TyperGroup):
    """Turns errors that latprune raises on purpose into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            with warnings.catch_warnings():
                if not ctx.params["debug"]:
                    # What libraries say to developers would bury what is said to the user.
                    warnings.simplefilter("ignore")
                    warnings.simplefilter("once", SubnormalWeights)
                    warnings.showwarning = _told
                return super().invoke(ctx)
        except LatpruneError as error:
            if ctx.params["debug"]:
                raise
            advice = ". Give its own, --input CxHxW" if isinstance(error, DoesNotRun) else ""
            complain(f"error: {str(error).rstrip('.') if advice else error}{advice}")
            code = IMPOSSIBLE if isinstance(error, BudgetTooSmall) else FAILED
            raise typer.Exit(code) from None
        except OSError as error:  # a full disk, a folder that may not be written to
            if ctx.params["debug"]:
                raise
            complain(f"error: {error}")
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt:
            resumable = ctx.invoked_subcommand in RESUMABLE
            complain(f"interrupted. {KEPT}" if resumable else "interrupted")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Prune a PyTorch network to a latency budget, measured on the machine that will run it.",
    epilog=(
        "Exit codes: 0 the budget is met, 1 something failed, 2 wrong usage, 3 no network fits "
        "the budget, 4 the budget was not met, 5 work was packed for another device, 130 "
        "interrupted."
    ),
)
app.command("trace", cls=Sectioned)(trace_command)
app.command("measure", cls=Sectioned)(measure_command)
app.command("plan", cls=Sectioned)(plan_command)
app.command("frontier", cls=Sectioned)(frontier_command)
app.command("prune", cls=Sectioned)(prune_command)
app.command("check", cls=Sectioned)(check_command)
app.command("export", cls=Sectioned)(export_command)
app.command("demo")(demo_command)
app.add_typer(tables, name="table")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"latprune {__version__}")
        raise typer.Exit


@app.callback()
def _latprune(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and warnings.")] = False,
) -> None:
    del version, debug  # `_version` and `Commands` act on them
