"""The lease: one run at a time on one output.

The run that renders into an output keeps a small file there, `.lease.json`, with its name and a count that
goes up every interval. Another run that finds it watches it, by its own clock alone: if the count
goes up, the holder lives, and the other is refused; if it stands still for `stale_intervals` intervals, the
holder is taken for dead, and its lease is taken over. A run whose lease was taken over, because it or its
storage was away for so long, learns it with its next heartbeat.

In a local folder there is the operating system's lock besides. It ends with its process, so that a run that
died is followed at once. Machines that share a folder do not always share its locks; therefore it says
something about runs of the same machine only, which a lease tells by a hash of the machine's boot, the file
system and the run. Workers of the dead run may be at work for some seconds more, until Ray has ended them;
they cannot enter anything into the ledger, and `Lease.settled` says when no video comes of them any more.

What is certain: where storage compares and writes in one (S3; a local lock; a new file in a local folder)
two runs never take the same lease. Elsewhere each looks again `settle_seconds` after it wrote, so two are
possible if one is held up for longer just then; the first heartbeat ends one of them.

Before each ledger part, a holder whose last heartbeat is `fresh_intervals` old makes sure of its lease
(`Lease.assure`), so that one that was suspended enters nothing beside the run that took over. What remains is
a process that is suspended between that and the write, or a request that is under way, for more than the rest
of `stale_intervals`. `LeasePolicy` has these numbers.
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
    """How often a lease shows a sign of life, and how long others wait for one.

    All who take leases of one output need the same interval, else a living holder is taken for dead.

    Args:
        interval_seconds: Seconds between two heartbeats, each a request to the storage: four a minute.
        stale_intervals: A holder that is silent for so many intervals is taken for dead.
        fresh_intervals: A holder whose last heartbeat is older than so many intervals asks before it writes;
            fewer than `stale_intervals`, so that it asks before another run may have taken over.
        orphan_seconds: How long workers may live whose driver was killed. Those of a Ray of its own were seen
            to end within 3 s. A Ray that runs on was seen to take 0.1 s, and kills those that do not obey
            after 5 s.
        settle_seconds: After it, a lease is read again where the storage cannot compare and write in one.
        lock_seconds: What a process that is being killed may take to release its lock.
    """

    interval_seconds: float = 15.0
    stale_intervals: int = 4
    fresh_intervals: int = 3
    orphan_seconds: float = 6.0
    settle_seconds: float = 2.0
    lock_seconds: float = 1.0

    @property
    def stale_seconds(self) -> float:
        """Silence after which a holder is taken for dead."""
        return self.stale_intervals * self.interval_seconds

    @property
    def fresh_seconds(self) -> float:
        """Age of a heartbeat after which a holder asks before it writes."""
        return self.fresh_intervals * self.interval_seconds


_STOP_PATIENCE = 5.0
"""Seconds that the end of a run waits for a heartbeat under way."""

_LOOKS = 3
"""How often a lease is looked at within an interval."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as its file says. Times are the holder's, in UTC, for people to read."""

    run: str
    since: str
    heartbeat: str
    machine: str = ""
    beats: int = 0

    def __str__(self) -> str:
        return f"run {self.run} (since {self.since}, last heartbeat {self.heartbeat})"

    def to_bytes(self) -> bytes:
        """The file."""
        return json.dumps(vars(self)).encode()


def read_holder(content: bytes) -> Holder:
    """The holder that a lease file names; one that is half written or no lease names an unknown one."""
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError):
        return Holder("of unknown name", "unknown", "unknown")


class LeaseLost(Exception):
    """Another run has taken the output over."""


