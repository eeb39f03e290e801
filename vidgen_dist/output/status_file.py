"""`OUTPUT/status.json`: the progress of a run, for people who cannot see its terminal.

The driver writes it now and then and when it ends, always as a whole. A separate thread writes it, so that a
storage that hangs delays nothing. Readers must expect any content: it may be of a run that died, or of
another release.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from vidgen_dist.manifest import Manifest
from vidgen_dist.output_layout import STATUS_FILE
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.uris import is_local

STALE_INTERVALS = 4
"""A run that has not written for this many intervals and for `STALE_SECONDS` gives no sign of life."""

STALE_SECONDS = 60.0

MOST_GANGS = 1_000
"""Gangs, and as many slow rows and slow gangs, that the file has: it is written every few seconds."""

MOST_OF_ID = 200
"""Characters of a row's id that the file has."""


@dataclass(frozen=True)
class StatusPolicy:
    """How often a run publishes its progress.

    Args:
        update_seconds: How often metrics and the status are brought up to date; the file may be written less
            often.
        local_seconds: Seconds between two writes in a local folder.
        remote_seconds: The same on an object store, where each write costs a request.
        end_seconds: The longest that the end of a run waits for the last write.
    """

    update_seconds: float = 5.0
    local_seconds: float = 5.0
    remote_seconds: float = 30.0
    end_seconds: float = 5.0


State = Literal["running", "finished", "interrupted", "stopped"]


class _Part(BaseModel):
    # Fields that a later release adds are ignored, the rest is read.
    model_config = ConfigDict(frozen=True, extra="ignore")


class GangStatus(_Part):
    """A gang of a run.

    Args:
        gang: Its name, as in the ledger's column `worker` and in its log's name.
        replica: Number of its replica.
        state: `waiting` (for a place), `loading`, `rendering`, `idle` (no row is in its model) or `stopping`.
        row: The id of the row in its model, or its first 200 characters; null if there is none.
        since: When that row began, in UTC.
        stage: The stage that the row is in: `encode`, `denoise` or `decode`; before, `load`.
        step: How many of the stage's steps are done; null for a stage without steps.
        steps: How many steps the stage has; null likewise.
    """

    gang: str
    replica: int
    state: str
    row: str | None = None
    since: AwareDatetime | None = None
    stage: str | None = None
    step: int | None = None
    steps: int | None = None


@dataclass(frozen=True)
class SlowRow:
    """A row that has been rendering for far longer than similar rows took.

    Args:
        row: Its id.
        gang: The gang that renders it.
        seconds: How long it has been rendering.
        usual_seconds: The median time of the latest similar rows (same size, frames and steps, and guidance
            or none).
    """

    row: str
    gang: str
    seconds: float
    usual_seconds: float


@dataclass(frozen=True)
class SlowGang:
    """A gang whose rows take far longer than those of other gangs.

    Args:
        gang: Its name.
        times: How many times the usual time its latest rows took, in the median.
    """

    gang: str
    times: float


