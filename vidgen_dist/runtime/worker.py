"""A worker: one process, one model, rows in, videos and ledger entries out. Knows nothing of Ray.

Two threads share the work, so that the next video is denoised while the last one is encoded and sent:

    submit -> rows -> [render thread: model] -> frames -> [write thread: encode, commit, ledger] -> poll

A row is reported as done or failed only when its ledger entry lies on the storage.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import queue
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidgen_dist import media, storage
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import LedgerEntry, LedgerWriter
from vidgen_dist.request import MEDIA_FIELDS, RenderRequest
from vidgen_dist.runtime.engine import get_engine
from vidgen_dist.runtime.entries import done_entry, failed_entry
from vidgen_dist.runtime.job import Event, Job, Report, Row
from vidgen_dist.runtime.retry import with_retries

FRAMES_WAITING = 1
"""Videos that may wait, in memory, for the write thread; then rendering waits for it."""

FLUSH_ENTRIES = 64
"""Entries of a ledger part, at most: what of a fast model's work a killed worker can lose."""

TICK_SECONDS = 1.0
"""How often the write thread looks whether entries have waited long enough."""


@dataclass(frozen=True)
class _Outcome:
    """What the render thread hands to the write thread: frames, or why there are none."""

    row: Row
    fingerprint: str
    seconds: dict[str, float]
    frames: Any = None
    error: BaseException | None = None


_SHARD_END = object()
_THE_END = object()


class _Abandoned(Exception):
    """Rendering was told to stop at once."""


