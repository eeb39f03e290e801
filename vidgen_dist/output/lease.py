"""The lease: one run at a time on one output.

The run that renders into an output keeps a small file there, `.lease.json`, with its name and a counter that
it increments every interval. Another run that finds the file watches it, by its own clock alone: if the
counter increases, the holder is alive, and the other run is refused; if it does not for `stale_intervals`
intervals, the holder counts as dead, and its lease is taken over. A run whose lease was taken over, because
the run or its storage was unavailable for so long, learns it with its next heartbeat.

In a local folder the run also holds a lock of the operating system. The lock ends with its process, so
another run can follow a dead run at once. Machines that share a folder do not always share its locks;
therefore the lock only says something about runs of the same machine, which a lease identifies by a hash of
the machine's boot, the file system and the run. Workers of the dead run may work on for some seconds, until
Ray has ended them; they cannot enter anything into the ledger, and `Lease.settled` is the time from which
they store no video any more.

What is certain: if the storage compares and writes atomically (S3; a local lock; a new file in a local
folder), two runs never take the same lease. With other storage each run reads the lease again
`settle_seconds` after it wrote; so two runs can hold it if one is delayed for longer just then, and the first
heartbeat ends one of them.

Before each ledger part, a holder whose last heartbeat is `fresh_intervals` old checks its lease
(`Lease.assure`), so that a run that was suspended enters nothing beside the run that took over. The remaining
risk is a process that is suspended between this check and the write, or a request that is under way, for
longer than the rest of `stale_intervals`. `LeasePolicy` has these numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from vidgen_dist.errors import Refused
from vidgen_dist.output_layout import LEASE_FILE, LEASE_LOCK
from vidgen_dist.storage.failures import WriteConflict
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.locks import FileLock, is_locked, lock
from vidgen_dist.storage.shared_files import SharedFile, open_shared_file
from vidgen_dist.storage.uris import is_local, redact


@dataclass(frozen=True)
class LeasePolicy:
    """How often a lease gives a sign of life, and how long other runs wait for one.

    All runs on one output need the same interval; otherwise a living holder counts as dead.

    Args:
        interval_seconds: Seconds between two heartbeats, each a request to the storage: four a minute.
        stale_intervals: A holder without a heartbeat for this many intervals counts as dead.
        fresh_intervals: A holder whose last heartbeat is older than this many intervals checks its lease
            before it writes; fewer than `stale_intervals`, so that it checks before another run may have
            taken over.
        orphan_seconds: How long workers may live after their driver was killed. Workers of a run's own Ray
            ended within 3 s when measured. A Ray that runs on took 0.1 s, and kills workers that do not obey
            after 5 s.
        settle_seconds: After this time, a lease is read again if the storage has no atomic compare-and-write.
        lock_seconds: How long a process that is being killed may take to release its lock.
    """

    interval_seconds: float = 15.0
    stale_intervals: int = 4
    fresh_intervals: int = 3
    orphan_seconds: float = 6.0
    settle_seconds: float = 2.0
    lock_seconds: float = 1.0

    @property
    def stale_seconds(self) -> float:
        """Silence after which a holder counts as dead."""
        return self.stale_intervals * self.interval_seconds

    @property
    def fresh_seconds(self) -> float:
        """Age of a heartbeat after which a holder checks its lease before it writes."""
        return self.fresh_intervals * self.interval_seconds


_STOP_SECONDS = 5.0
"""How long the end of a run waits for a heartbeat under way."""

_READS_PER_INTERVAL = 3
"""How often a waiting run reads a lease within an interval."""

_TIME = "%Y-%m-%d %H:%M:%S UTC"

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Holder:
    """The holder of a lease, as in its file. Times are by the holder's clock, in UTC, for people."""

    run: str
    since: str
    heartbeat: str
    machine: str = ""
    beats: int = 0

    def __str__(self) -> str:
        return f"run {self.run} (since {self.since}, last heartbeat {self.heartbeat})"

    def to_bytes(self) -> bytes:
        """The content of the file."""
        return json.dumps(vars(self)).encode()


def read_holder(content: bytes) -> Holder:
    """The holder that a lease file names; an unknown holder if the file is incomplete or not a lease."""
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError):
        return Holder("of unknown name", "unknown", "unknown")


class LeaseLost(Exception):
    """Another run has taken the output over."""


