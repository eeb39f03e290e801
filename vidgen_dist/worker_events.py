"""Events in a worker, as its log and its metrics get them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class WorkerEvent:
    """Something that happened in a worker: whatever it says to the driver, and more.

    Args:
        what: A `WorkerMessage`'s kind, or `joined` (the gang), `committed` (a row's video is whole on the
            storage), `adopted` (it was there already, left by a run or a gang that was killed), `retried`
            (the storage refused, or memory was short), `saved` (a resume state was written) or `resumed` (one
            was read). `adopted`, `saved` and `resumed` have an error if it failed. Followers of a gang report
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


OnWorkerEvent = Callable[[WorkerEvent], None]
"""Takes events, from any thread; neither raises nor waits for long."""


def ignore_event(_event: WorkerEvent) -> None:
    """Drop an event."""


def combine(*listeners: OnWorkerEvent) -> OnWorkerEvent:
    """A listener that passes each event to all of these."""

    def record(event: WorkerEvent) -> None:
        for listener in listeners:
            listener(event)

    return record
