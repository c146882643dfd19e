"""Writes a study's page in `docs/results` and its plot from `result.json`.

No figure is typed by hand: what the study's `introduction.md` and `closing.md` say of figures they
take from there, too.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import mean
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from studies.frame import markdown, versions_in_words

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from studies.frame import Row

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
TOP1, RESTRICTED = "top1", "top1_restricted"
Document = dict[str, Any]


def write_page(study: Path, *, folder: Path = RESULTS, document: Document | None = None) -> None:
    """Write the page, and the plot beside it.

    Args:
        study: Its folder; the page bears its name.
        folder: Where the page goes.
        document: What to write of; None: the study's result.
    """
    document = document or json.loads((study / "result.json").read_text())
    introduction, closing = (
        (study / f"{part}.md").read_text().format(**_facts(document))
        for part in ("introduction", "closing")
    )
    parts = [introduction, _named(document), _dense(document)]
    parts += [_budget(document, budget) for budget in _sorted(document["config"]["budgets"])]
    parts += [_standing(document), _trials(document), _ablations(document), closing]
    folder.mkdir(parents=True, exist_ok=True)
    page = "\n\n".join(part.strip() for part in parts if part) + "\n"
    (folder / f"{study.name}.md").write_text(page)
    draw(document, folder / f"{study.name}.svg")


def rows_of(document: Document, method: str, budget: str) -> list[Row]:
    """Give a method's rows of a budget, one per seed."""
    found = document["rows"].values()
    return [row for row in found if (row["method"], row["budget"]) == (method, budget)]


def _sorted(budgets: Iterable[str]) -> list[str]:
    return sorted(budgets, key=lambda budget: -float(budget.rstrip("%")))


def _facts(document: Document) -> dict[str, Any]:
    config = document["config"]
    return {
        **config,
        **config["recipe"],
        "versions": versions_in_words(document),
        "device": _devices(document),
        "done": ", ".join(map(str, sorted(_seeds(document)))) or "none",
        "steps": config["tuning_images"] // config["batch_size"],
        "round_to": config["methods"]["Torch-Pruning"]["round_to"],
        "trial_steps": next(
            (m["steps"] for m in config["methods"].values() if m["by"] == "trial"), 0
        ),
    }


def _devices(document: Document) -> str:
    """Name the device that rows were timed on, or say that there are several."""
    letters = _letters(document)
    if len(letters) < 2:
        return next(iter(letters), document["target"]["device"])
    *_, last = letters.values()
    return f"machines A {'and' if len(letters) == 2 else 'to'} {last}, named below"


def _letters(document: Document) -> dict[str, str]:
    """Give each device that rows were timed on a letter; A has the most of them."""
    counts = Counter(
        _device(document, row)
        for row in document["rows"].values()
        if "ratio" in row and row["budget"] in document["config"]["budgets"]
    )
    ordered = sorted(counts, key=lambda device: (-counts[device], device))
    return dict(zip(ordered, ascii_uppercase, strict=False))


def _device(document: Document, row: Row) -> str:
    return str(row.get("device", document["target"]["device"]))


def _named(document: Document) -> str:
    """Name the machines behind the letters, where there are several."""
    letters = _letters(document)
    if len(letters) < 2:
        return ""
    names = "\n".join(f"- {letter}: {device}" for device, letter in letters.items())
    return (
        "Which machine a row's networks were cut and timed on stands under *on*, of several seeds "
        "in their order. Every machine has times, and so widths, of its own: rows compare best "
        f"within one.\n\n{names}"
    )


def _on(document: Document, rows: Sequence[Row]) -> str:
    """Give the letters of the machines of some seeds' rows, once where it is the same one."""
    letters = _letters(document)
    timed = sorted((row for row in rows if "ratio" in row), key=lambda row: int(row["seed"]))
    found = [letters[_device(document, row)] for row in timed]
    return ", ".join(found if len(set(found)) > 1 else found[:1]) or "–"


def _dense(document: Document) -> str:
    rows = rows_of(document, "dense", "100%")
    if not rows:
        return "The dense network was not judged yet."
    tuned = [row for row in rows if "tuned_top1" in row]
    after = f"; tuned like the others {_accuracy(tuned, 'tuned')}" if tuned else ""
    asked = (metric for metric in (TOP1, RESTRICTED) if metric in rows[0])
    untuned = " / ".join(_each([100 * row[metric] for row in rows]) for metric in asked)
    return f"Dense: {untuned} before any tuning{after} (top-1 in %)."


