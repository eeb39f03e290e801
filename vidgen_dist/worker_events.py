"""What a worker notes of its work as it goes: for its log, and for metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Note:
    """Something that happened in a worker: whatever it says to the driver, and more.

    Args:
        what: An `Event`'s kind, or `joined` (the gang), `committed` (a row's video is whole on the storage),
            `adopted` (it was there already, of a run or a gang that was killed), `retried` (the storage
            refused, or memory was short), `saved` (a rendering, after a step) or `resumed` (one that was
            saved), these two and `adopted` with an error if it could not be. Followers of a gang note
            `started` and `rendered`, too.
        row: The row's id.
        rank: For `joined`.
        seconds: For `committed`, stage -> seconds.
        frames, bytes: For `committed` and `adopted`, the video's; bytes for `saved`, too.
        step: For `saved` and `resumed`, denoising steps that were done.
        error, message: Class and text of what went wrong.
    """

    what: str
    row: str | None = None
    rank: int | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    frames: int | None = None
    bytes: int | None = None
    step: int | None = None
    error: str | None = None
    message: str = ""


Notes = Callable[[Note], None]
"""Takes notes, from any thread, and neither raises nor waits for long."""


def ignore(_note: Note) -> None:
    """Nobody wants to know."""


def together(*takers: Notes) -> Notes:
    """All of them take each note."""

    def take(note: Note) -> None:
        for taker in takers:
            taker(note)

    return take
