"""What several commands print alike."""

from __future__ import annotations

import sys


def print_error(line: str) -> None:
    """Print a line to standard error."""
    print(line, file=sys.stderr)


def counted(count: int, what: str) -> str:
    """A count with its unit: `1 row`, `2,000 rows`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