def _budget(document: Document, budget: str) -> str:
    methods = document["config"]["methods"]
    head = ["method", "measured", "cut", "tuned", "seeds"]
    table = [_line(method, rows_of(document, method, budget)) for method in methods]
    losses = [_loss(rows_of(document, method, budget)) for method in methods]
    if any(losses):
        head.insert(4, "test loss")
        for line, loss in zip(table, losses, strict=True):
            line.insert(4, loss or "–")
    if len(_letters(document)) > 1:
        head.append("on")
        for line, method in zip(table, methods, strict=True):
            line.append(_on(document, rows_of(document, method, budget)))
    return f"## {budget} of the latency\n\n{markdown(head, table)}{_reasons(document, budget)}"


def _line(method: str, rows: Sequence[Row]) -> list[str]:
    tuned = [row for row in rows if "tuned_top1" in row]
    if not tuned:
        state = "not run yet"
        if any("impossible" in row for row in rows):
            state = "nothing fits"
        return [method, state, "–", "–", "–"]
    return [
        method,
        _spread([100 * row["ratio"] for row in tuned if "ratio" in row], unit=" %"),
        _accuracy(tuned, "untuned"),
        _accuracy(tuned, "tuned"),
        str(len(tuned)),
    ]


def _loss(rows: Sequence[Row]) -> str:
    """Give the tuned networks' loss on the test pictures, of the rows that know it."""
    known = [row["tuned_test_loss"] for row in rows if "tuned_test_loss" in row]
    return f"{mean(known):.3f}" if known else ""


def _accuracy(rows: Sequence[Row], when: str) -> str:
    """Give the accuracy, and behind a stroke that among the classes that there are pictures of."""
    asked = [f"{when}_{metric}" for metric in (TOP1, RESTRICTED)]
    return " / ".join(
        _spread([100 * row[name] for row in rows]) for name in asked if name in rows[0]
    )


def _each(values: Sequence[float]) -> str:
    """Give the figure of every seed, once where it is the same: they may share weights, or not."""
    return ", ".join(dict.fromkeys(f"{value:.2f}" for value in values))


def _spread(values: Sequence[float], *, unit: str = "") -> str:
    """The mean, and between which values the seeds lie."""
    if not values:
        return "not timed yet"
    if len(values) == 1:
        return f"{values[0]:.1f}{unit}"
    return f"{mean(values):.1f}{unit} ({min(values):.1f} – {max(values):.1f})"


def _reasons(document: Document, budget: str) -> str:
    """Say once what each way answered where nothing fits."""
    said: dict[str, list[str]] = {}
    for method in document["config"]["methods"]:
        for row in rows_of(document, method, budget)[:1]:
            if "impossible" in row:
                floor = 100 * row["floor_share"] * float(budget.rstrip("%")) / 100
                said.setdefault(f"{floor:.1f} %", []).append(method)
    if not said:
        return ""
    parts = (f"{floor} for {', '.join(methods)}" for floor, methods in said.items())
    return f"\n\nWhere nothing fits, the least that was found takes {'; '.join(parts)}."


def _standing(document: Document) -> str:
    """Say for every budget whether the study's own method is ahead, and of whom it is not."""
    ours = document["config"]["ours"]
    lines = []
    judged = f"tuned_{_decisive(document)}"
    for budget in _sorted(document["config"]["budgets"]):
        own = _by_seed(document, ours, budget, judged)
        lead = {
            method: round(100 * mean(theirs[seed] - own[seed] for seed in theirs), 1)
            for method in document["config"]["methods"]
            if method != ours and (theirs := _by_seed(document, method, budget, judged, of=own))
        }
        if not lead:
            continue
        verdict = " and ".join(
            said
            for said in (
                _listed("behind", {m: v for m, v in lead.items() if v > 0}),
                _listed("level with", {m: v for m, v in lead.items() if v == 0}),
            )
            if said
        )
        verdict = verdict or f"ahead of the {len(lead)} others run"
        lines.append(f"- {budget}: {ours} is {verdict}.")
    if not lines:
        return ""
    several = "On average over the seeds that both were run with:\n\n"
    lines[0] = (several if len(_seeds(document)) > 1 else "") + lines[0]
    return "## Who is ahead after tuning\n\n" + "\n".join(lines)


