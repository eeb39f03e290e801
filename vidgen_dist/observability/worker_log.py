"""The log of a worker: one JSON object a line, one line an event.

In an output folder it is `logs/WORKER.jsonl`. An object store knows no appending, and a request for each few
lines would cost more than the videos: there it is `vidgen-WORKER.jsonl` in Ray's log folder on the worker's
node, where Ray's dashboard shows it and a cluster's log shipper finds it.

A line is written before what it tells of goes on: the log of a process that dies says what it died of.
But a folder that hangs, or a full disk, must not hold up a rendering that would survive it: lines are written
by a thread of their own, which is not waited for long, and Ray's log of the process says what is wrong.
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
"""Of a file; then it is renamed to `….1`, and so on, and a new one is begun."""

OLD_FILES = 3
"""How many of a worker's older files are kept."""

PATIENCE = 0.05
"""Seconds that a line is waited for."""

_FATAL = frozenset({"refused", "broken", "stuck"})
"""What ends the worker."""


def log_file(output: Storage, worker: str, ray_logs: str) -> str:
    """Where the log of a worker is.

    Args:
        output: The run's output.
        worker: The worker's name.
        ray_logs: Ray's log folder on this node.
    """
    if is_local(output.root):
        return output.uri(f"{LOGS_FOLDER}/{worker}.jsonl")
    return os.path.join(ray_logs, f"vidgen-{worker}.jsonl")


def open_log(file: str, worker: str, **about: Any) -> OnWorkerEvent:
    """Begin a worker's log, with a line `born`.

    Args:
        file: Its path; folders are made.
        worker: The worker's name.
        about: What the first line says besides.
    """
    lines: queue.SimpleQueue[tuple[str, threading.Event]] = queue.SimpleQueue()
    handler = _LogFile(
        file,
        maxBytes=MAX_BYTES,
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
    """Makes its folder, too, when the first line is written; complains once."""

    _complained = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._complained:
            self._complained = True
            super().handleError(record)

    def _open(self) -> TextIOWrapper:
        os.makedirs(os.path.dirname(self.baseFilename), exist_ok=True)
        return super()._open()


def _line(event: WorkerEvent, worker: str, about: Mapping[str, Any] | None) -> str:
    level = "error" if event.what in _FATAL else "warning" if event.error else "info"
    facts = {name: value for name, value in dataclasses.asdict(event).items() if value not in (None, {}, "")}
    what = facts.pop("what")
    if "message" in facts:
        facts["message"] = redact_message(event.message)
    if "seconds" in facts:
        facts["seconds"] = {stage: round(seconds, 3) for stage, seconds in event.seconds.items()}
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"time": now, "level": level, "event": what, "worker": worker, **facts, **(about or {})}
    return json.dumps(line, ensure_ascii=False)
