"""A study of detectors as a page, from its result alone."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

AIM_POINTS = 1.5
HEAD = (
    "budget",
    "scored by",
    "measured",
    "MACs",
    "branches gone",
    "after the cut",
    "tuned",
    "against the dense, trained on",
)


def page(name: str, document: Mapping[str, Any]) -> str:
    """Write the page of a study's result."""
    config, cases = document["config"], document["cases"]
    dense = cases[0]["report"]["dense"]["accuracy"]["map50"]
    continued = [judged["map50"] for judged in document["continued"].values()]
    kinds = list(product(config["budgets"], config["criteria"]))
    of_kind = {kind: _of(kind, cases) for kind in kinds}
    taught, tuned, seeds = config["dense"], config["tuned"], config["seeds"]
    lines = [
        f"# {name}: a detector at a share of its latency",
        "",
        f"`{config['model']}`, trained on {document['pictures']['train']} pictures and judged on "
        f"{document['pictures']['judged']} by mAP@0.5, in %. {_told(document['dropped'])}",
        "",
        f"The dense detector was trained once, for {taught['epochs']} epochs (lr "
        f"{taught['lr']:g}): **{100 * dense:.1f}**. Pruned in one shot, the small ones were tuned "
        f"for {tuned['epochs']} epochs more, with it as teacher; so was a copy of it, whole, which "
        f"came to **{_spread(continued, 100)}**. {_seeds(seeds)}",
        "",
        f"| {' | '.join(HEAD)} |",
        f"|{' --- |' * len(HEAD)}",
        *(
            f"| {' | '.join(_row(kind, alike, document['continued']))} |"
            for kind, alike in of_kind.items()
        ),
        "",
        f"*Measured* is the small detector's time over the dense one's ({_milliseconds(cases)}), "
        f"timed in turns; {document['target']}. *After the cut* is before any tuning, layers "
        f"[reconstructed](../how-it-works.md#reconstruct). Branches may go as a whole where scores "
        f"are `relative_`, at measured prices; elsewhere they stay.",
        "",
        f"The aim is to lose no more than {AIM_POINTS} points against the dense detector trained "
        f"as long: {_verdicts(of_kind, document['continued'])}.",
        "",
        "```sh",
        f"LATPRUNE_DATA=FOLDER {document['command']}",
        "```",
        "",
        f"[Numbers](../../studies/{name}/result.json), "
        f"[config](../../studies/{name}/config.json); "
        f"`{document['command']} page` writes this page again.",
    ]
    return "\n".join(lines) + "\n"


def _of(kind: tuple[str, str], cases: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [case for case in cases if (case["budget"], case["criterion"]) == kind]


def _row(
    kind: tuple[str, str], cases: Sequence[Mapping[str, Any]], continued: Mapping[str, Any]
) -> tuple[str, ...]:
    budget, criterion = kind
    reports = [case["report"] for case in cases]
    macs = [report["small"]["macs"] / report["dense"]["macs"] for report in reports]
    return (
        _percent(budget),
        f"`{criterion}`",
        f"{_spread([report['ratio'] for report in reports], 100)} %",
        f"{100 * np.mean(macs):.0f} %",
        ", ".join(str(len(report["removed"])) for report in reports),
        _spread([case["before_tuning"]["map50"] for case in cases], 100),
        _spread([report["small"]["accuracy"]["map50"] for report in reports], 100),
        f"{100 * np.mean(_gains(cases, continued)):+.1f}",
    )


def _gains(cases: Sequence[Mapping[str, Any]], continued: Mapping[str, Any]) -> list[float]:
    """Give what each detector has more than the whole one, trained on with the same seed."""
    return [
        case["report"]["small"]["accuracy"]["map50"] - continued[str(case["seed"])]["map50"]
        for case in cases
    ]


def _verdicts(
    of_kind: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]], continued: Mapping[str, Any]
) -> str:
    said = []
    for (budget, criterion), cases in of_kind.items():
        kept = np.mean(_gains(cases, continued)) >= -AIM_POINTS / 100
        said.append(f"{'kept' if kept else 'missed'} at {_percent(budget)} by `{criterion}`")
    return ", ".join(said)


def _milliseconds(cases: Sequence[Mapping[str, Any]]) -> str:
    medians = [case["report"]["dense"]["median_ms"] for case in cases]
    return f"{min(medians):.2f} to {max(medians):.2f} ms"


def _spread(values: Sequence[float], factor: float) -> str:
    """Give the mean, and of several the least and the greatest."""
    scaled = [factor * value for value in values]
    said = f"{np.mean(scaled):.1f}"
    return said if len(scaled) == 1 else f"{said} ({min(scaled):.1f} – {max(scaled):.1f})"


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return "One seed."
    return (
        f"{len(seeds)} seeds, which draw the pictures that score and tune, and their order: the "
        f"mean, and the least and the greatest."
    )


def _percent(budget: str) -> str:
    return budget.replace("%", " %")


def _told(dropped: str) -> str:
    return f"{dropped}." if dropped else ""
