"""The ledger committer: only the driver enters what gangs have done into the ledger.

A gang stores its videos and reports them to the driver, which holds the lease of the output. One writer for
all gangs has four advantages:

- Entries of all gangs share parts. Each part costs a request to write, and every resume another to read;
  gangs that take minutes for a video would each write one part per video, or delay reports for long.
- No row is entered without the driver's knowledge: neither by a gang that was given up as dead, nor by one
  whose driver was killed and which works on for a moment beside the next run. So each row is entered once.
- If a gang is killed, nothing that it has reported is lost.
- If a row has two entries, the later one counts. The driver's clock alone dates them all, and a new entry is
  dated after everything in the ledger: other hosts' clocks, including that of the driver before, may be wrong
  by minutes.

A killed driver loses the entries of the last seconds, see `CommitPolicy`. The tags of their videos name the
rows, and the next run enters them, see `recovery`.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from vidgen_dist.ledger import DONE, FAILED, LedgerEntry, LedgerWriter
from vidgen_dist.output.lease import Lease, LeaseLost
from vidgen_dist.storage.failures import describe_error
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.retries import with_retries
from vidgen_dist.storage.retry_policy import RetryPolicy

MANY_ENTRIES = 1000
"""With this many entries, a part is written at once. `recovery.max_unrecorded` relies on it."""


@dataclass(frozen=True)
class CommitPolicy:
    """When ledger parts are written, and how long the storage may take. All times are in seconds.

    Args:
        min_entries: The fewest entries of a part, so that the ledger costs an eighth of a request per video.
        part_seconds: Time between two parts, unless `MANY_ENTRIES` wait.
        patience_seconds: An entry is written after this time, even if there are fewer than `min_entries`:
            that is one part a minute, for a run that does less than eight videos a minute. Its lease's
            heartbeats are four a minute.
        tick_seconds: How often the committer checks whether entries have waited long enough.
        hang_seconds: A write that has not returned for this time is a fault: what is rendered meanwhile may
            never be entered.
        close_seconds: What the writing of the last entries may take at the end of a run.
        max_waiting: The most entries that wait in memory for the storage, where no gang's pace limits them.
            Not fewer than `MANY_ENTRIES`, which are written at once.
    """

    min_entries: int = 8
    part_seconds: float = 15.0
    patience_seconds: float = 60.0
    tick_seconds: float = 0.5
    hang_seconds: float = 900.0
    close_seconds: float = 300.0
    max_waiting: int = 2**16


_EPOCH = datetime.fromtimestamp(0, UTC)


class LedgerCommitter:
    """Enters rows in a thread of its own, until it is closed.

    Attributes:
        fault: Why the ledger cannot be written; then it is tried again only at the end. Empty while it can.

    Args:
        writer: Writes the parts.
        lease: Without it nothing may be entered.
        newest: When the last attempt in the ledger ended, in microseconds since 1970.
        policy: When parts are written, and how long to wait.
        retries: How often to repeat a write that fails.
    """

    def __init__(
        self, writer: LedgerWriter, lease: Lease, newest: int, policy: CommitPolicy, retries: RetryPolicy
    ) -> None:
        self.fault = ""
        self._policy = policy
        self._retries = retries
        self._writer = writer
        self._lease = lease
        self._entries: queue.SimpleQueue[LedgerEntry] = queue.SimpleQueue()
        self._write_begun: float | None = None
        self._newest = _EPOCH + timedelta(microseconds=newest)
        self._unwritten: deque[str] = deque()
        self._written: Counter[str] = Counter()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    @property
    def done(self) -> int:
        """Number of videos whose entries are stored."""
        return self._written[DONE]

    @property
    def failed(self) -> int:
        """Number of dead letters that are stored."""
        return self._written[FAILED]

    @property
    def stuck(self) -> str:
        """Why the run must end: `fault`, or that the storage has not answered for long; else empty."""
        begun = self._write_begun
        limit = self._policy.hang_seconds
        if begun is not None and time.monotonic() - begun > limit:
            return self.fault or f"the storage has not answered for {limit:g} s"
        return self.fault

    @property
    def waiting(self) -> int:
        """Number of entries that are in no part yet."""
        return self._entries.qsize() + len(self._unwritten)

    @property
    def newest(self) -> int:
        """When the last attempt that was entered ended, in microseconds since 1970."""
        return (self._newest - _EPOCH) // datetime.resolution

    def enter(self, entry: LedgerEntry) -> None:
        """Date an entry and queue it; it is written before long, at the latest by `close`."""
        self._newest = max(datetime.now(UTC), self._newest + datetime.resolution)
        self._entries.put(dataclasses.replace(entry, finished_at=self._newest))

    def close(self) -> None:
        """Write all remaining entries; sets `fault` if that is not possible."""
        self._closing.set()
        limit = self._policy.close_seconds
        self._thread.join(limit)
        if self._thread.is_alive():
            self.fault = f"the storage has not answered for {limit:g} s"

    def _run(self) -> None:
        while not self._closing.wait(self._policy.tick_seconds) and not self.fault:
            self._process_entries(at_the_end=False)
        self._closing.wait()
        # In this thread, which can be abandoned: a storage that hangs must not keep a run from ending.
        self._process_entries(at_the_end=True)

    def _process_entries(self, *, at_the_end: bool) -> None:
        try:
            entries = [self._entries.get() for _ in range(self._entries.qsize())]
            if entries:
                self._writer.take(entries)
                self._unwritten.extend(entry.status for entry in entries)
            if self._writer.due or (at_the_end and self._writer.waiting):
                self._write_begun = time.monotonic()
                with_retries(self._write, hurry=threading.Event(), policy=self._retries)
        except LeaseLost:
            # The driver learns this from the lease. The other run renders the rows of unwritten entries.
            return
        except Exception as error:  # noqa: BLE001 - the driver lets rows that are being rendered finish
            self.fault = describe_error(error)
        finally:
            self._write_begun = None

    def _write(self) -> None:
        self._lease.assure()
        try:
            self._writer.flush()
        finally:
            while len(self._unwritten) > self._writer.waiting:
                self._written[self._unwritten.popleft()] += 1


def open_committer(
    output: Storage,
    passthrough: pa.Schema,
    lease: Lease,
    newest: int,
    policy: CommitPolicy = CommitPolicy(),
    retries: RetryPolicy = RetryPolicy(),
) -> LedgerCommitter:
    """Open the ledger committer of a run.

    Args:
        output: Its output.
        passthrough: Names and types of the manifest's columns that are copied.
        lease, newest, policy, retries: As `LedgerCommitter` takes them.
    """
    writer = LedgerWriter(
        output,
        lease.run,
        passthrough,
        max_entries=MANY_ENTRIES,
        max_seconds=policy.part_seconds,
        min_entries=policy.min_entries,
        patience=policy.patience_seconds,
    )
    return LedgerCommitter(writer, lease, newest, policy, retries)
