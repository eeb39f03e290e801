"""What several commands show alike: errors, counts, tables, progress.

Without a terminal there are neither colours nor bars nor boxes, and no line is cut or broken.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_UNBROKEN = 100_000
"""Columns where there is no terminal: more than any line has."""


def print_error(line: str) -> None:
    """Print a line to standard error."""
    print(line, file=sys.stderr)


def print_next(step: str) -> None:
    """Print what to do next, to standard error: the results on standard output stay alone."""
    print_error(f"next: {step}")


def counted(count: int, what: str) -> str:
    """A count with its unit: `1 row`, `2,000 rows`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def make_console(*, stderr: bool = False) -> Console:
    """A console on standard output, or on standard error."""
    from rich.console import Console

    console = Console(stderr=stderr)
    if not console.is_terminal:
        console.width = _UNBROKEN
    return console


def print_table(table: Table) -> None:
    """Print a table to standard output."""
    console = make_console()
    if table.title:
        # A table breaks its title at its own width, also in the middle of a path.
        console.print(table.title, style="italic", markup=False, highlight=False, soft_wrap=True)
        table.title = None
    if console.is_terminal:
        console.print(table)
        return
    table.box, table.pad_edge = None, False
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on standard error, where that is a terminal, until the block ends.

    Yields a function of (done, total).

    Args:
        what: What is counted, such as `folders`.
    """
    from rich.progress import Progress

    console = make_console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_interactive) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