class Worker:
    """Renders rows in threads of its own; every method returns at once or within its timeout.

    Args:
        job: What is to be done.
        name: What the ledger calls this worker.
    """

    def __init__(self, job: Job, name: str) -> None:
        self._job = job
        self._name = name
        self._rows: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._room = threading.Semaphore(FRAMES_WAITING)
        self._events: list[Event] = []
        self._news = threading.Condition()
        self._stopping = threading.Event()
        self._abandon = threading.Event()
        self._busy_since: float | None = None
        self._threads: list[threading.Thread] = []

    def start(self, cores: Sequence[int] | None) -> None:
        """Load the model and begin.

        Args:
            cores: Cores of this host that the worker keeps to; None for all.
        """
        self._threads = [
            threading.Thread(target=self._render, args=(cores,), name="render", daemon=True),
            threading.Thread(target=self._write, name="write", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, rows: Sequence[Row]) -> None:
        """Add a shard behind those that are there."""
        for row in rows:
            self._rows.put(row)
        self._rows.put(_SHARD_END)

    def poll(self, timeout: float) -> Report:
        """Wait for events, `timeout` seconds at most, and return them; each is returned once."""
        with self._news:
            self._news.wait_for(lambda: self._events, timeout)
            events, self._events = tuple(self._events), []
        busy = self._busy_since
        return Report(events, time.monotonic() - busy if busy is not None else 0.0)

    def stop(self, now: bool) -> None:
        """Take no further row; the event `stopped` follows.

        Args:
            now: Give up the row that is being rendered, too. Either way, what is finished gets its entry.
        """
        self._stopping.set()
        self._rows.put(_THE_END)
        if now:
            self._abandon.set()
            # A step may take minutes: the write thread does not wait for the render thread.
            self._outcomes.put(_THE_END)

    def _say(self, *events: Event) -> None:
        with self._news:
            self._events.extend(events)
            self._news.notify_all()

    # The render thread

    def _render(self, cores: Sequence[int] | None) -> None:
        try:
            self._render_rows(cores)
        except BaseException as error:  # noqa: BLE001 - else its rows would be waited for in vain, or forgotten
            self._say(Event("broken", error=type(error).__name__, message=_told(error)))
        finally:
            self._outcomes.put(_THE_END)

    def _render_rows(self, cores: Sequence[int] | None) -> None:
        if cores is not None:
            keep_to(cores)
        try:
            engine = get_engine(self._job.engine)
            pipeline = engine.load(self._job.model, self._job.device, len(cores) if cores else None)
        except Refused as error:
            self._say(Event("refused", error=type(error).__name__, message=str(error)))
            return
        self._say(Event("ready"))
        while (row := self._rows.get()) is not _THE_END:
            if self._stopping.is_set():
                return
            if row is _SHARD_END:
                self._outcomes.put(_SHARD_END)
                continue
            self._say(Event("started", row.id))
            self._busy_since = time.monotonic()
            try:
                outcome = self._render_row(pipeline, row)
            except _Abandoned:
                return
            finally:
                self._busy_since = None
            self._say(Event("rendered", row.id))
            while not self._room.acquire(timeout=1.0):
                if self._abandon.is_set():
                    return
            self._outcomes.put(outcome)

    def _render_row(self, pipeline: Any, row: Row) -> _Outcome:
        # Known before the media are, so that a row whose image is missing has one as well.
        fingerprint = self._job.identity.fingerprint(row.request, {})
        try:
            request, digests = self._fetch_media(row.request)
            fingerprint = self._job.identity.fingerprint(row.request, digests)
            rendering = pipeline.render(request, on_step=self._stepped)
            # A quarter of the memory while it waits to be written.
            frames = media.to_uint8(rendering.frames)
            return _Outcome(row, fingerprint, dict(rendering.seconds), frames=frames)
        except _Abandoned:
            raise
        except Exception as error:  # noqa: BLE001 - a bad row never stops a run
            return _Outcome(row, fingerprint, {}, error=_with_source(error, row.request))

    def _stepped(self, _done: int, _steps: int) -> None:
        self._busy_since = time.monotonic()
        if self._abandon.is_set():
            raise _Abandoned

    def _fetch_media(self, request: RenderRequest) -> tuple[RenderRequest, dict[str, str]]:
        """The request with its media's bytes in place of their address, and the digest of each."""
        fetched: dict[str, Any] = {}
        digests = {}
        for name in MEDIA_FIELDS:
            source = getattr(request, name)
            if source is None:
                continue
            if isinstance(source, str):
                source = with_retries(functools.partial(storage.read_bytes, source), hurry=self._abandon)
                fetched[name] = source
            digests[name] = media.media_digest(source)
        return dataclasses.replace(request, **fetched), digests

    # The write thread

    def _write(self) -> None:
        try:
            self._write_outcomes()
        except Exception as error:  # noqa: BLE001 - without this thread the worker is of no use
            self._say(Event("broken", error=type(error).__name__, message=_told(error)))

    def _write_outcomes(self) -> None:
        output = storage.open_storage(self._job.output.uri)
        writer = LedgerWriter(output, self._name, self._job.passthrough, max_entries=FLUSH_ENTRIES)
        unsaid: list[Event] = []
        stuck = False
        while True:
            try:
                item = self._outcomes.get(timeout=TICK_SECONDS)
            except queue.Empty:
                item = None
            if isinstance(item, _Outcome):
                self._room.release()
                if not self._abandon.is_set():
                    unsaid.append(self._enter(writer, *self._commit(output, item)))
            # A part at the end of a shard: it is small, and the driver may have nothing else to wait for.
            ends = item is _SHARD_END or item is _THE_END
            # The driver ends the run when it hears of a refusal; only the last try has patience again.
            stuck = not self._flush(writer, force=ends, once=stuck and item is not _THE_END)
            if unsaid and not writer.waiting:
                self._say(*unsaid)
                unsaid = []
            if item is _THE_END:
                self._say(Event("stopped"))
                return

    def _commit(self, output: storage.Storage, outcome: _Outcome) -> tuple[LedgerEntry, Event]:
        """Encode and store a video; its entry, or a dead letter."""
        row, error = outcome.row, outcome.error
        if error is None:
            begun = time.perf_counter()
            try:
                with tempfile.TemporaryDirectory(prefix="vidgen-") as folder:
                    video = self._encode(outcome, Path(folder))
                    name = storage.safe_name(row.id)
                    uri = with_retries(lambda: media.commit_video(output, video, name), hurry=self._abandon)
                seconds = {**outcome.seconds, "write": time.perf_counter() - begun}
                entry = done_entry(self._job, self._name, row, outcome.fingerprint, video, uri, seconds)
                return entry, Event("done", row.id)
            except Exception as failure:  # noqa: BLE001 - a bad row never stops a run
                error = failure
                if storage.is_full(failure):
                    # Every further row would be rendered in vain.
                    self._say(Event("stuck", error=type(failure).__name__, message=str(failure)))
        kind, message = type(error).__name__, _told(error)
        entry = failed_entry(self._job, self._name, row, outcome.fingerprint, kind, message)
        return entry, Event("failed", row.id, kind, message)

    def _encode(self, outcome: _Outcome, folder: Path) -> media.EncodedVideo:
        output, fps = self._job.output, outcome.row.request.fps
        assert fps is not None, "rules fill it in"
        suffix = "" if output.format == "png" else f".{output.format}"
        return media.write_video(
            outcome.frames, folder / f"video{suffix}", format=output.format, fps=fps, crf=output.crf
        )

    def _enter(self, writer: LedgerWriter, entry: LedgerEntry, event: Event) -> Event:
        # The entry is taken also if the storage refuses; `_flush` asks it again, and says if that is in vain.
        with contextlib.suppress(OSError):
            writer.append(entry)
        return event

    def _flush(self, writer: LedgerWriter, *, force: bool, once: bool) -> bool:
        """Write a part if one is due, or in any case; whether nothing went wrong."""
        flush = writer.flush if force else writer.flush_due
        try:
            if once:
                flush()
            else:
                with_retries(flush, hurry=self._abandon)
        except OSError as error:
            self._say(Event("stuck", error=type(error).__name__, message=str(error)))
            return False
        return True


def keep_to(cores: Sequence[int]) -> None:
    """Keep this process, its threads of now and later, to some cores."""
    # Compute threads inherit it from their maker; MindSpore's matmul heeds nothing else.
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cores)


def _with_source(error: Exception, request: RenderRequest) -> Exception:
    """A complaint of the bytes that were read, with the address that they were read from."""
    addresses = [getattr(request, name) for name in MEDIA_FIELDS]
    sources = ", ".join(storage.redact(uri) for uri in addresses if isinstance(uri, str))
    return (
        media.MediaError(f"{sources}: {error}") if isinstance(error, media.MediaError) and sources else error
    )


def _told(error: BaseException) -> str:
    """An error's message, and where in our code it came from when it is none of ours."""
    if isinstance(error, OSError | ValueError | Refused):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{error}{place}"