def _trials(document: Document) -> str:
    """Show what networks lost on held-out pictures as cut and on trial, and what became of them."""
    config = document["config"]
    metric = f"tuned_{_decisive(document)}"
    table = []
    for method, settings in config["methods"].items():
        for budget in _sorted(config["budgets"]) if settings["by"] == "trial" else ():
            for row in rows_of(document, method, budget):
                for name, losses in row.get("tried", {}).items():
                    tuned = _by_seed(document, name, budget, metric).get(row["seed"])
                    loss = f"{losses['on_trial']:.3f}"
                    table.append(
                        [
                            budget,
                            str(row["seed"]),
                            name,
                            f"{losses['as_cut']:.3f}",
                            f"**{loss}**" if name == row["network_of"] else loss,
                            "–" if tuned is None else f"{100 * tuned:.1f}",
                        ]
                    )
    if not table:
        return ""
    head = ["budget", "seed", "network", "loss as cut", "on trial", "top-1 tuned"]
    said = "Losses on held-out pictures of tuning; the least on trial, in bold, goes on."
    return f"## On trial\n\n{said}\n\n{markdown(head, table)}"


def _by_seed(
    document: Document, method: str, budget: str, metric: str, *, of: Container[int] | None = None
) -> dict[int, float]:
    """Give a method's figure for every seed, or for those `of` others."""
    rows = rows_of(document, method, budget)
    return {
        row["seed"]: row[metric]
        for row in rows
        if metric in row and (of is None or row["seed"] in of)
    }


def _seeds(document: Document) -> set[int]:
    """Give the seeds of which there are tuned networks."""
    return {row["seed"] for row in document["rows"].values() if "tuned_top1" in row}


def _listed(relation: str, lead: dict[str, float]) -> str:
    """Say whom a method is behind or level with; empty where that is nobody."""
    names = (
        f"{method} by {points:.1f}" if points else method
        for method, points in sorted(lead.items(), key=lambda pair: -pair[1])
    )
    said = ", ".join(names)
    unit = " points" if any(lead.values()) else ""
    return f"{relation} {said}{unit}" if said else ""


def _decisive(document: Document) -> str:
    """The metric that says who is ahead: among the classes tuned on, where those are not all."""
    rows = document["rows"].values()
    return RESTRICTED if any(f"tuned_{RESTRICTED}" in row for row in rows) else TOP1


def _ablations(document: Document) -> str:
    if "ablations" not in document["config"]:
        return ""
    ablated = document["config"]["ablations"]
    whole, budget = ablated["of"], ablated["budget"]
    methods = {
        f"`{whole}`, distilled, in one shot, closed loop, measured table": whole,
        **{m: m for m in ablated["methods"]},
    }
    head = ["what is different", "measured", "cut", "tuned", "seeds"]
    table = []
    for said, method in methods.items():
        rows = [r for r in rows_of(document, method, budget) if r["seed"] in ablated["seeds"]]
        line = _line(said, rows)
        if method != whole and ablated["methods"][method]["by"] == "gradual" and rows:
            line[2] = "–"
        if len(_letters(document)) > 1:
            line.append(_on(document, rows))
        table.append(line)
    if len(_letters(document)) > 1:
        head.append("on")
    return f"## Ablations at {budget}\n\n{markdown(head, table)}"


def draw(document: Document, path: Path) -> None:
    """Draw accuracy over measured latency, a mark per network, alike for a method's."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "latprune"  # the same figures, the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
    for number, method in enumerate(document["config"]["methods"]):
        points = [
            (100 * row["ratio"], 100 * row[f"tuned_{_decisive(document)}"])
            for budget in _sorted(document["config"]["budgets"])
            for row in rows_of(document, method, budget)
            if "ratio" in row
        ]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, "os^vDPX*<"[number % 9], label=method, alpha=0.8)
    axes.set_xlabel("measured latency, % of the dense network's")
    among = ", among the classes tuned on" if _decisive(document) == RESTRICTED else ""
    axes.set_ylabel(f"top-1 after tuning, %{among}")
    axes.grid(alpha=0.3)
    if axes.has_data():
        figure.legend(loc="outside right upper", fontsize="small")  # it would lie on some
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
