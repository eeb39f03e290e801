"""Progress on the console: lines where there is no terminal, a bar where there is one, and the pace."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from vidgen_dist.observability import progress
from vidgen_dist.observability.progress import RECENT_SECONDS, ProgressPolicy, RunProgress, span


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def render(shown: RunProgress, clock: Clock, rows: int, seconds: float) -> None:
    """Finish a number of rows, each in so many seconds."""
    for _ in range(rows):
        clock.now += seconds
        shown.add()
        shown.tick(1)


def test_without_a_terminal_lines_are_printed(clock: Clock) -> None:
    output = io.StringIO()
    with RunProgress(Console(file=output, width=40), total=100, done=10) as shown:
        shown.tick(0)
        clock.now += ProgressPolicy.line_seconds
        shown.tick(0)
        shown.tick(1)
        render(shown, clock, 4, 10.0)
        shown.add("OSError")
        clock.now += ProgressPolicy.line_seconds
        shown.tick(1, "2 NPUs")
    assert output.getvalue().splitlines() == [
        "loading the model: 10 of 100 rows",
        "rendering: 12 of 100 rows, 6.0 videos/min, 14 min 40 s left",
        "rendering: 14 of 100 rows, 6.0 videos/min, 14 min 20 s left",
        "rendering, waiting for 2 NPUs: 15 of 100 rows, 4.4 videos/min, 19 min 29 s left, 1 failed",
    ]
    assert (shown.done, shown.failed, shown.left, shown.failures) == (4, 1, 85, {"OSError": 1})


def test_a_run_without_rows_left_is_finished(clock: Clock) -> None:
    output = io.StringIO()
    with RunProgress(Console(file=output), total=2, done=0) as shown:
        shown.tick(1)
        render(shown, clock, 2, ProgressPolicy.line_seconds)
    assert output.getvalue().splitlines()[-1] == "finished: 2 of 2 rows, 4.0 videos/min"


def test_on_a_terminal_a_bar_is_shown(clock: Clock) -> None:
    output = io.StringIO()
    with RunProgress(Console(file=output, width=120, force_terminal=True), total=8, done=2) as shown:
        shown.tick(1)
        render(shown, clock, 3, 1.0)
        shown.print_line("a line that stays")
    assert "5/8" in output.getvalue()
    assert "60.0 videos/min" in output.getvalue()
    assert "a line that stays" in output.getvalue()


def test_the_pace_is_that_of_the_last_minutes(clock: Clock) -> None:
    shown = RunProgress(Console(file=io.StringIO()), total=10_000, done=0)
    assert shown.recent_pace() == 0.0
    # Loading the model does not count.
    clock.now += 1000
    shown.tick(1)
    render(shown, clock, 1000, 1.0)
    assert shown.recent_pace() == shown.videos_per_minute() == pytest.approx(60.0)
    render(shown, clock, int(2 * RECENT_SECONDS / 6), 6.0)
    assert shown.recent_pace() == pytest.approx(10.0, rel=0.01)
    assert shown.videos_per_minute() == pytest.approx(60 * 1200 / 2200)
    # The pace of a run that does not proceed decreases.
    clock.now += RECENT_SECONDS
    shown.tick(1)
    assert shown.recent_pace() < 1.0


def test_durations_are_text_for_people() -> None:
    assert [span(seconds) for seconds in (0.4, 59, 61, 3600, 90_000)] == [
        "0 s",
        "59 s",
        "1 min 01 s",
        "1 h 00 min",
        "25 h 00 min",
    ]