class RunStatus(_Part):
    """The progress of a run.

    Args:
        run: The run's name.
        state: `running`, or how it ended: `finished` (no row is pending), `interrupted` or `stopped` (it
            could not go on).
        since: When the run began, in UTC by the driver's clock.
        updated: When this file was written, in UTC by the driver's clock.
        refresh_seconds: How often the file is written.
        total: Rows that were done before, and rows that the run is to render.
        done, failed, pending: How many of these rows are done, have failed, or are neither.
        failures: Error class -> number of rows, for this run.
        videos_per_minute: The pace of the last ten minutes, at the end that of the whole run; null while no
            video is done.
        seconds_left: The time until no row is pending, at that pace.
        counted: Digest of run.yaml and of the manifest's files, which the counts are of; empty for a run of
            chosen rows, and after `vidgen verify --repair`.
        message: Why the run stopped.
        gang_states: State -> number of gangs, of all gangs.
        gangs: A mapping for each gang, of the first 1,000.
        slow_rows: Rows that have been rendering for more than twice the usual time, the slowest first.
        slow_gangs: Gangs whose latest rows took, in the median, more than 1.5 times the usual time, the
            slowest first.
    """

    run: str
    state: State
    since: AwareDatetime
    updated: AwareDatetime
    refresh_seconds: float = StatusPolicy.local_seconds
    total: int
    done: int
    failed: int
    pending: int
    failures: Mapping[str, int] = {}
    videos_per_minute: float | None = None
    seconds_left: float | None = None
    counted: str = ""
    message: str = ""
    gang_states: Mapping[str, int] = {}
    gangs: tuple[GangStatus, ...] = ()
    slow_rows: tuple[SlowRow, ...] = ()
    slow_gangs: tuple[SlowGang, ...] = ()

    @property
    def silent_seconds(self) -> float:
        """Seconds since it was written; clocks may differ."""
        return max(0.0, (datetime.now(UTC) - self.updated).total_seconds())

    @property
    def is_stale(self) -> bool:
        """Whether the run should be running, and has given no sign of life for too long."""
        limit = max(STALE_SECONDS, STALE_INTERVALS * self.refresh_seconds)
        return self.state == "running" and self.silent_seconds > limit

    @property
    def is_live(self) -> bool:
        """Whether the run is at work, as far as can be told."""
        return self.state == "running" and not self.is_stale


def digest_of_counted(run_file: bytes, manifest: Manifest) -> str:
    """SHA-256, as hex, of what a run counts: its settings, and the manifest's files as they are.

    Args:
        run_file: The content of the output's `run.yaml`.
        manifest: The run's manifest.
    """
    digest = hashlib.sha256(run_file)
    for file in manifest.files:
        digest.update(bytes.fromhex(file.digest))
    return digest.hexdigest()


def read_status_file(output: Storage) -> RunStatus | None:
    """The progress of the latest run, or how it ended; None if there is no file, or it cannot be parsed.

    Raises:
        OSError: The storage failed.
    """
    try:
        return RunStatus.model_validate_json(output.read_bytes(STATUS_FILE))
    except (FileNotFoundError, ValidationError):
        return None


def forget_counts(output: Storage) -> None:
    """Mark the counts of the latest run as outdated; the rest of the file stays.

    Raises:
        OSError: The storage failed.
    """
    status = read_status_file(output)
    if status is not None and status.counted:
        output.write_bytes(STATUS_FILE, _content(status.model_copy(update={"counted": ""})))


class StatusFile:
    """Writes an output's `status.json`; calls return at once.

    Args:
        output: The output.
        policy: How often it is written.
    """

    def __init__(self, output: Storage, policy: StatusPolicy = StatusPolicy()) -> None:
        self.seconds = policy.local_seconds if is_local(output.root) else policy.remote_seconds
        self._policy = policy
        self._output = output
        self._waiting: queue.SimpleQueue[RunStatus | None] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._next = -float("inf")
        self._thread = threading.Thread(target=self._write, name="status", daemon=True)
        self._thread.start()

    @property
    def due(self) -> bool:
        """Whether it is time for the next write, and the last one is not still under way."""
        return self._idle.is_set() and time.monotonic() >= self._next

    def put(self, status: RunStatus) -> None:
        """Write a status soon."""
        self._next = time.monotonic() + self.seconds
        self._idle.clear()
        self._waiting.put(status)

    def close(self, last: RunStatus | None) -> None:
        """End the thread, after a last status if there is one; does not wait for long."""
        if last is not None:
            self.put(last)
        self._waiting.put(None)
        self._thread.join(self._policy.end_seconds)

    def _write(self) -> None:
        while (status := self._waiting.get()) is not None:
            # The next write may succeed; no run depends on it.
            with suppress(OSError):
                self._output.write_bytes(STATUS_FILE, _content(status))
            self._idle.set()


def _content(status: RunStatus) -> bytes:
    # A message may quote text that is not UTF-8.
    text = json.dumps(status.model_dump(mode="json"), ensure_ascii=False, indent=1)
    return text.encode("utf-8", "replace")
