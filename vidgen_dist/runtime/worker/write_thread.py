"""The write thread of a worker: it turns frames into stored videos and ledger entries."""

from __future__ import annotations

import functools
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidgen_dist import media, quality
from vidgen_dist.output.ledger_entries import RowAttempt, done_entry, failed_entry
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.output.resume_states import ResumeStates, SavedState
from vidgen_dist.provenance import provenance_tags
from vidgen_dist.runtime.messages import Job, WorkerMessage
from vidgen_dist.runtime.watchdog import Pulse
from vidgen_dist.storage import failures
from vidgen_dist.storage.failures import describe_error
from vidgen_dist.storage.names import safe_name
from vidgen_dist.storage.retries import with_retries
from vidgen_dist.worker_events import OnWorkerEvent, WorkerEvent

if TYPE_CHECKING:
    from vidgen_dist.output.recovery import RecoveredVideo

FRAMES_WAITING = 1
"""Videos that may wait for the write thread, in memory; with more, rendering waits for it."""

NICER = 10
"""Added to the niceness of the write thread and the encoder: the model may compute on the same cores."""


@dataclass(frozen=True)
class RenderOutcome:
    """What the render thread passes to the write thread: frames, a stored video, or an error."""

    row: PendingRow
    fingerprint: str
    seconds: dict[str, float]
    frames: Any = None
    stored: RecoveredVideo | None = None
    error: BaseException | None = None
    sent: Mapping[str, int] = field(default_factory=dict)
    loras_changed: bool = False


_SAVED = object()
_THE_END = object()


