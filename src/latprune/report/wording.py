"""The rows of a report as words: the same in a terminal, in a file and in `print(report)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from latprune.report.comparison import Report

UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


class Row(NamedTuple):
    """One quantity of both networks.

    Attributes:
        what: Its name.
        dense: Of the dense network.
        small: Of the pruned one.
        change: From the one to the other.
    """

    what: str
    dense: str
    small: str
    change: str


def rows(report: Report) -> list[Row]:
    """Put a report's quantities into words."""
    dense, small, precision = report.dense, report.small, report.target.precision
    return [
        Row(
            "measured",
            f"{dense.latency.median_ms:.3f} ms",
            f"{small.latency.median_ms:.3f} ms",
            f"{report.speedup:.2f}x as fast",
        ),
        Row(
            "  spread (IQR)",
            f"{dense.latency.iqr_ms:.3f} ms",
            f"{small.latency.iqr_ms:.3f} ms",
            "",
        ),
        Row("ratio", "", percent(report.ratio), f"IQR {percent(report.ratio_iqr)}"),
        Row(
            "predicted",
            "",
            f"{report.predicted_ms:.3f} ms",
            percent(report.predicted_ms / report.plan.baseline_ms),
        ),
        Row(
            "parameters",
            count(dense.parameters),
            count(small.parameters),
            percent(small.parameters / dense.parameters),
        ),
        Row("MACs", count(dense.macs), count(small.macs), percent(small.macs / dense.macs)),
        *_accuracies(
            dense.accuracy, small.accuracy, suffix="" if precision == "fp32" else " in fp32"
        ),
        *_accuracies(dense.shipped, small.shipped, suffix=f" in {precision}"),
    ]


def _accuracies(
    dense: Mapping[str, float], small: Mapping[str, float], *, suffix: str
) -> Iterator[Row]:
    """Put the pruned network's accuracies beside the dense one's, where that was judged."""
    for name, after in small.items():
        before = dense.get(name)
        if before is None:
            yield Row(name + suffix, "", percent(after), "")
        else:
            change = f"{100 * (after - before):+.2f} points"
            yield Row(name + suffix, percent(before), percent(after), change)


def summary(report: Report) -> str:
    """Give a report in a few aligned lines of plain text, without the widths."""
    table = [Row("", "dense", "pruned", ""), *rows(report)]
    wide = [max(len(row[column]) for row in table) for column in range(3)]
    lines = [
        f"{row.what:<{wide[0]}}  {row.dense:>{wide[1]}}  {row.small:>{wide[2]}}  {row.change}"
        for row in table
    ]
    return "\n".join(
        [
            f"target {report.target.describe()}",
            *map(str.rstrip, lines),
            report.verdict,
            *filter(None, [report.unjudged]),
        ]
    )


def percent(share: float) -> str:
    """Write a share in percent."""
    return f"{100 * share:.2f} %"


def count(number: int) -> str:
    """Write a large number with three or four digits and a unit: 25.56 M."""
    for size, unit in UNITS:
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)