class Lease:
    """A lease that is held until the block ends.

    Attributes:
        lost: The run that took it over, once that is known. Then this run must end: the other one renders its
            rows.
        settled: The time, by the monotonic clock, from which no worker of an earlier holder is left.
    """

    def __init__(
        self,
        file: SharedFile,
        holder: Holder,
        tag: str,
        os_lock: FileLock | None,
        policy: LeasePolicy,
        settled: float,
    ) -> None:
        self.lost: Holder | None = None
        self.settled = settled
        self._file = file
        self._holder = holder
        self._tag = tag
        self._lock = os_lock
        self._policy = policy
        self._renewed_at = time.monotonic()
        self._renewing = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._send_heartbeats, name="lease", daemon=True)
        self._thread.start()

    @property
    def run(self) -> str:
        """Name of the run that holds it."""
        return self._holder.run

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def assure(self) -> None:
        """Make sure that the lease is held, before something is written that only the holder may write.

        Raises:
            LeaseLost: It is not held any more.
            OSError: The storage does not say.
        """
        with self._renewing:
            if self.lost is None and time.monotonic() - self._renewed_at > self._policy.fresh_seconds:
                self._renew()
        if self.lost is not None:
            raise LeaseLost(f"{self.lost} took over this output")

    def release(self) -> None:
        """Release the lease, so that the next run gets it at once."""
        self._end.set()
        self._thread.join(_STOP_SECONDS)
        # A lease that cannot be removed now will soon be stale.
        with suppress(OSError):
            found = self._file.read()
            if found and read_holder(found[0]).run == self._holder.run:
                self._file.delete()
        if self._lock is not None:
            self._lock.release()

    def _send_heartbeats(self) -> None:
        while self.lost is None and not self._end.wait(self._policy.interval_seconds):
            # While the storage is unavailable the run goes on: no other run can take the lease, either.
            with suppress(OSError), self._renewing:
                if self.lost is None:
                    self._renew()

    def _renew(self) -> None:
        self._holder = _next_beat(self._holder)
        try:
            self._write(self._tag)
        except WriteConflict:
            found = self._file.read()
            if found is None:
                if not self._end.is_set():
                    self._write(None)
            elif (holder := read_holder(found[0])).run == self._holder.run:
                # The answer to an earlier write was lost.
                self._write(found[1])
            else:
                self.lost = holder

    def _write(self, tag: str | None) -> None:
        begun = time.monotonic()
        self._tag = self._file.write(self._holder.to_bytes(), tag)
        self._renewed_at = begun


def has_died(output: Storage, run: str) -> bool:
    """Whether it is certain that a run no longer works; writes nothing to find out.

    It is certain if the lease was taken on this machine and the operating system's lock is free. That a run
    on another machine has died shows only in its silence.

    Raises:
        OSError: The storage failed.
    """
    if not is_local(output.root):
        return False
    try:
        holder = read_holder(output.read_bytes(LEASE_FILE))
    except FileNotFoundError:
        return False
    if not _is_of_this_machine(output, holder):
        return False
    return holder.run != run or not is_locked(output.uri(LEASE_LOCK))


