"""`OUTPUT/status.json`: how a run that is at work stands, for whoever cannot see its terminal.

The driver writes it now and then and when it ends, always whole. Writing has a thread of its own, so that a
storage that hangs holds up nothing. Whoever reads it must expect any content: it may be of a run that died,
or of another release.
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
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.uris import is_local

FILE = "status.json"

LOCAL_SECONDS, REMOTE_SECONDS = 5.0, 30.0
"""Between two writes: in a folder, and on an object store, where each costs a request."""

STALE_INTERVALS = 4
"""A run that has not written for so many intervals, and `STALE_SECONDS`, gives no sign of life."""

STALE_SECONDS = 60.0

END_SECONDS = 5.0
"""What the last write may take before the run ends without it."""

State = Literal["running", "finished", "interrupted", "stopped"]


class _Part(BaseModel):
    # What a later release adds is no reason not to read the rest.
    model_config = ConfigDict(frozen=True, extra="ignore")


class GangStatus(_Part):
    """A gang of a run.

    Args:
        gang: Its name; the ledger's column `worker`, and the name of its log.
        replica: Which replica it stands for.
        state: `waiting` (for a place), `loading`, `rendering`, `idle` (no row is in its model), `stopping`.
        row: What it renders, if anything.
        since: When it began, in UTC.
        stage: In which stage it is.
    """

    gang: str
    replica: int
    state: str
    row: str | None = None
    since: AwareDatetime | None = None
    stage: str | None = None


@dataclass(frozen=True)
class SlowRow:
    """A row that is being rendered for far longer than others like it.

    Args:
        row: Its id.
        gang: Who renders it.
        seconds: For how long.
        usual_seconds: What others like it took.
    """

    row: str
    gang: str
    seconds: float
    usual_seconds: float


@dataclass(frozen=True)
class SlowGang:
    """A gang whose rows take far longer than those of others.

    Args:
        gang: Its name.
        times: Seconds of its latest rows, as times those usual for such rows.
    """

    gang: str
    times: float


class RunStatus(_Part):
    """How a run stands.

    Args:
        run: Its name.
        state: `running`; how it ended: `finished` (no row is pending), `interrupted`, `stopped` (it could not
            go on).
        since, updated: When it began, and when this was written, in UTC by the driver's clock.
        refresh_seconds: When the next one is to be expected.
        total, done, failed, pending: Rows. Total are those done before and those that the run is to render.
        failures: Error class -> rows, of this run.
        videos_per_minute: Over the last minutes, and at the end over all of it; None while none is done.
        seconds_left: Until nothing is pending, at that pace.
        counted: Digest of what the counts are of, see `digest_of_counted`; empty where that is not the whole
            manifest, but rows that the run chose.
        message: Why it stopped.
        gangs: All that there are.
        slow_rows, slow_gangs: Stragglers, the slowest first.
    """

    run: str
    state: State
    since: AwareDatetime
    updated: AwareDatetime
    refresh_seconds: float = LOCAL_SECONDS
    total: int
    done: int
    failed: int
    pending: int
    failures: Mapping[str, int] = {}
    videos_per_minute: float | None = None
    seconds_left: float | None = None
    counted: str = ""
    message: str = ""
    gangs: tuple[GangStatus, ...] = ()
    slow_rows: tuple[SlowRow, ...] = ()
    slow_gangs: tuple[SlowGang, ...] = ()

    @property
    def silent_seconds(self) -> float:
        """How long ago it was written; clocks may differ."""
        return max(0.0, (datetime.now(UTC) - self.updated).total_seconds())

    @property
    def is_stale(self) -> bool:
        """Whether a run that says it is running has given no sign of life for too long."""
        limit = max(STALE_SECONDS, STALE_INTERVALS * self.refresh_seconds)
        return self.state == "running" and self.silent_seconds > limit

    @property
    def is_live(self) -> bool:
        """Whether the run is at work, as far as can be told."""
        return self.state == "running" and not self.is_stale


def digest_of_counted(run_file: bytes, manifest: Manifest) -> str:
    """SHA-256, as hex, of what a run's counts are of: its settings, and the manifest's files as they are.

    Args:
        run_file: The content of the output's `run.yaml`.
        manifest: The run's manifest.
    """
    digest = hashlib.sha256(run_file)
    for file in manifest.files:
        digest.update(bytes.fromhex(file.digest))
    return digest.hexdigest()


def read_status_file(output: Storage) -> RunStatus | None:
    """How the latest run stands, or ended; None if there is no file, or none that can be understood.

    Raises:
        OSError: The storage failed.
    """
    try:
        return RunStatus.model_validate_json(output.read_bytes(FILE))
    except (FileNotFoundError, ValidationError):
        return None


def forget_counts(output: Storage) -> None:
    """Have nobody count by the latest run any more; what else it says stays.

    Raises:
        OSError: The storage failed.
    """
    status = read_status_file(output)
    if status is not None and status.counted:
        output.write_bytes(FILE, _content(status.model_copy(update={"counted": ""})))


class StatusFile:
    """Keeps an output's `status.json`; calls return at once.

    Args:
        output: The output.
    """

    def __init__(self, output: Storage) -> None:
        self.seconds = LOCAL_SECONDS if is_local(output.root) else REMOTE_SECONDS
        self._output = output
        self._waiting: queue.SimpleQueue[RunStatus | None] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._next = -float("inf")
        self._thread = threading.Thread(target=self._write, name="status", daemon=True)
        self._thread.start()

    @property
    def due(self) -> bool:
        """Whether it is time for the next one, and the last one is not still on its way."""
        return self._idle.is_set() and time.monotonic() >= self._next

    def put(self, status: RunStatus) -> None:
        """Write this, soon."""
        self._next = time.monotonic() + self.seconds
        self._idle.clear()
        self._waiting.put(status)

    def close(self, last: RunStatus | None) -> None:
        """End, with a last status if there is one; waits for it, but not for long."""
        if last is not None:
            self.put(last)
        self._waiting.put(None)
        self._thread.join(END_SECONDS)

    def _write(self) -> None:
        while (status := self._waiting.get()) is not None:
            # The next one may get through; no run depends on it.
            with suppress(OSError):
                self._output.write_bytes(FILE, _content(status))
            self._idle.set()


def _content(status: RunStatus) -> bytes:
    # A message may quote what is no UTF-8.
    text = json.dumps(status.model_dump(mode="json"), ensure_ascii=False, indent=1)
    return text.encode("utf-8", "replace")
