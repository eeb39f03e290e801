"""Events in a worker, for its log and its metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

EVENTS: Mapping[str, str] = {
    "born": "the process started; with host, process id, NPUs and Ray's actor id",
    "seated": "the worker is ready to join its gang; the message is its address",
    "joined": "it has joined the gang, with its `rank`",
    "ready": "the model is loaded",
    "resumed": "a resume state was read, after which `step`; with an `error`: it could not be read",
    "started": "the model began a row",
    "saved": "a resume state was written, after which `step`; with an `error`: it could not be written",
    "loras": "the LoRAs in the weights were changed for the row",
    "rendered": "the row left the model",
    "committed": "the row's video is whole on the storage",
    "adopted": "the video was stored before, by a run or a worker that was killed; with an `error`: the "
    "storage did not say whether it was",
    "done": "the row's video is stored, and its ledger entry can be written",
    "failed": "the row is given up, and its ledger entry can be written",
    "retried": "the storage refused, or memory was short, and it is tried again",
    "returned": "the row goes back and will not be begun: an idle gang gets it",
    "stuck": "nothing more can be written; the message says where and why",
    "broken": "the model could not be loaded here, or the worker can do no more",
    "refused": "the model cannot be loaded anywhere",
    "stopped": "nothing more will come from this worker",
}
"""What each event means, in the documentation's words."""


@dataclass(frozen=True)
class WorkerEvent:
    """Something that happened in a worker: every message that it sends to the driver, and more.

    Args:
        kind: One of `EVENTS`. Followers of a gang report `started` and `rendered`, too.
        row: The row's id.
        rank: For `joined`.
        seconds: For `committed`, stage -> seconds.
        frames, bytes: For `committed` and `adopted`, those of the video; bytes for `saved`, too.
        step: For `saved` and `resumed`, the number of denoising steps that were done.
        error, message: Class and message of the error.
    """

    kind: str
    row: str | None = None
    rank: int | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    frames: int | None = None
    bytes: int | None = None
    step: int | None = None
    error: str | None = None
    message: str = ""


OnWorkerEvent = Callable[[WorkerEvent], None]
"""Takes events, from any thread; must neither raise nor wait for long."""


def ignore_event(_event: WorkerEvent) -> None:
    """Drop an event."""


def combine(*listeners: OnWorkerEvent) -> OnWorkerEvent:
    """A listener that passes each event to all of these."""

    def pass_on(event: WorkerEvent) -> None:
        for listener in listeners:
            listener(event)

    return pass_on
