"""Progress goes to stderr, in lines where nobody sees a bar move."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from latprune.cli.live import Bars, Lines, bars_on, working


def test_lines_are_few_however_many_steps_there_are() -> None:
    written, now = io.StringIO(), 0.0
    lines = Lines(written, every_s=10.0, clock=lambda: now)

    lines.stage("measure")
    for done in range(1, 101):
        now += 0.5
        lines.step(done, 100, "conv")

    assert written.getvalue().splitlines() == [
        "measure",
        *(f"measure: {done}/100 conv" for done in (20, 40, 60, 80, 100)),
    ]


def test_a_bar_that_is_over_stays_full() -> None:
    written = io.StringIO()
    with bars_on(Console(file=written, force_terminal=True, width=100)) as shown:
        bars = Bars(shown)
        bars.stage("measure")
        bars.step(3, 7, "conv")
        bars.stage("plan")
        bars.step(1, None, "choosing widths")

        measure, plan = shown.tasks

    assert (measure.completed, measure.total, measure.finished) == (7, 7, True)
    assert (plan.description, plan.fields["what"]) == ("plan", "choosing widths")


@pytest.mark.parametrize("columns", [30, 40, 70, 80])
def test_a_stage_is_one_line_in_which_numbers_stay(columns: int) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=columns)
    with bars_on(console) as shown:
        bars = Bars(shown)
        bars.stage("measure (about 3 minutes, 1,234 layers)")
        bars.step(123, 4567, "depthwise convolution 128 → 128 at 56x56, norm, relu")
    written.seek(0), written.truncate()
    console.print(shown.get_renderable())

    (line,) = Text.from_ansi(written.getvalue()).plain.rstrip().splitlines()
    assert len(line) <= columns
    assert " 123/4567 0:00:00" in line
    assert line.startswith("meas")


def test_what_libraries_print_does_not_mix_with_results(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with working() as progress:
        progress.stage("export")
        print("a library's chatter")

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["export", "a library's chatter"]
