"""The ledger committer: when parts are written, and what happens to entries without storage or lease."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.output.holders import write_holder
from tests.outputs import entries
from tests.policies import AT_ONCE
from tests.runtime.worker.in_process import PASSTHROUGH
from tests.waiting import wait_until
from vidgen_dist.ledger import LedgerEntry, LedgerState, LedgerWriter, compact, read_ledger
from vidgen_dist.output import ledger_committer
from vidgen_dist.output.lease import Lease, LeasePolicy, acquire
from vidgen_dist.output.ledger_committer import CommitPolicy, LedgerCommitter, open_committer
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import Storage, open_storage

HOURLY = LeasePolicy(interval_seconds=3600.0)
MIN_ENTRIES = CommitPolicy().min_entries


def entry(row_id: str, status: str = "done", **given: Any) -> LedgerEntry:
    whole = {"fingerprint": "f", "attempt": 1, "finished_at": datetime.now(UTC)}
    whole |= {"uri": "somewhere"} if status == "done" else {"error_class": "OSError"}
    return LedgerEntry(id=row_id, status=status, **{**whole, **given})


@pytest.fixture
def output(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "out")


@pytest.fixture
def lease(output: Storage) -> Iterator[Lease]:
    with acquire(output, "run", print_line=print, policy=HOURLY) as lease:
        yield lease


Open = Callable[..., LedgerCommitter]


@pytest.fixture
def open_quick(output: Storage, lease: Lease) -> Iterator[Open]:
    """Opens a committer that checks often, with other fields of its policy."""
    opened: list[LedgerCommitter] = []

    def open_now(**given: float) -> LedgerCommitter:
        policy, newest = CommitPolicy(tick_seconds=0.01, **given), read_ledger(output).newest
        opened.append(open_committer(output, PASSTHROUGH, lease, newest, policy, AT_ONCE))
        return opened[-1]

    yield open_now
    for committer in opened:
        committer.close()


def parts(output: Storage) -> list[int]:
    return [pq.read_metadata(output.uri(name)).num_rows for name in output.list("ledger")]


def test_entries_wait_for_each_other_and_are_written_at_the_end(output: Storage, open_quick: Open) -> None:
    committer = open_quick()
    for number in range(MIN_ENTRIES - 1):
        committer.enter(entry(str(number)))
    time.sleep(0.2)
    assert (parts(output), committer.done) == ([], 0)
    committer.enter(entry("bad", "failed"))
    wait_until(lambda: committer.failed)
    assert (parts(output), committer.done) == ([MIN_ENTRIES], MIN_ENTRIES - 1)
    for number in range(20):
        committer.enter(entry(f"later-{number}"))
    time.sleep(0.2)
    # The last part is not old enough.
    assert parts(output) == [MIN_ENTRIES]
    committer.close()
    assert parts(output) == [MIN_ENTRIES, 20]
    assert (committer.done, committer.failed, committer.fault) == (MIN_ENTRIES + 19, 1, "")


def test_an_entry_does_not_wait_too_long(output: Storage, open_quick: Open) -> None:
    committer = open_quick(patience_seconds=0.3)
    committer.enter(entry("a"))
    wait_until(lambda: committer.done)
    assert parts(output) == [1]


def test_a_failed_write_is_a_fault_and_is_repeated_at_the_end(
    output: Storage, open_quick: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    committer = open_quick(patience_seconds=0.0)

    def refuse(*_: object) -> None:
        raise StorageError("503 slow down")

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write_bytes", refuse)
        committer.enter(entry("a"))
        wait_until(lambda: committer.fault)
        committer.enter(entry("b"))
    assert committer.fault == "503 slow down"
    assert committer.done == 0
    committer.close()
    assert committer.done == 2
    assert sum(parts(output)) == 2


def test_a_storage_that_hangs_does_not_keep_a_run_from_ending(
    output: Storage, open_quick: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, answers = Storage.write_bytes, threading.Event()

    def hang(*arguments: Any) -> None:
        answers.wait(60)
        write(*arguments)

    monkeypatch.setattr(Storage, "write_bytes", hang)
    committer = open_quick(patience_seconds=0.0, close_seconds=0.2, hang_seconds=0.1)
    assert committer.stuck == ""
    committer.enter(entry("a"))
    wait_until(lambda: committer.stuck)
    assert (committer.stuck, committer.fault) == ("the storage has not answered for 0.1 s", "")
    committer.close()
    assert (committer.fault, committer.done) == ("the storage has not answered for 0.2 s", 0)
    answers.set()
    wait_until(lambda: committer.done)
    assert parts(output) == [1]


def test_after_a_lost_answer_nothing_is_entered_twice(
    output: Storage, open_quick: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, lost = Storage.write_bytes, []

    def lose(storage: Storage, path: str, content: bytes) -> None:
        write(storage, path, content)
        if len(lost) < 2:
            lost.append(path)
            # It comes while the committer waits for the answer.
            committer.enter(entry(f"late-{len(lost)}"))
            raise StorageError("cut")

    monkeypatch.setattr(Storage, "write_bytes", lose)
    committer = open_quick(patience_seconds=0.0)
    committer.enter(entry("a"))
    wait_until(lambda: committer.done == 3)
    assert lost[0] == lost[1]
    assert sum(parts(output)) == 3


def test_without_the_lease_nothing_is_entered(output: Storage, lease: Lease, open_quick: Open) -> None:
    """Its heartbeats are old, and another run has taken over."""
    committer = open_quick()
    committer.enter(entry("a"))
    write_holder(output, run="usurper")
    lease._renewed_at -= HOURLY.fresh_seconds + 1
    committer.close()
    assert lease.lost is not None
    assert (committer.done, committer.fault, parts(output)) == (0, "", [])


def test_a_committer_whose_heartbeats_are_late_checks_the_lease_and_goes_on(
    output: Storage, lease: Lease, open_quick: Open
) -> None:
    committer = open_quick()
    committer.enter(entry("a"))
    lease._renewed_at -= HOURLY.fresh_seconds + 1
    committer.close()
    assert (lease.lost, committer.done) == (None, 1)
    assert read_ledger(output).is_done("a", "f")


MINUTES = st.integers(-30, 30).map(lambda minutes: timedelta(minutes=minutes))


@settings(max_examples=10, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["done", "failed", "repair"]), st.sampled_from("fg"), MINUTES, MINUTES),
        max_size=5,
    )
)
def test_the_latest_entry_counts_whatever_the_clocks_say(
    steps: list[tuple[str, str, timedelta, timedelta]],
) -> None:
    """Each step is another run; the clocks of its driver and worker are minutes apart."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        output, stored = open_storage(folder), None
        with acquire(output, "run", print_line=print, policy=HOURLY) as lease:
            for status, fingerprint, driver, worker in steps:
                before = read_ledger(output)
                if status == "repair" and stored is not None:
                    mark_as_lost(output, stored)
                    stored = None
                elif status != "repair" and stored != fingerprint:
                    patch.setattr(ledger_committer, "datetime", clock_that_is_wrong_by(driver))
                    policy = CommitPolicy(tick_seconds=0.001)
                    committer = open_committer(output, PASSTHROUGH, lease, before.newest, policy)
                    attempt = before.attempts("a", fingerprint) + 1
                    ended = datetime.now(UTC) + worker
                    committer.enter(
                        entry("a", status, fingerprint=fingerprint, attempt=attempt, finished_at=ended)
                    )
                    committer.close()
                    stored = fingerprint if status == "done" else stored
                    after = read_ledger(output)
                    assert (after.done, after.failed) == ((1, 0) if status == "done" else (0, 1))
                assert stored_fingerprint(read_ledger(output)) == stored
        assert stored_fingerprint(compacted(output)) == stored


def clock_that_is_wrong_by(difference: timedelta) -> type[datetime]:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + difference

    return Clock


def mark_as_lost(output: Storage, fingerprint: str) -> None:
    """Enter what `vidgen verify --repair` enters."""
    videos = [each for each in entries(output.root) if each["status"] == "done"]
    last = [each for each in videos if each["fingerprint"] == fingerprint][-1]
    kept = {name: last[name] for name in ("fingerprint", "attempt", "finished_at")}
    with LedgerWriter(output, "verify", PASSTHROUGH) as writer:
        writer.append(entry("a", "lost", **kept))


def stored_fingerprint(state: LedgerState) -> str | None:
    (fingerprint,) = [each for each in "fg" if state.is_done("a", each)] or [None]
    return fingerprint


def compacted(output: Storage) -> LedgerState:
    compact(output, min_age=timedelta(0))
    return read_ledger(output)
