"""`latprune check`: a pruned network, measured again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from latprune.cli.options import spread
from latprune.cli.options.data import Calibrating
from latprune.cli.options.network import Judged, PrunedFile
from latprune.cli.options.output import AsJson
from latprune.cli.options.place import On, Setting
from latprune.cli.shown import complain, conclude

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from latprune.latency.devices import Device
    from latprune.latency.target import Target
    from latprune.planning import Plan


@spread
def check_command(
    context: typer.Context,
    *,
    network: Judged,
    pruned: PrunedFile,
    labelled: Calibrating,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Measure a pruned network again.

    It is timed beside the dense one, on all targets that it was pruned for, and with --data both
    are judged, as torch runs them in fp32 and, if the plan was made for int8, as they ship.
    Without the dense network's weights only the pruned one's accuracy is shown.
    """
    from latprune.batches import calibrating
    from latprune.cli.elsewhere import chosen_device
    from latprune.cli.live import working
    from latprune.report.targets import check_everywhere
    from latprune.surgery import load, load_plan, retrace

    stored = load_plan(pruned)
    source = network.source().for_pruned(pruned)
    with chosen_device(context, on) as device, working() as progress:
        plan = _on(device, stored, option="--pruned" if on is None else "--on")
        dense = source.open()
        small, example = load(pruned, dense.model), dense.example(plan.target.batch)
        data = labelled.open(dense)

        def judge(judged: nn.Module) -> Mapping[str, float]:
            known = judged is not dense.model or source.is_trained
            return data.judge(judged) if data and known else {}

        progress.stage("trace")
        graph = retrace(pruned, dense.model, example)
        progress.stage("check")
        targets = [plan.target, *(promise.target for promise in plan.also)]
        loader = data.calibrating if data else None
        reports = check_everywhere(
            dense.model,
            small,
            plan,
            example,
            graph=graph,
            evaluate=judge,
            calibration=calibrating(loader, labelled.calibration, targets),
            device=device,
        )
    first, *also = reports
    facts = {**first.to_json(), "also": [report.to_json() for report in also]}
    conclude(reports, facts if as_json else None)


def _on(device: Device, stored: Plan, *, option: str) -> Plan:
    """Give a plan as one for this device, and say so if it was made for another.

    Raises:
        BadParameter: If the device offers no such runtime or precision; it blames this option.
    """

    def here(was: Target) -> Target:
        found = Setting.of(was).on(device, option=option)
        if found != was:
            complain(f"planned for {was.describe()}; measured on {found.describe()}")
        return found

    also = tuple(replace(promise, target=here(promise.target)) for promise in stored.also)
    return replace(stored, target=here(stored.target), also=also)