class Lease:
    """A lease that is held until the block ends.

    Attributes:
        lost: Who took it over, once that is known. Then the run must end: another one renders its rows.
        settled: From when on, by the monotonic clock, no worker of a run that held it before is left.
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
        self._beaten = time.monotonic()
        self._beating = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
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
        """Make sure that it is held, before something is written that only the holder may write.

        Raises:
            LeaseLost: It is not.
            OSError: The storage does not say.
        """
        with self._beating:
            if self.lost is None and time.monotonic() - self._beaten > self._policy.fresh_seconds:
                self._refresh()
        if self.lost is not None:
            raise LeaseLost(f"{self.lost} took over this output")

    def release(self) -> None:
        """Let the next run have it at once."""
        self._end.set()
        self._thread.join(_STOP_PATIENCE)
        # A lease that cannot be removed now is stale before long.
        with suppress(OSError):
            found = self._file.read()
            if found and read_holder(found[0]).run == self._holder.run:
                self._file.delete()
        if self._lock is not None:
            self._lock.release()

    def _beat(self) -> None:
        while self.lost is None and not self._end.wait(self._policy.interval_seconds):
            # While storage is away the run goes on: nobody else can take the lease either.
            with suppress(OSError), self._beating:
                if self.lost is None:
                    self._refresh()

    def _refresh(self) -> None:
        self._holder = _next_beat(self._holder)
        try:
            self._write(self._tag)
        except WriteConflict:
            found = self._file.read()
            if found is None:
                if not self._end.is_set():
                    self._write(None)
            elif (holder := read_holder(found[0])).run == self._holder.run:
                # The answer to an earlier write was lost on its way.
                self._write(found[1])
            else:
                self.lost = holder

    def _write(self, tag: str | None) -> None:
        begun = time.monotonic()
        self._tag = self._file.write(self._holder.to_bytes(), tag)
        self._beaten = begun


def has_died(output: Storage, run: str) -> bool:
    """Whether it is certain that a run is at work no more; nothing is written to find out.

    It is where the lease was taken on this machine: then the operating system's lock says so. Of a run
    elsewhere only its silence tells.

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


def acquire(
    output: Storage, run: str, *, say: Callable[[str], None], policy: LeasePolicy = LeasePolicy()
) -> Lease:
    """Take the lease of an output, waiting for one that may be of a dead run.

    Args:
        output: The output.
        run: Name of the run, unique; shown to whoever comes while it runs.
        say: Called with a line for the person who waits.
        policy: How long to wait, and between two heartbeats.

    Raises:
        Refused: A living run holds it, which is named; or the output cannot be used.
    """
    os_lock: FileLock | None = None
    try:
        if is_local(output.root):
            os_lock = _lock(output, policy.lock_seconds)
        file = open_shared_file(output, LEASE_FILE)
        holder = _new_holder(output, run)
        tag, settled = _take(file, holder, os_lock, say, policy)
        return Lease(file, holder, tag, os_lock, policy, settled)
    except BaseException as error:
        if os_lock is not None:
            os_lock.release()
        if isinstance(error, OSError):
            raise Refused(f"{redact(output.root)} cannot be used for output: {error}") from None
        raise


def _take(
    file: SharedFile, mine: Holder, os_lock: FileLock | None, say: Callable[[str], None], policy: LeasePolicy
) -> tuple[str, float]:
    """Write the lease; its tag, and `Lease.settled`."""
    settled = time.monotonic()
    while True:
        found = file.read()
        certain = file.conditional
        if found is None:
            tag, certain = None, file.creates_exclusively()
        elif os_lock is not None and _is_of_this_machine(file.storage, read_holder(found[0])):
            # It cannot live without the lock.
            tag, certain = found[1], True
            settled = time.monotonic() + policy.orphan_seconds
            say(f"taking over the lease of {read_holder(found[0])}, which has died")
        else:
            tag = _wait(file, found, say, policy)
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
            raise _held(file.storage, holder)


def _wait(
    file: SharedFile, found: tuple[bytes, str], say: Callable[[str], None], policy: LeasePolicy
) -> str | None:
    """Wait until a lease is stale and return its tag, or is gone; refused if its holder is heard of."""
    holder = read_holder(found[0])
    limit = policy.stale_seconds
    say(f"waiting for the lease of {holder}: it may have died, which is known within {limit:g} s")
    until = time.monotonic() + limit
    while time.monotonic() < until:
        time.sleep(policy.interval_seconds / _LOOKS)
        now = file.read()
        if now is None:
            return None
        if now[0] != found[0]:
            raise _held(file.storage, read_holder(now[0]))
    say(f"taking over the lease of {holder}, which gave no sign of life for {limit:g} s")
    return found[1]


def _lock(output: Storage, patience: float) -> FileLock | None:
    until = time.monotonic() + patience
    while True:
        try:
            return lock(output.uri(LEASE_LOCK))
        except BlockingIOError:
            if time.monotonic() > until:
                found = open_shared_file(output, LEASE_FILE).read()
                raise _held(output, read_holder(found[0] if found else b"")) from None
        time.sleep(0.05)


def _held(output: Storage, holder: Holder) -> Refused:
    return Refused(
        f"{redact(output.root)}: {holder} is rendering into it; an output takes one run at a time: "
        "let that one end, stop it, or give another folder"
    )


def _is_of_this_machine(output: Storage, holder: Holder) -> bool:
    return holder.machine != "" and holder.machine == _machine_mark(output, holder.run)


def _machine_mark(output: Storage, run: str) -> str:
    """Tells this machine, since its last start, and this mount of a local folder from others, and no more.

    Nobody can find the same mark for another run, so that marks say nothing about where runs ran.
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
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
