"""`latprune measure`: what widths cost."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from latprune.cli.options import spread
from latprune.cli.options.network import Architecture, Form, OptionalModel
from latprune.cli.options.output import AsJson
from latprune.cli.options.place import Carried, Setting
from latprune.cli.shown import FAILED, show


@spread
def measure_command(
    context: typer.Context,
    *,
    model: OptionalModel = None,
    form: Form,
    setting: Setting,
    place: Carried,
    unpack: Annotated[
        Path | None,
        typer.Option("--unpack", metavar="RESULTS", help="Read what the device answered."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure what a network's widths cost, here or on another device.

    The measurements go into a table that all later commands use.
    """
    if unpack is not None:
        _check_alone(context)
        _unpack(unpack, place.table, as_json)
        return
    if model is None:
        raise typer.BadParameter("which network is to be measured?", param_hint="--model")
    from latprune.cli.elsewhere import chosen_device
    from latprune.cli.live import working
    from latprune.graph.tracing import trace
    from latprune.latency.devices.here import HERE
    from latprune.latency.foreign import BUSY_CORES, ForeignLoad
    from latprune.latency.interpolation import held_out
    from latprune.latency.measuring import measure, outlook

    source = Architecture(model=model, **vars(form)).source()
    with chosen_device(context, **vars(place)) as device, working() as progress:
        target = setting.on(device)
        network = source.open()
        example = network.example(setting.batch)
        progress.stage("trace")
        graph = trace(network.model, example)
        before = device.table(target)
        progress.stage(f"measure ({outlook(graph, before)})")
        load = ForeignLoad()
        measured = measure(
            network.model, graph, example, target, progress=progress.step, device=device
        )
        # Compilers are processes of their own, and would count as others.
        compiles = target.runtime.startswith("compile")
        is_seen = device is HERE and not compiles and len(measured) > len(before)
        foreign_cores = load.cores() if is_seen else 0.0
        errors = [abs(error) for error in held_out(measured, graph).tolist()]
    dense = measured.network(graph)
    facts = {
        "target": target.to_json(),
        "table": str(measured.path),
        "measurements": len(measured),
        "dense": dense.to_json(),
        "interpolation": {"points": len(errors), "median_error": median(errors or [0.0])},
        "foreign_cores": foreign_cores,
    }
    text = (
        f"{model} takes {dense.median_ms:.3f} ms (spread {dense.iqr_ms:.3f} ms, {dense.runs} runs)"
        f"\nwith {target.describe()}\n{len(measured)} layers measured in {measured.path}"
    )
    if errors:
        text += (
            f"\nbetween them, interpolation is off by {100 * median(errors):.1f} % (the median of "
            f"{len(errors)} measured points that it was not shown)"
        )
    if foreign_cores >= BUSY_CORES:
        text += (
            f"\nthe machine was busy: others used {foreign_cores:.1f} of its cores meanwhile; "
            f"`latprune table check {measured.path}` says how far off that was"
        )
    show(facts if as_json else text)


def _check_alone(context: typer.Context) -> None:
    """See that `--unpack` is given nothing that it would ignore.

    Raises:
        BadParameter: If it is.
    """
    given = [
        option.opts[0]
        for option in context.command.params
        if option.name not in ("unpack", "table", "as_json")
        and context.params.get(str(option.name)) != option.get_default(context)
    ]
    if given:
        sentence = f"it reads what the results say: leave out {', '.join(given)}"
        raise typer.BadParameter(sentence, param_hint="--unpack")


def _unpack(results: Path, table: Path | None, as_json: bool) -> None:
    """Read what a device answered; leave with an error if a job failed there."""
    from latprune.cli.elsewhere import next_command, told
    from latprune.latency.devices.packed import unpack

    found = unpack(results, table_file=table)
    facts = {
        "target": found.table.target.to_json(),
        "table": str(found.table.path),
        "added": found.added,
        "failed": list(found.failed),
        "next": next_command(found) if found.then else None,
    }
    show(facts if as_json else told(found))
    raise typer.Exit(FAILED if found.failed else 0)
