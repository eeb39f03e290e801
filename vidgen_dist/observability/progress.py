"""A run's progress on the console: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

RECENT_SECONDS = 600.0
"""The pace over this time gives the time left; a run's own pace is that of all its time."""

_STEPS = 60

_LINE = re.compile(r"[a-z][^:]*: \d+ of \d+ rows(, .*)?")


@dataclass(frozen=True)
class ProgressPolicy:
    """How often progress is printed.

    Args:
        line_seconds: Seconds between two lines where there is no terminal: logs should stay short.
    """

    line_seconds: float = 15.0


class RunProgress:
    """Counts rows and shows them, with videos per minute and the time left.

    Args:
        console: Where they are shown.
        total: Rows that are done or to be rendered.
        done: Rows that were done before.
        policy: How often they are shown.

    Attributes:
        total, before: The arguments `total` and `done`.
        done, failed: Numbers of rows in this run.
        failures: Error class -> rows that failed with it.
    """

    def __init__(
        self, console: Console, *, total: int, done: int, policy: ProgressPolicy = ProgressPolicy()
    ) -> None:
        self._console = console
        self._policy = policy
        self.total = total
        self.before = done
        self._ready = 0
        self._waiting = ""
        self._begun: float | None = None
        self._printed_at = time.monotonic()
        self.done = 0
        self.failed = 0
        self.failures: Counter[str] = Counter()
        # (time, videos done by then): a few points within the last `RECENT_SECONDS`, and one before.
        self._points: deque[tuple[float, int]] = deque()
        self._bar: Progress | None = None
        # A terminal without control codes shows no bar.
        if console.is_interactive:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[pace]}"),
                console=console,
            )
            self._task = self._bar.add_task("starting", total=total, completed=done, pace="")

    def __enter__(self) -> RunProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def print_line(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    @property
    def left(self) -> int:
        """Rows that are neither done nor failed."""
        return self.total - self.before - self.done - self.failed

    def add(self, error: str | None = None, count: int = 1) -> None:
        """Count one more row, or more, as done, or as failed with an error of this class."""
        if error is not None:
            self.failed += count
            self.failures[error] += count
        else:
            self.done += count

    def tick(self, ready: int, waiting: str = "") -> None:
        """Show the progress.

        Args:
            ready: Gangs whose model is loaded.
            waiting: What other gangs have been waiting for, for long: `2 NPUs`.
        """
        if ready and self._begun is None:
            # Loading the model does not count for the pace.
            self._begun = time.monotonic()
        self._ready = ready
        self._waiting = waiting
        self._add_point()
        if self._bar is not None:
            self._bar.update(
                self._task,
                description=self._describe_state(),
                completed=self.before + self.done + self.failed,
                pace=self.pace(),
            )
        elif time.monotonic() - self._printed_at >= self._policy.line_seconds:
            self._printed_at = time.monotonic()
            count = self.before + self.done + self.failed
            pace = self.pace()
            self.print_line(
                f"{self._describe_state()}: {count} of {self.total} rows{f', {pace}' if pace else ''}"
            )

    def pace(self) -> str:
        """Videos per minute, time left and failures, as far as they are known, as text."""
        parts = []
        rate = self.recent_pace()
        if rate:
            parts += [f"{rate:.1f} videos/min", f"{span(60 * self.left / rate)} left"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        return ", ".join(parts)

    def videos_per_minute(self) -> float:
        """Videos done per minute since the first model was loaded; 0 while none is done."""
        if self._begun is None or not self.done:
            return 0.0
        return 60 * self.done / max(time.monotonic() - self._begun, 1e-9)

    def recent_pace(self) -> float:
        """Videos done per minute within the last `RECENT_SECONDS`; 0 while none is done."""
        if not self._points:
            return 0.0
        since, done = self._points[0]
        return 60 * (self.done - done) / max(time.monotonic() - since, 1e-9)

    def _add_point(self) -> None:
        if self._begun is None:
            return
        now = time.monotonic()
        if not self._points or now - self._points[-1][0] >= RECENT_SECONDS / _STEPS:
            self._points.append((now, self.done))
        while len(self._points) > 1 and now - self._points[1][0] >= RECENT_SECONDS:
            self._points.popleft()

    def _describe_state(self) -> str:
        if self._waiting:
            return f"{'rendering, ' if self._ready else ''}waiting for {self._waiting}"
        if self._ready:
            return "rendering"
        return "loading the model" if self._begun is None else "waiting"


def is_progress_line(line: str) -> bool:
    """Whether a line of a run's output is one that takes the bar's place where there is no terminal."""
    return _LINE.fullmatch(line.strip()) is not None


def span(seconds: float) -> str:
    """A duration for people: `3 min 20 s`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
