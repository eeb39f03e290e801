"""The write thread of a worker: frames in, videos and their ledger entries out."""

from __future__ import annotations

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
from vidgen_dist.output.ledger_entries import done_entry, failed_entry
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
"""Videos that may wait, in memory, for the write thread; then rendering waits for it."""

NICER = 10
"""By how much the write thread and the encoder give way to the model, which may compute on the same cores."""


@dataclass(frozen=True)
class RenderOutcome:
    """What the render thread hands to the write thread: frames, a video that was there, or an error."""

    row: PendingRow
    fingerprint: str
    seconds: dict[str, float]
    frames: Any = None
    stored: RecoveredVideo | None = None
    error: BaseException | None = None
    sent: Mapping[str, int] = field(default_factory=dict)


_SAVED = object()
_THE_END = object()


class WriteThread:
    """Commits outcomes in the order in which they come, and says so.

    Args:
        job: What is to be done.
        name: What the ledger calls the worker.
        say: Told of what happens.
        abandon: Once set, videos that are not begun to be written are given up, and nothing is waited for.
        scratch: Where renderings are saved.
        note: Takes notes of what is not said.
    """

    def __init__(
        self,
        job: Job,
        name: str,
        say: Callable[..., None],
        abandon: threading.Event,
        scratch: ResumeStates,
        on_event: OnWorkerEvent,
    ) -> None:
        self._job = job
        self._name = name
        self._send = say
        self._abandon = abandon
        self._resume_states = scratch
        self._saved: SavedState | None = None
        self._saved_lock = threading.Lock()
        self._on_event = on_event
        self._outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._room = threading.Semaphore(FRAMES_WAITING)
        self.pulse = Pulse()

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._write, name="write", daemon=True).start()

    def put(self, outcome: RenderOutcome) -> bool:
        """Hand an outcome over, when there is room for it; False if all was given up meanwhile."""
        while not self._room.acquire(timeout=1.0):
            if self._abandon.is_set():
                return False
        self._outcomes.put(outcome)
        return True

    def save(self, saved: SavedState) -> None:
        """Save how far a rendering is, in place of what waits to be saved; returns at once."""
        with self._saved_lock:
            waits, self._saved = self._saved is not None, saved
        if not waits:
            self._outcomes.put(_SAVED)

    def end(self) -> None:
        """Finish, and say `stopped`."""
        self._outcomes.put(_THE_END)

    def _write(self) -> None:
        _give_way()
        try:
            self._write_outcomes()
        except Exception as error:  # noqa: BLE001 - without this thread the worker is of no use
            self._send(WorkerMessage("broken", error=type(error).__name__, message=describe_error(error)))

    def _write_outcomes(self) -> None:
        while (item := self._outcomes.get()) is not _THE_END:
            self.pulse.beat("write")
            if item is _SAVED:
                self._save_waiting()
            else:
                self._room.release()
                if not self._abandon.is_set():
                    event = self._commit(item)
                    self._send(event)
                    if event.kind != "stuck":
                        self._resume_states.remove_if_used(item.row.id)
            self.pulse.rest()
        self._send(WorkerMessage("stopped"))

    def _save_waiting(self) -> None:
        with self._saved_lock:
            saved, self._saved = self._saved, None
        assert saved is not None
        self._resume_states.save(saved)

    def _commit(self, outcome: RenderOutcome) -> WorkerMessage:
        """Encode and store a video; what there is to say of it, or of a dead letter.

        Where nothing can be written, of no row, this one is not at fault: `stuck` is said, and nothing of it.
        """
        row, error, measured = outcome.row, outcome.error, None
        if outcome.stored is not None:
            return self._recover(row, outcome.fingerprint, outcome.stored)
        if error is None:
            begun = time.perf_counter()
            try:
                measured = quality.measure(outcome.frames)
                quality.reject(measured, self._job.output_options.reject)
                with tempfile.TemporaryDirectory(prefix="vidgen-") as folder:
                    place = Path(folder)
                    video = with_retries(
                        lambda: self._encode(outcome, place),
                        hurry=self._abandon,
                        on_event=self._on_event,
                        policy=self._job.retries,
                    )
                    self.pulse.beat("write")
                    name = safe_name(row.id)
                    uri = with_retries(
                        lambda: media.commit_video(self._job.output, video, name),
                        hurry=self._abandon,
                        on_event=self._on_event,
                        policy=self._job.retries,
                    )
                seconds = {**outcome.seconds, "write": time.perf_counter() - begun}
                entry = done_entry(
                    self._job.model, self._name, row, outcome.fingerprint, video, uri, seconds, measured
                )
                self._on_event(
                    WorkerEvent("committed", row.id, seconds=seconds, frames=video.frames, bytes=video.bytes)
                )
                return WorkerMessage("done", row.id, sent=outcome.sent, entry=entry)
            except Exception as failure:  # noqa: BLE001 - a bad row never stops a run
                if failures.is_unwritable(failure):
                    return _stuck(failure)
                error = failure
        elif failures.is_full(error):
            # A fetched image, say, has no room among the temporary files.
            return _stuck(error)
        kind, message = type(error).__name__, describe_error(error)
        entry = failed_entry(self._job.model, self._name, row, outcome.fingerprint, kind, message, measured)
        return WorkerMessage("failed", row.id, kind, message, entry=entry)

    def _recover(self, row: PendingRow, fingerprint: str, stored: RecoveredVideo) -> WorkerMessage:
        """What there is to say of a video that was there already."""
        video = stored.video
        entry = done_entry(
            self._job.model, self._name, row, fingerprint, video, stored.uri, {}, stored.quality
        )
        self._on_event(WorkerEvent("adopted", row.id, frames=video.frames, bytes=video.bytes))
        if self._job.output_options.checkpoint_every is not None:
            # What was saved of it before it was stored.
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
    """What is said where nothing can be written, of no row."""
    where = "the output"
    if not isinstance(error, failures.StorageError):
        where = "the temporary folder of a worker (TMPDIR names another)"
    return WorkerMessage(
        "stuck", error=type(error).__name__, message=f"{where} cannot be written: {describe_error(error)}"
    )


def _give_way() -> None:
    """Let other threads of the process go before this one, and before the encoder, which inherits that.

    Whatever computes with several threads waits for the slowest, so the model's are to go first.
    """
    thread = threading.get_native_id()
    # Ray's workers may be nicer than others already, and only root may become less so.
    niceness = min(os.getpriority(os.PRIO_PROCESS, thread) + NICER, 19)
    os.setpriority(os.PRIO_PROCESS, thread, niceness)
