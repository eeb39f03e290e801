"""What a `vidgen` command of a test leaves behind; the fixture `vidgen` runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class CommandResult:
    """Exit status and what was printed."""

    status: int
    out: str
    err: str


Vidgen = Callable[..., CommandResult]
"""The type of the fixture: `vidgen("render", manifest, output)`."""
