"""A line's staircase in a terminal: a row per width, time to the right, a bracket around a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from latprune.latency.lines import line_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from latprune.latency.lines import Line, Point

LEGEND = "░┃ the stairs that planning sees   ● measured median   ─ its IQR"
_LEFT = 28  # columns before the picture
_LEAST_ROOM = 11  # for a picture, and 0 and the longest time above it
_AXES = {"reads": "channels read", "writes": "channels written", "both": "channels"}


def picture(line: Line, *, columns: int = 80) -> Iterator[Text]:
    """Draw a line, and what lies beyond it up to the widest layer that was measured.

    Args:
        line: What to draw.
        columns: Of the terminal.
    """
    yield Text(line_words(line), style="bold")
    yield Text(_finding(line))
    room = max(_LEAST_ROOM, columns - _LEFT - 1)
    most_ms = max(_reach(point) for point in line.points)
    scale = f"0{f'{most_ms:.3f} ms':>{room - 1}}"
    yield Text(f"{'width':>6}{'ms':>9}{'IQR':>7}      {scale}", style="dim")
    for point, bracket in zip(line.points, _brackets(line), strict=True):
        yield _row(point, bracket, room=room, most_ms=most_ms)
    for point in line.wider:
        yield _beyond(point)


def _finding(line: Line) -> str:
    """Say where the steps are, how high, and how much of that is noise."""
    moving, noise = _AXES[line.axis], f"IQR {line.noise_ms:.4f} ms"
    if line.stairs is None:
        return f"by the channel, without steps; {noise}"
    if line.stairs.step == line.stairs.unit:
        return f"no steps wider than {line.stairs.unit} {moving}; {noise}"
    times = f" ({line.step_ms / line.noise_ms:.1f}x)" if line.noise_ms else ""
    return f"steps of {line.stairs.step} {moving}, {line.step_ms:.4f} ms high; {noise}{times}"


def _reach(point: Point) -> float:
    assert point.measured is not None  # every point of a line is measured
    return max(point.expected_ms, point.measured.median_ms + point.measured.iqr_ms / 2)


def _brackets(line: Line) -> list[str]:
    """Corners and sides of a bracket around the points of every step."""
    if line.stairs is None:
        return [" "] * len(line.points)
    steps = [-(-point.width // line.stairs.step) for point in line.points]
    before, after = [0, *steps[:-1]], [*steps[1:], 0]
    return [
        ("│" if step == then else "└") if step == last else ("┌" if step == then else "╶")
        for last, step, then in zip(before, steps, after, strict=True)
    ]


def _row(point: Point, bracket: str, *, room: int, most_ms: float) -> Text:
    found = point.measured
    assert found is not None

    def column(ms: float) -> int:
        return round(min(max(ms / most_ms, 0.0), 1.0) * (room - 1))

    expected, middle = column(point.expected_ms), column(found.median_ms)
    cells = ["░"] * expected + [" "] * (room - expected)
    low, high = (column(found.median_ms + sign * found.iqr_ms / 2) for sign in (-1, 1))
    cells[low : high + 1] = "─" * (high + 1 - low)
    cells[expected] = "┃"
    cells[middle] = "●"
    left = f"{_numbers(point)}    {bracket} "
    return Text(f"{left}{''.join(cells)}".rstrip())


def _numbers(point: Point) -> str:
    found = point.measured
    if found is None:
        return f"{point.width:>6}{point.expected_ms:>9.3f}{'~':>7}"
    return f"{point.width:>6}{found.median_ms:>9.3f}{found.iqr_ms / found.median_ms:>7.0%}"


def _beyond(point: Point) -> Text:
    how = "measured" if point.measured else "interpolated"
    return Text(f"{_numbers(point)}      {how}", style="dim")
