"""Compacting a ledger while others write and read, and when the process dies at any moment."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidgen_dist import ledger
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import (
    Compaction,
    LedgerEntry,
    LedgerState,
    LedgerWriter,
    compact,
    compaction,
    read_ledger,
)
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import Storage, open_storage

NOW = timedelta(seconds=-1)
"""For `min_age`: includes parts made just now."""


def entry(row: int, status: str = "done", attempt: int = 1, **extra: Any) -> LedgerEntry:
    return LedgerEntry(
        id=f"row-{row}",
        status=status,
        fingerprint="f",
        attempt=attempt,
        finished_at=datetime.now(UTC),
        uri="somewhere" if status == "done" else None,
        error_class=None if status == "done" else "OSError",
        extra=extra,
    )


def write_parts(output: Storage, *parts: list[LedgerEntry], passthrough: pa.Schema | None = None) -> None:
    writer = LedgerWriter(output, "w", passthrough, max_seconds=float("inf"))
    writer._last_part = 0.0
    for part in parts:
        for each in part:
            writer.append(each)
        writer.flush()


def twenty_parts(output: Storage) -> None:
    """Rows 0 to 19 failed and were done later; rows 20 to 39 failed for good."""
    write_parts(
        output, *([entry(n, "failed"), entry(n, attempt=2), entry(20 + n, "failed")] for n in range(20))
    )


def facts(state: LedgerState) -> tuple:
    rows = [f"row-{n}" for n in range(41)]
    return (
        state.done,
        state.failed,
        dict(state.failures),
        [(state.is_done(row, "f"), state.attempts(row, "f")) for row in rows],
    )


def entries(output: Storage) -> Counter[str]:
    """Every entry of the ledger, and how often it is there."""
    found: Counter[str] = Counter()
    for name in output.list("ledger"):
        table = pq.read_table(pa.BufferReader(output.read_bytes(name)))
        found.update(json.dumps(row, default=str, sort_keys=True) for row in table.to_pylist())
    return found


def test_many_parts_become_few(output: Storage) -> None:
    twenty_parts(output)
    state, there = facts(read_ledger(output)), entries(output)
    assert compact(output, min_age=NOW) == Compaction(before=20, after=1, entries=60)
    assert entries(output) == there
    assert facts(read_ledger(output)) == state
    assert pq.read_table(output.uri("ledger")).schema.names == ledger.SCHEMA.names


def test_on_s3(s3_bucket: str) -> None:
    output = open_storage(f"s3://{s3_bucket}/run")
    write_parts(output, *([entry(n)] for n in range(6)))
    there = entries(output)
    assert compact(output, min_age=NOW, part_rows=3).after == 2
    assert all(name.endswith(ledger.LARGE) for name in output.list("ledger"))
    assert entries(output) == there
    assert read_ledger(output).done == 6


def test_large_parts_are_left_and_small_ones_grow(output: Storage) -> None:
    twenty_parts(output)
    assert compact(output, part_rows=30, min_age=NOW).after == 2
    large = output.list("ledger")
    write_parts(output, [entry(40)], [entry(41)])
    assert compact(output, part_rows=30, min_age=NOW) == Compaction(before=4, after=3, entries=2)
    write_parts(output, [entry(42)])
    assert compact(output, part_rows=30, min_age=NOW) == Compaction(before=4, after=3, entries=3)
    assert set(large) < set(output.list("ledger"))
    assert compact(output, part_rows=30, min_age=NOW) == Compaction(before=3, after=3, entries=0)
    assert max(entries(output).values()) == 1
    assert read_ledger(output).done == 23


def test_parts_with_other_columns_stay_apart(output: Storage) -> None:
    write_parts(output, [entry(0)], [entry(1)])
    passthrough = pa.schema([("caption", pa.string())])
    write_parts(output, [entry(2, caption="a")], [entry(3, caption="b")], passthrough=passthrough)
    there = entries(output)
    assert compact(output, min_age=NOW).after == 2
    assert entries(output) == there


def test_young_parts_stay(output: Storage) -> None:
    twenty_parts(output)
    assert compact(output) == Compaction(before=20, after=20, entries=0)
    # One that another tool made says no time, and is old.
    for number in range(2):
        old = pq.read_table(pa.BufferReader(output.read_bytes(output.list("ledger")[0])))
        sink = pa.BufferOutputStream()
        pq.write_table(old, sink)
        output.write_bytes(f"ledger/mine-{number}.parquet", sink.getvalue().to_pybytes())
    assert compact(output) == Compaction(before=22, after=21, entries=6)


def test_no_ledger(output: Storage) -> None:
    assert compact(output) == Compaction(0, 0, 0)


def test_a_damaged_part_is_named_and_nothing_is_removed(output: Storage) -> None:
    twenty_parts(output)
    victim = output.list("ledger")[7]
    output.write_bytes(victim, output.read_bytes(victim)[:-20])
    there = output.list("ledger")
    with pytest.raises(Refused, match=f"{victim}: is not a whole ledger part"):
        compact(output, min_age=NOW)
    assert output.list("ledger") == there


def test_nothing_is_removed_for_a_part_that_does_not_hold_it(
    output: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    twenty_parts(output)
    there = output.list("ledger")
    write = pq.write_table
    monkeypatch.setattr(compaction.pq, "write_table", lambda table, *a, **k: write(table.slice(1), *a, **k))
    with pytest.raises(StorageError, match="has 59 entries where 60 were written"):
        compact(output, min_age=NOW)
    assert set(there) < set(output.list("ledger"))


class Killed(BaseException):
    """Stands for SIGKILL: no `except` of ours catches it."""


def test_a_death_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after each write and each removal."""
    calls = 0
    mortal = 10**9

    def dies(method: str) -> None:
        whole = getattr(Storage, method)

        def call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == mortal:
                raise Killed
            made = whole(*arguments)
            calls += 1
            if calls == mortal and method == "delete":
                raise Killed
            return made

        monkeypatch.setattr(Storage, method, call)

    dies("delete")
    dies("create")
    deaths = 0
    for moment in range(1, 200):
        output = open_storage(tmp_path / str(moment))
        write_parts(output, *([entry(n, "failed"), entry(n, attempt=2)] for n in range(5)))
        state, there = facts(read_ledger(output)), entries(output)
        calls, mortal = 0, moment
        try:
            compact(output, min_age=NOW, threads=1)
        except Killed:
            deaths += 1
        finally:
            mortal = 10**9
        assert facts(read_ledger(output)) == state
        compact(output, min_age=NOW)
        assert facts(read_ledger(output)) == state
        assert entries(output) == there
        if calls < moment:
            break
    # One part is written and five are removed.
    assert deaths > 10


