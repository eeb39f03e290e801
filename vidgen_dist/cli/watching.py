"""`vidgen status --watch`: a live view of a run on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vidgen_dist import printing
from vidgen_dist.cli.terminal import make_console
from vidgen_dist.maintenance.status import describe_gangs, describe_stragglers
from vidgen_dist.maintenance.watch import Sighting, watch
from vidgen_dist.observability.progress import span
from vidgen_dist.output.status_file import GangStatus, RunStatus

_OTHER_LINES = 8
"""Lines of the view above its gangs, about."""

_BAR = 40
"""Columns of the bar."""


def show_until_the_end(output: str, seconds: float | None) -> None:
    """Show how a run stands until it has ended, or nobody reads what is printed.

    Args:
        output: Output of a run.
        seconds: Between two looks, see `watch`.

    Raises:
        Refused: There is no run's output.
        KeyboardInterrupt: Ctrl-C.
    """
    console = make_console()
    sightings = watch(output, seconds)
    if not console.is_interactive:
        for sighting in sightings:
            print(line_of(sighting))
            if printing.output_is_lost():
                return
        return
    latest = _Latest(sightings)
    # Times grow from second to second, however seldom the run writes its status.
    with Live(
        get_renderable=lambda: latest.view(console.height),
        console=console,
        refresh_per_second=1,
        transient=True,
    ):
        latest.follow()


class _Latest:
    """The latest of several sightings, which another thread shows."""

    def __init__(self, sightings: Iterator[Sighting]) -> None:
        self._sightings = sightings
        self._latest: Sighting | None = None

    def follow(self) -> None:
        """Take one after the other, to the end."""
        for sighting in self._sightings:
            # What was seen stays on the screen while the storage does not answer.
            run = sighting.run or (self._latest.run if self._latest and sighting.fault else None)
            self._latest = Sighting(run, sighting.name, sighting.fault)

    def view(self, height: int) -> RenderableType:
        """The latest one, see `view_of`."""
        return "" if self._latest is None else view_of(self._latest, height)


def line_of(sighting: Sighting) -> str:
    """A sighting in one line."""
    now = f"{datetime.now(UTC):%H:%M:%S}Z"
    if sighting.fault:
        return f"{now} the output cannot be read: {sighting.fault}"
    run = sighting.run
    if run is None:
        return f"{now} starting: run {sighting.name} has not reported yet"
    gangs = describe_gangs(run.gang_states, (gang.state for gang in run.gangs))
    return f"{now} {_rows(run)}{''.join(f', {part}' for part in _pace(run))}; gangs: {gangs}"


def view_of(sighting: Sighting, height: int) -> RenderableType:
    """A sighting as a picture of so many lines, at most."""
    run = sighting.run
    if run is None:
        return Text(line_of(sighting))
    silent = f"last heard of {span(run.silent_seconds)} ago"
    head = Text(f"run {run.run}, at work for {_since(run.since)}, {silent}", style="bold")
    bar = ProgressBar(
        total=max(run.total, 1), completed=run.done + run.failed, width=_BAR, complete_style="green"
    )
    counts = Table.grid(padding=(0, 2, 0, 0))
    counts.add_row(bar, Text(", ".join([_rows(run), *_pace(run)])))
    parts: list[RenderableType] = [head, counts]
    if run.failures:
        classes = ", ".join(f"{count:,} {name}" for name, count in run.failures.items())
        parts.append(Text(f"failed: {classes}", style="red"))
    if sighting.fault:
        parts.append(Text(f"the output cannot be read: {sighting.fault}", style="red"))
    parts += [Text(line, style="yellow") for line in _stragglers(run)]
    parts.append(Text(f"gangs: {describe_gangs(run.gang_states, (gang.state for gang in run.gangs))}"))
    return Group(*parts, _gangs(run.gangs, max(3, height - _OTHER_LINES - len(parts))))


def _gangs(gangs: Sequence[GangStatus], most: int) -> Table:
    """What each gang does; those that render first."""
    table = Table("gang", "does", "row", "for", "stage", "step", box=None, pad_edge=False)
    table.columns[2].overflow = "ellipsis"
    for column in table.columns:
        column.no_wrap = True
    ordered = sorted(gangs, key=lambda gang: gang.row is None)
    for gang in ordered[:most]:
        step = "" if gang.step is None else f"{gang.step} of {gang.steps}"
        since = "" if gang.since is None else _since(gang.since)
        table.add_row(*map(Text, (gang.gang, gang.state, gang.row or "", since, gang.stage or "", step)))
    if len(ordered) > most:
        table.add_row(Text(f"and {len(ordered) - most:,} more"))
    return table


def _rows(run: RunStatus) -> str:
    ended = run.done + run.failed
    failed = f", {run.failed:,} failed" if run.failed else ""
    return f"{ended:,} of {run.total:,} rows{failed}"


def _pace(run: RunStatus) -> Iterator[str]:
    if run.videos_per_minute is not None:
        yield f"{run.videos_per_minute:.1f} videos/min"
    if run.seconds_left is not None:
        yield f"{span(run.seconds_left)} left"


def _stragglers(run: RunStatus) -> list[str]:
    return describe_stragglers(map(vars, run.slow_rows), map(vars, run.slow_gangs))


def _since(when: datetime) -> str:
    """How long ago that was, by this host's clock."""
    return span(max(0.0, (datetime.now(UTC) - when).total_seconds()))
