"""Writes `docs/results/criteria.md` from `result.json`: no figure is typed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torchmetrics.functional import spearman_corrcoef

from studies.frame import markdown, versions_in_words

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results" / "criteria.md"
BASELINE = "uniform"  # one factor for all groups, channels by Fisher information
Plans = dict[str, dict[str, Any]]


def write_page(document: dict[str, Any], *, path: Path = PAGE) -> None:
    parts = [_INTRODUCTION.format(**_facts(document))]
    for network, found in document["networks"].items():
        settings = document["config"]["networks"][network]
        budgets = _sorted(budgets_of(document["config"], network))
        parts.append(_network(network, found, settings, budgets))
    missing = set(document["config"]["networks"]) - set(document["networks"])
    if missing:
        parts.append(f"## Not run yet\n\n{', '.join(sorted(missing))}.")
    parts.append(_CLOSING)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(part.strip() for part in parts) + "\n")


def budgets_of(config: dict[str, Any], network: str) -> list[str]:
    """Give a network's own budgets, or those of all."""
    found: list[str] = config["networks"][network].get("budgets", config["budgets"])
    return found


def _sorted(budgets: list[str]) -> list[str]:
    return sorted(budgets, key=lambda text: -float(text.rstrip("%")))


def _facts(document: dict[str, Any]) -> dict[str, str]:
    return {"versions": versions_in_words(document), "seed": document["config"]["seed"]}


def _network(
    network: str, found: dict[str, Any], settings: dict[str, Any], budgets: list[str]
) -> str:
    plans: Plans = found["plans"]
    criteria = [name for name in settings["criteria"] if name in found["scoring_cpu_s"]]
    restricted = "top1_restricted" in plans["dense"]
    head = ["criterion", *budgets, *(f"ρ at {budget}" for budget in budgets), "CPU s"]
    rows = [
        [
            f"`{criterion}`",
            *(_accuracy(plans.get(f"{criterion} {budget}")) for budget in budgets),
            *(_correlation(plans, criterion, budget) for budget in budgets),
            f"{found['scoring_cpu_s'][criterion]:.0f}",
        ]
        for criterion in criteria
    ]
    rows.append(
        [
            "one width factor for all",
            *(_with_share(plans.get(f"{BASELINE} {budget}")) for budget in budgets),
            *("–" for _ in budgets),
            "–",
        ]
    )
    rows.append(
        [
            "re-ranked",
            *(_reranked(plans, criteria, budget) for budget in budgets),
            *("–" for _ in budgets),
            "–",
        ]
    )
    what = "1000-way / 10-way top-1" if restricted else "top-1"
    probed = any(name.startswith("probe") for name in criteria)
    counts = ", ".join(
        f"{settings[f'{part}_images']} {said}"
        for part, said in (
            ("score", "to score"),
            ("probe", "to probe"),
            ("calibration", "to re-estimate batch norms"),
            ("held_out", "to re-rank"),
        )
        if probed or part != "probe"
    )
    shares = f" Probed shares: 0, {', '.join(map(str, settings['shares']))}." if probed else ""
    text = (
        f"## {network}\n\nDense: {_accuracy(plans['dense'])} ({what}, in %, on "
        f"{settings['test_images']} test images).\n\nTraining images: {counts}.{shares}\n\n"
    )
    return text + markdown(head, rows)


def _accuracy(result: dict[str, Any] | None) -> str:
    if result is None:
        return "not run"
    if "impossible" in result:
        return "impossible"
    shown = f"{100 * result['top1']:.1f}"
    if "top1_restricted" in result:
        shown += f" / {100 * result['top1_restricted']:.1f}"
    return shown


def _with_share(result: dict[str, Any] | None) -> str:
    """One factor for all leaves a part of the budget unused; say how much is used."""
    if result is None or "impossible" in result:
        return _accuracy(result)
    share = 100 * result["predicted_ms"] / result["baseline_ms"]
    return f"{_accuracy(result)} (takes {share:.0f} %)"


def _reranked(plans: Plans, criteria: list[str], budget: str) -> str:
    """The plan with the least held-out loss, among the criteria's and the uniform one."""
    tried = {
        name: result
        for name in [*criteria, BASELINE]
        if "held_out_loss" in (result := plans.get(f"{name} {budget}", {}))
    }
    if len(tried) < 2:
        return "not run"
    best = min(tried, key=lambda name: tried[name]["held_out_loss"])
    return f"{_accuracy(tried[best])} (`{best}`)"


def _correlation(plans: Plans, criterion: str, budget: str) -> str:
    """Spearman's ρ between the loss predicted for all plans of a budget and the measured one."""
    pairs = [
        (result["predicted_loss"][criterion], result["test_loss"])
        for name, result in plans.items()
        if name.endswith(f" {budget}") and criterion in result.get("predicted_loss", {})
    ]
    if len(pairs) < 5:
        return "–"
    predicted, measured = torch.tensor(pairs, dtype=torch.float64).T
    return f"{float(spearman_corrcoef(predicted, measured)):+.2f} ({len(pairs)})"


_INTRODUCTION = """
# Which criterion predicts what a cut costs?

`joint` chooses the best widths for the values that it is given, so the criterion decides. Here
every criterion scores the same network on the same training images and plans for the same shares
of its latency by the same table; each plan is cut, batch norms are re-estimated, and the network is
judged **without any tuning**. `python -m studies.criteria run` does all of it and goes on where it
was interrupted; `python -m studies.criteria page` writes this page from
`studies/criteria/result.json`
({versions}; seed {seed}).

Latencies are sums of measured layers, as `lp.fitting.refine` plans them, not timings of the whole
networks: they are to be equal between criteria, not to be exact. ρ is Spearman's rank correlation
between the loss that a criterion predicts for the widths of *every* plan tried at a budget (those
of the other criteria, of one factor for all, and random ones) and the test loss that was measured;
in brackets the number of plans. `relative_…` takes the scores of `…` for what they leave of a
group ([criteria](../criteria.md)), which takes no time of its own; no branches go here.
`unbounded_fisher` is that as if there were no trunk beside a residual branch
(`lp.relative(scores, graph, trunk=0)`). `probe_outputs` is `probe(…, by="outputs")`.
"Re-ranked" is the plan whose network has the least loss on held-out training images, among all rows
above.
"""

_CLOSING = """
## What was not done

One seed, one draw of images, no tuning: after a long tuning the order may be another. Tables were
measured while others used the machine. Networks were pretrained on (ImageNet) or trained to the end
on (CIFAR-10) the images that score, as they are in use.
"""
