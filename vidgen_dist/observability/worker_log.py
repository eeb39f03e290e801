"""The log of a worker: JSON lines, one for each event.

In a local output it is `logs/WORKER.jsonl`. Object stores cannot append, and a request for every few lines
would cost more than the videos: there it is `vidgen-WORKER.jsonl` in Ray's log folder on the worker's node,
where Ray's dashboard shows it and a cluster's log shipper finds it.

The line of an event is written before the worker goes on, so the log of a process that dies shows what it
died of. But a folder that hangs, or a full disk, must not delay a rendering that could do without the log:
a separate thread writes the lines, the worker waits for it only briefly, and Ray's log of the process shows
what is wrong.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import logging.handlers
import os
import queue
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import Any

from vidgen_dist.output_layout import LOGS_FOLDER
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.uris import is_local, redact_message
from vidgen_dist.worker_events import OnWorkerEvent, WorkerEvent

MAX_BYTES = 64 * 2**20
"""The size of a file at which it is renamed to `….1`, and so on, and a new one is begun."""

OLD_FILES = 3
"""The number of a worker's older files that are kept."""

PATIENCE = 0.05
"""Seconds that a worker waits for a line to be written."""

_FATAL = frozenset({"refused", "broken", "stuck"})
"""Events that end the worker."""


def log_file(output: Storage, worker: str, ray_logs: str) -> str:
    """The path of a worker's log.

    Args:
        output: The run's output.
        worker: The worker's name.
        ray_logs: Ray's log folder on this node.
    """
    if is_local(output.root):
        return output.uri(f"{LOGS_FOLDER}/{worker}.jsonl")
    return os.path.join(ray_logs, f"vidgen-{worker}.jsonl")


def open_log(file: str, worker: str, *, max_bytes: int = MAX_BYTES, **about: Any) -> OnWorkerEvent:
    """Begin a worker's log, with the event `born`.

    Args:
        file: Its path; missing folders are created.
        worker: The worker's name.
        max_bytes: See `MAX_BYTES`.
        about: More values of the first line.
    """
    lines: queue.SimpleQueue[tuple[str, threading.Event]] = queue.SimpleQueue()
    handler = _LogFile(
        file,
        maxBytes=max_bytes,
        backupCount=OLD_FILES,
        encoding="utf-8",
        errors="backslashreplace",
        delay=True,
    )

    def write() -> None:
        while True:
            line, written = lines.get()
            handler.emit(logging.makeLogRecord({"msg": line}))
            written.set()

    def record(event: WorkerEvent, about: Mapping[str, Any] | None = None) -> None:
        written = threading.Event()
        lines.put((_line(event, worker, about), written))
        written.wait(PATIENCE)

    threading.Thread(target=write, name="log", daemon=True).start()
    record(WorkerEvent("born"), about)
    return record


class _LogFile(logging.handlers.RotatingFileHandler):
    """Creates its folder when the first line is written; reports only the first error."""

    _error_reported = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._error_reported:
            self._error_reported = True
            super().handleError(record)

    def _open(self) -> TextIOWrapper:
        os.makedirs(os.path.dirname(self.baseFilename), exist_ok=True)
        return super()._open()


def _line(event: WorkerEvent, worker: str, about: Mapping[str, Any] | None) -> str:
    level = "error" if event.kind in _FATAL else "warning" if event.error else "info"
    facts = {name: value for name, value in dataclasses.asdict(event).items() if value not in (None, {}, "")}
    kind = facts.pop("kind")
    if "message" in facts:
        facts["message"] = redact_message(event.message)
    if "seconds" in facts:
        facts["seconds"] = {stage: round(seconds, 3) for stage, seconds in event.seconds.items()}
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"time": now, "level": level, "event": kind, "worker": worker, **facts, **(about or {})}
    return json.dumps(line, ensure_ascii=False)
