"""What several commands show alike: errors, counts, progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def print_error(line: str) -> None:
    """Print a line to standard error."""
    print(line, file=sys.stderr)


def counted(count: int, what: str) -> str:
    """A count with its unit: `1 row`, `2,000 rows`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on standard error, where that is a terminal, until the block ends.

    Yields a function of (done, total).

    Args:
        what: What is counted, such as `folders`.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