def living_holder(output: Storage, policy: LeasePolicy = LeasePolicy()) -> Holder | None:
    """The run that holds an output's lease; None if none does, or its holder seems to be dead.

    Args:
        output: The output.
        policy: When a holder on another machine counts as dead. Its clock may differ.

    Raises:
        OSError: The storage failed.
    """
    try:
        holder = read_holder(output.read_bytes(LEASE_FILE))
    except FileNotFoundError:
        return None
    if is_local(output.root) and _is_of_this_machine(output, holder):
        return holder if is_locked(output.uri(LEASE_LOCK)) else None
    try:
        heartbeat = datetime.strptime(holder.heartbeat, _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None
    silent = (datetime.now(UTC) - heartbeat).total_seconds()
    return holder if silent < policy.stale_seconds else None


def acquire(
    output: Storage, run: str, *, print_line: Callable[[str], None], policy: LeasePolicy = LeasePolicy()
) -> Lease:
    """Take the lease of an output; waits if the lease may be of a dead run.

    Args:
        output: The output.
        run: Name of the run, unique; other runs on this output show it.
        print_line: Called with a line for the person who waits.
        policy: How long to wait, and between two heartbeats.

    Raises:
        Refused: A living run holds the lease: names it. Or the output cannot be used.
    """
    os_lock: FileLock | None = None
    try:
        if is_local(output.root):
            os_lock = _lock(output, policy.lock_seconds)
        file = open_shared_file(output, LEASE_FILE)
        holder = _new_holder(output, run)
        tag, settled = _take(file, holder, os_lock, print_line, policy)
        return Lease(file, holder, tag, os_lock, policy, settled)
    except BaseException as error:
        if os_lock is not None:
            os_lock.release()
        if isinstance(error, OSError):
            raise Refused(f"{redact(output.root)} cannot be used for output: {error}") from None
        raise


def _take(
    file: SharedFile,
    mine: Holder,
    os_lock: FileLock | None,
    print_line: Callable[[str], None],
    policy: LeasePolicy,
) -> tuple[str, float]:
    """Write the lease; returns its tag and `Lease.settled`."""
    settled = time.monotonic()
    while True:
        found = file.read()
        certain = file.conditional
        if found is None:
            tag, certain = None, file.creates_exclusively()
        elif os_lock is not None and _is_of_this_machine(file.storage, read_holder(found[0])):
            # This process has the lock, so the holder is dead.
            tag, certain = found[1], True
            settled = time.monotonic() + policy.orphan_seconds
            print_line(f"taking over the lease of {read_holder(found[0])}, which has died")
        else:
            tag = _wait_until_stale(file, found, print_line, policy)
        try:
            mine = _next_beat(mine)
            tag = file.write(mine.to_bytes(), tag)
        except WriteConflict:
            certain = False
        else:
            if not certain:
                time.sleep(min(policy.settle_seconds, policy.interval_seconds))
        if certain:
            assert tag is not None
            return tag, settled
        found = file.read()
        if found is not None:
            if (holder := read_holder(found[0])).run == mine.run:
                return found[1], settled
            raise _refusal(file.storage, holder)


def _wait_until_stale(
    file: SharedFile, found: tuple[bytes, str], print_line: Callable[[str], None], policy: LeasePolicy
) -> str | None:
    """Wait until a lease is stale, and return its tag; None if it is gone.

    Raises:
        Refused: Its holder gives a sign of life.
    """
    holder = read_holder(found[0])
    limit = policy.stale_seconds
    print_line(f"waiting for the lease of {holder}: it may have died, which is known within {limit:g} s")
    until = time.monotonic() + limit
    while time.monotonic() < until:
        time.sleep(policy.interval_seconds / _READS_PER_INTERVAL)
        now = file.read()
        if now is None:
            return None
        if now[0] != found[0]:
            raise _refusal(file.storage, read_holder(now[0]))
    print_line(f"taking over the lease of {holder}, which gave no sign of life for {limit:g} s")
    return found[1]


def _lock(output: Storage, patience: float) -> FileLock | None:
    until = time.monotonic() + patience
    while True:
        try:
            return lock(output.uri(LEASE_LOCK))
        except BlockingIOError:
            if time.monotonic() > until:
                found = open_shared_file(output, LEASE_FILE).read()
                raise _refusal(output, read_holder(found[0] if found else b"")) from None
        time.sleep(0.05)


def _refusal(output: Storage, holder: Holder) -> Refused:
    return Refused(
        f"{redact(output.root)}: {holder} is rendering into it; an output takes one run at a time: "
        "let that one end, stop it, or give another folder"
    )


def _is_of_this_machine(output: Storage, holder: Holder) -> bool:
    return holder.machine != "" and holder.machine == _machine_mark(output, holder.run)


def _machine_mark(output: Storage, run: str) -> str:
    """A mark of this machine since its last start, this mount of a local folder, and a run.

    Each run has another mark, so marks do not show which runs were on the same machine.
    """
    try:
        boot = _BOOT.read_text()
        mount = os.stat(output.root).st_dev
    except OSError:
        return ""
    return hashlib.sha256(f"{boot} {mount} {run}".encode()).hexdigest()[:16]


def _new_holder(output: Storage, run: str) -> Holder:
    now = _now()
    machine = _machine_mark(output, run) if is_local(output.root) else ""
    return Holder(run, since=now, heartbeat=now, machine=machine)


def _next_beat(holder: Holder) -> Holder:
    return dataclasses.replace(holder, heartbeat=_now(), beats=holder.beats + 1)


def _now() -> str:
    return datetime.now(UTC).strftime(_TIME)