class WriteThread:
    """Commits outcomes in the order in which they come, and reports them.

    Args:
        job: What to render, and where to store it.
        name: The worker's name in the ledger.
        send: Sends a message to the driver.
        abandon: Once set, videos whose writing has not begun are given up, and nothing is waited for.
        resume_states: Where resume states are saved.
        on_event: Called for what is not sent as a message.
    """

    def __init__(
        self,
        job: Job,
        name: str,
        send: Callable[..., None],
        abandon: threading.Event,
        resume_states: ResumeStates,
        on_event: OnWorkerEvent,
    ) -> None:
        self._job = job
        self._name = name
        self._send = send
        self._abandon = abandon
        self._resume_states = resume_states
        self._saved: SavedState | None = None
        self._saved_lock = threading.Lock()
        self._on_event = on_event
        self._outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._room = threading.Semaphore(FRAMES_WAITING)
        self.pulse = Pulse()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._write, name="write", daemon=True).start()

    def put(self, outcome: RenderOutcome) -> bool:
        """Pass an outcome to the thread when there is room; False if everything was abandoned meanwhile."""
        while not self._room.acquire(timeout=1.0):
            if self._abandon.is_set():
                return False
        self._outcomes.put(outcome)
        return True

    def save(self, saved: SavedState) -> None:
        """Save a rendering's state, in place of one that still waits to be saved; returns at once."""
        with self._saved_lock:
            waits, self._saved = self._saved is not None, saved
        if not waits:
            self._outcomes.put(_SAVED)

    def end(self) -> None:
        """Finish, then send `stopped`."""
        self._outcomes.put(_THE_END)

    def _write(self) -> None:
        _lower_priority()
        try:
            self._write_outcomes()
        except Exception as error:  # noqa: BLE001 - without this thread the worker is useless
            self._send(WorkerMessage("broken", error=type(error).__name__, message=describe_error(error)))

    def _write_outcomes(self) -> None:
        while (item := self._outcomes.get()) is not _THE_END:
            self.pulse.beat("write")
            if item is _SAVED:
                self._save_waiting()
            else:
                self._room.release()
                if not self._abandon.is_set():
                    message = self._commit(item)
                    self._send(message)
                    if message.kind != "stuck":
                        self._resume_states.remove_if_used(item.row.id)
            self.pulse.rest()
        self._send(WorkerMessage("stopped"))

    def _save_waiting(self) -> None:
        with self._saved_lock:
            saved, self._saved = self._saved, None
        assert saved is not None
        self._resume_states.save(saved)

    def _commit(self, outcome: RenderOutcome) -> WorkerMessage:
        """Encode and store a video; returns the message about it, or about a dead letter.

        If no row could be written, this row is not at fault: the message is `stuck`, and not about the row.
        """
        row, error, measured = outcome.row, outcome.error, None
        attempt = RowAttempt(self._job.model, self._name, row, outcome.fingerprint)
        if outcome.stored is not None:
            return self._recover(attempt, outcome.stored)
        if error is None:
            begun = time.perf_counter()
            try:
                measured = quality.measure(outcome.frames)
                quality.reject(measured, self._job.output_options.reject)
                return self._store(attempt, outcome, measured, begun)
            except Exception as failure:  # noqa: BLE001 - a bad row never stops a run
                if failures.is_unwritable(failure):
                    return _stuck(failure)
                error = failure
        elif failures.is_full(error):
            # There is no room for a temporary file, such as a fetched image.
            return _stuck(error)
        kind, message = type(error).__name__, describe_error(error)
        entry = failed_entry(attempt, kind, message, measured)
        return WorkerMessage("failed", row.id, kind, message, entry=entry)

    def _store(
        self, attempt: RowAttempt, outcome: RenderOutcome, measured: quality.Quality, begun: float
    ) -> WorkerMessage:
        """Encode and store a video; `begun` is when its writing began. Raises whatever goes wrong."""
        row, name = outcome.row, safe_name(outcome.row.id)
        retry = functools.partial(
            with_retries, hurry=self._abandon, on_event=self._on_event, policy=self._job.retries
        )
        with tempfile.TemporaryDirectory(prefix="vidgen-") as folder:
            video = retry(lambda: self._encode(outcome, Path(folder)))
            self.pulse.beat("write")
            uri = retry(lambda: media.commit_video(self._job.output, video, name))
        seconds = {**outcome.seconds, "write": time.perf_counter() - begun}
        entry = done_entry(attempt, video, uri, seconds, measured)
        self._on_event(
            WorkerEvent("committed", row.id, seconds=seconds, frames=video.frames, bytes=video.bytes)
        )
        return WorkerMessage(
            "done", row.id, sent=outcome.sent, loras_changed=outcome.loras_changed, entry=entry
        )

    def _recover(self, attempt: RowAttempt, stored: RecoveredVideo) -> WorkerMessage:
        """The message about a video that was stored already."""
        video = stored.video
        row = attempt.row
        entry = done_entry(attempt, video, stored.uri, {}, stored.quality)
        self._on_event(WorkerEvent("adopted", row.id, frames=video.frames, bytes=video.bytes))
        if self._job.output_options.checkpoint_every is not None:
            # The state that was saved before the video was stored.
            self._resume_states.remove(row.id)
        return WorkerMessage("done", row.id, entry=entry, recovered=True)

    def _encode(self, outcome: RenderOutcome, folder: Path) -> media.EncodedVideo:
        output, request = self._job.output_options, outcome.row.request
        suffix = "" if output.format == "png" else f".{output.format}"
        return media.write_video(
            outcome.frames,
            folder / f"video{suffix}",
            format=output.format,
            fps=request.written_fps,
            crf=output.crf,
            tags=provenance_tags(
                id=outcome.row.id,
                model=self._job.model.id,
                revision=self._job.model.revision,
                seed=request.seed,
                fingerprint=outcome.fingerprint,
                aigc_producer=output.aigc_producer,
            ),
        )


def _stuck(error: BaseException) -> WorkerMessage:
    """The message if no row can be written."""
    where = "the output"
    if not isinstance(error, failures.StorageError):
        where = "the temporary folder of a worker (TMPDIR names another)"
    return WorkerMessage(
        "stuck", error=type(error).__name__, message=f"{where} cannot be written: {describe_error(error)}"
    )


def _lower_priority() -> None:
    """Give other threads of the process priority over this one, and over the encoder, which inherits that.

    A computation with several threads waits for the slowest one, so the model's threads must come first.
    """
    thread = threading.get_native_id()
    # Ray's workers may have a higher niceness already, and only root may lower it.
    niceness = min(os.getpriority(os.PRIO_PROCESS, thread) + NICER, 19)
    os.setpriority(os.PRIO_PROCESS, thread, niceness)
