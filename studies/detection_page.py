"""A study of a detector as a page, from its result alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

AIM_POINTS = 1.5
HEAD = (
    "budget",
    "dense ms",
    "pruned ms",
    "ratio",
    "÷ budget",
    "MACs",
    "mAP@0.5 after the cut",
    "tuned",
    "against the dense",
    "against the dense, trained on",
)


def page(name: str, document: Mapping[str, Any]) -> str:
    """Write the page of a study's result."""
    config, continued = document["config"], document["continued"]["map50"]
    cases = document["cases"]
    dense = next(iter(cases.values()))["report"]["dense"]["accuracy"]["map50"]
    rows = [_row(budget, case, dense=dense, continued=continued) for budget, case in cases.items()]
    taught, tuned = config["dense"], config["tuned"]
    lines = [
        f"# {name}: a detector at a share of its latency",
        "",
        f"`{config['model']}`, trained on {document['pictures']['train']} pictures and judged on "
        f"{document['pictures']['judged']}; one seed. {_told(document['dropped'])}",
        "",
        f"The dense detector was trained for {taught['epochs']} epochs (lr "
        f"{taught['lr']:g}): **{100 * dense:.1f}** mAP@0.5. Pruned in one shot, scored by "
        f"`{config['criterion']}`, the small ones were tuned for {tuned['epochs']} epochs more, "
        f"with it as teacher; so was a copy of it, whole, which came to **{100 * continued:.1f}**.",
        "",
        f"| {' | '.join(HEAD)} |",
        f"|{' --- |' * len(HEAD)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        f"± is the interquartile range; {_target(cases)}. The aim is to lose no more than "
        f"{AIM_POINTS} points: {_verdicts(cases, continued=continued)}",
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


def _row(
    budget: str, case: Mapping[str, Any], *, dense: float, continued: float
) -> tuple[str, ...]:
    report = case["report"]
    before, small = report["dense"], report["small"]
    after = small["accuracy"]["map50"]
    return (
        budget.replace("%", " %"),
        f"{before['median_ms']:.2f} ± {before['iqr_ms']:.2f}",
        f"{small['median_ms']:.2f} ± {small['iqr_ms']:.2f}",
        f"{100 * report['ratio']:.1f} % ± {100 * report['ratio_iqr']:.1f}",
        f"{report['used']:.3f}",
        f"{100 * small['macs'] / before['macs']:.0f} %",
        f"{100 * case['before_tuning']['map50']:.1f}",
        f"{100 * after:.1f}",
        f"{100 * (after - dense):+.1f}",
        f"{100 * (after - continued):+.1f}",
    )


def _verdicts(cases: Mapping[str, Any], *, continued: float) -> str:
    said = []
    for budget, case in cases.items():
        lost = 100 * (continued - case["report"]["small"]["accuracy"]["map50"])
        kept = "kept" if lost <= AIM_POINTS else "missed"
        said.append(f"{kept} at {budget.replace('%', ' %')}")
    return ", ".join(said) + ", against the dense detector trained as long."


def _told(dropped: str) -> str:
    return f"{dropped}." if dropped else ""


def _target(cases: Mapping[str, Any]) -> str:
    target = next(iter(cases.values()))["report"]["target"]
    threads = "1 thread" if target["threads"] == 1 else f"{target['threads']} threads"
    return f"{target['runtime']}, {target['precision']}, batch {target['batch']}, {threads}"