def test_a_reader_whose_parts_vanish_reads_again(output: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    twenty_parts(output)
    state = facts(read_ledger(output))
    listing = Storage.list
    listed = 0

    def list_then_compact(self: Storage, prefix: str = "") -> list[str]:
        nonlocal listed
        names = listing(self, prefix)
        listed += 1
        if listed == 1:
            compact(output, min_age=NOW)
        return names

    monkeypatch.setattr(Storage, "list", list_then_compact)
    assert facts(read_ledger(output)) == state


def test_a_storage_that_lists_what_is_not_there(output: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    twenty_parts(output)
    monkeypatch.setattr(Storage, "list", lambda *_: ["ledger/gone.parquet"])
    with pytest.raises(StorageError, match="parts disappear while they are listed; try again"):
        read_ledger(output)


def test_writers_readers_and_compactions_at_the_same_time(output: Storage) -> None:
    """A reading has everything that was in the ledger before it; in the end every entry is there once."""
    rows, writers = 80, 3
    written = [0] * writers
    over = threading.Event()
    wrong: list[str] = []

    def write(number: int) -> None:
        with LedgerWriter(output, f"w{number}", max_entries=1) as writer:
            for at in range(rows):
                writer.append(entry(number * rows + at))
                written[number] = at + 1

    def until_over(work: Callable[[], None]) -> None:
        try:
            while not over.is_set():
                work()
        except (OSError, Refused) as error:
            wrong.append(repr(error))

    def read() -> None:
        least = sum(written)
        found = read_ledger(output).done
        if found < least:
            wrong.append(f"{found} of at least {least}")

    def merge() -> None:
        compact(output, min_age=NOW, part_rows=100)

    helpers = [threading.Thread(target=until_over, args=(work,)) for work in (read, merge)]
    authors = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in helpers + authors:
        thread.start()
    for thread in authors:
        thread.join()
    over.set()
    for thread in helpers:
        thread.join()
    assert not wrong
    compact(output, min_age=NOW, part_rows=100)
    assert len(output.list("ledger")) < 20
    assert sorted(entries(output).values()) == [1] * (rows * writers)
    assert read_ledger(output).done == rows * writers
