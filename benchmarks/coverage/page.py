"""What the records say, as a line, as bars and as a page."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

Record = Mapping[str, Any]

MOST_REASONS, MOST_NAMES = 15, 20
LONGEST_TRACE_S = 30.0

OUTCOMES = {
    "exact": "The cut network computes what the dense one does without those channels.",
    "structure": "The same, once statistics over channels (layer norm, group norm, standardised "
    "weights, the scale of attention, a convolution along channels) are stood in for: after a cut "
    "they see fewer channels, which tuning makes up for.",
    "whole": "Nothing can be cut; every channel is frozen, with a reason.",
    "open": "It could not be judged: its outputs on random weights say nothing.",
    "unfinished": "It took more time or memory than it was given.",
    "wrong": "The cut network computes something else.",
    "crash": "Tracing or cutting it fails, or the cut network does not run.",
}

HEAD = """# Coverage

Which networks latprune can cut, how much of them, and whether what remains is right. Written by
`make coverage` from `benchmarks/results/coverage.json`; nothing here is typed by hand.

Every network is built with random weights and an input of two small images, traced, and cut by 30 %
of every channel group, at random. The judge trusts nothing that the graph says: it overwrites all
weights with their own indices, cuts, reads back which ones survived, and compares the cut network
with the dense one whose other weights are zero, in float64 (`benchmarks/coverage/judge.py`).
"""

COLUMNS = """
- *layers*: convolutions and linear layers that lost weights in that cut;
- *MACs*: the share of multiply-accumulates that would go with every group at its narrowest;
- *trains*: forward and backward run in training mode, and all gradients are finite;
- *file*: saved and loaded into a network built anew, weights and outputs are bit-equal;
- *ONNX*: exported, ONNX Runtime agrees to 1e-4;
- *trace*: seconds of one thread, and how many plain forwards of the same input that is.
"""


def outcome(record: Record) -> str:
    """Give one word of `OUTCOMES` for a record."""
    failures = record.get("failures", {})
    if failures.keys() & {"build", "trace", "cut", "judge"}:
        memory = any("allocate" in text or "MemoryError" in text for text in failures.values())
        return "unfinished" if memory else "crash"
    if "holds" in record:
        return str(record["holds"])
    if "stopped" in record:
        return "unfinished"
    return "whole" if record.get("groups") == 0 else "crash"


def line(key: str, record: Record) -> str:
    """Give one line for the terminal."""
    said = [f"{key}: {outcome(record)}"]
    if "layers" in record:
        said.append(f"{record['layers_cut']} of {record['layers']} layers")
    if "macs_prunable" in record:
        said.append(f"{record['macs_prunable']:.0%} of the MACs, traced in {record['trace_s']} s")
    if "stopped" in record:
        said.append(f"stopped {record['stopped']} in stage {record.get('stage')}")
    said += [f"{stage}: {text}" for stage, text in record.get("failures", {}).items()]
    said += [record["why"]] if record.get("why") else []
    return ", ".join(said)


def bars(records: Collection[Record]) -> list[tuple[str, bool]]:
    """Give what is to hold, in words with what was found, and whether it does."""
    found = Counter(map(outcome, records))
    count = len(records)
    right = found["exact"] + found["structure"]
    broad = sum(_share_cut(record) >= 0.9 for record in records)
    slowest = max((record.get("trace_s", 0.0) for record in records), default=0.0)
    return [
        (f"no network is cut wrongly: {found['wrong']} of {count} are", not found["wrong"]),
        (f"none crashes: {found['crash']} of {count} do", not found["crash"]),
        (
            f"95 % are exact, at least in structure: {right} of {count} ({right / count:.1%})",
            right >= 0.95 * count,
        ),
        (
            f"of 90 %, nine tenths of the layers can be cut: of {broad} of {count} "
            f"({broad / count:.1%})",
            broad >= 0.9 * count,
        ),
        (
            f"none takes more than {LONGEST_TRACE_S:g} s to trace: the slowest takes "
            f"{slowest:.1f} s",
            slowest <= LONGEST_TRACE_S,
        ),
    ]


def page(document: Mapping[str, Any], *, listed: Collection[str], code: str) -> str:
    """Write the page.

    Args:
        document: The result file.
        listed: The keys of all networks of the list, examined or not.
        code: The digest of the code that a run would have now.
    """
    records: Mapping[str, Record] = document["networks"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    dates = sorted({record["date"] for record in records.values()})
    span = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    parts = [
        HEAD,
        f"{len(records)} networks, {span}; {versions}.",
        _earlier([key for key, record in records.items() if record["code"] != code]),
        _missing([key for key in listed if key not in records]),
        "## What was asked for",
        "\n".join(
            f"- {'held' if held else '**missed**'}: {text}" for text, held in bars(records.values())
        ),
        "## What was found",
        _outcomes(records.values()),
        _checks(records.values()),
        "## What stays, and why",
        _reasons(records),
        "## What failed",
        _failures(records),
        "## Network by network",
        COLUMNS.strip(),
        *_families(records),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _earlier(keys: Collection[str]) -> str:
    if not keys:
        return ""
    return (
        f"{len(keys)} of them were examined with an earlier state of the code than this one; "
        "`make coverage` brings them up to date."
    )


def _missing(keys: Collection[str]) -> str:
    if not keys:
        return ""
    names = ", ".join(f"`{key}`" for key in [*keys][:MOST_NAMES])
    names += ", …" if len(keys) > MOST_NAMES else ""
    return f"Of the list, {len(keys)} were not examined yet, and count nowhere here: {names}."


def _checks(records: Collection[Record]) -> str:
    """What the networks that were cut right do besides."""
    right = [record for record in records if outcome(record) in ("exact", "structure")]
    said = [
        f"{sum(record.get(what) is True for record in right)} {does}"
        for what, does in (
            ("trains", "train"),
            ("round_trip", "come back from a file bit-equal"),
            ("onnx", "agree with torch as ONNX files"),
        )
    ]
    return f"Of the {len(right)} that are cut right, {', '.join(said)}."


def _outcomes(records: Collection[Record]) -> str:
    found = Counter(map(outcome, records))
    lines = ["| outcome | networks | meaning |", "| --- | --- | --- |"]
    lines += [
        f"| {word} | {found[word]} | {text} |" for word, text in OUTCOMES.items() if found[word]
    ]
    return "\n".join(lines)


def _reasons(records: Mapping[str, Record]) -> str:
    """The commonest reasons for which channels stay, outputs of the model left out."""
    networks: dict[str, list[str]] = defaultdict(list)
    channels: Counter[str] = Counter()
    for key, record in records.items():
        for frozen in record.get("frozen", ()):
            if frozen["reason"] == "it is an output of the model":
                continue
            reason = re.sub(r"\d+", "N", frozen["reason"])  # the same one at other widths
            if key not in networks[reason]:
                networks[reason].append(key)
            channels[reason] += frozen["channels"]
    lines = ["| reason | networks | channels | such as |", "| --- | --- | --- | --- |"]
    for reason in sorted(networks, key=lambda r: (-len(networks[r]), r))[:MOST_REASONS]:
        first = ", ".join(f"`{key}`" for key in networks[reason][:3])
        lines.append(
            f"| {_cell(reason)} | {len(networks[reason])} | {channels[reason]} | {first} |"
        )
    left_out = len(networks) - MOST_REASONS
    more = f"\n\nand {left_out} rarer reasons, which the result file has." if left_out > 0 else ""
    return "\n".join(lines) + more


def _failures(records: Mapping[str, Record]) -> str:
    lines = []
    for key, record in records.items():
        stopped = record.get("stopped")
        said = [f"{stage}: {text}" for stage, text in record.get("failures", {}).items()]
        said += [f"stopped {stopped}, in stage {record.get('stage')}"] if stopped else []
        said += [record["why"]] if record.get("why") else []
        said += [f"{what} fails" for what in ("trains", "round_trip") if record.get(what) is False]
        lines += [f"- `{key}` {_cell('; '.join(said))}"] if said else []
    return "\n".join(lines) or "Nothing did."


def _families(records: Mapping[str, Record]) -> Iterable[str]:
    families: dict[tuple[str, str], list[tuple[str, Record]]] = defaultdict(list)
    for key, record in records.items():
        library, _, name = key.partition(":")
        families[library, record["family"]].append((name, record))
    for (library, family), rows in families.items():
        yield f"### {family} ({library})"
        yield "\n".join(
            [
                "| network | outcome | layers | MACs | trains | file | ONNX | trace |",
                "| --- | --- | --- | --- | --- | --- | --- | --- |",
                *(_row(name, record) for name, record in rows),
            ]
        )


def _row(name: str, record: Record) -> str:
    layers = f"{_share_cut(record):.0%}" if "layers" in record else "–"
    macs = f"{record['macs_prunable']:.0%}" if "macs_prunable" in record else "–"
    checks = " | ".join(_mark(record.get(what)) for what in ("trains", "round_trip", "onnx"))
    return f"| {name} | {outcome(record)} | {layers} | {macs} | {checks} | {_trace(record)} |"


def _trace(record: Record) -> str:
    if "trace_s" not in record:
        return "–"
    forwards = record["trace_s"] / max(record["forward_s"], 1e-3)
    return f"{record['trace_s']:.1f} s, {forwards:.0f}x"


def _share_cut(record: Record) -> float:
    return float(record.get("layers_cut", 0) / max(record.get("layers", 0), 1))


def _mark(value: bool | None) -> str:
    return "–" if value is None else "yes" if value else "**no**"


def _cell(text: str) -> str:
    """Keep a text within its cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
