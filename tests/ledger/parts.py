"""Helpers: entries and parts, and what a ledger of them must say, computed entry by entry."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from vidgen_dist import ledger
from vidgen_dist.ledger import LedgerEntry, LedgerWriter
from vidgen_dist.ledger.attempt_merge import AttemptMerge
from vidgen_dist.ledger.entries import entry_rows
from vidgen_dist.storage.folder import Storage

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def entry(id: str = "row", status: str = "done", at: float = 0, **values: object) -> LedgerEntry:
    given: dict = {"fingerprint": "f", "attempt": 1, "finished_at": NOON + timedelta(seconds=at)}
    given |= {"uri": "/out/videos/aa/row.mp4"} if status == "done" else {"error_class": "ValueError"}
    return LedgerEntry(id=id, status=status, **(given | values))


def write(
    output: Storage, *entries: LedgerEntry, writer: str = "w", passthrough: pa.Schema | None = None
) -> None:
    """One part."""
    with LedgerWriter(
        output, writer, passthrough, max_entries=10**9, max_seconds=float("inf")
    ) as ledger_writer:
        # The very first entry is due at once; here all are to share a part.
        ledger_writer._last_part = 0.0
        for each in entries:
            ledger_writer.append(each)


def table(output: Storage) -> pa.Table:
    parts = [pq.read_table(pa.BufferReader(output.read_bytes(name))) for name in output.list("ledger")]
    return pa.concat_tables(parts)


attempts = st.builds(
    entry,
    id=st.sampled_from(["a", "b", "c"]),
    status=st.sampled_from(["done", "failed", "lost"]),
    at=st.integers(0, 3),
    fingerprint=st.sampled_from(["f", "g"]),
    attempt=st.integers(1, 3),
    error_class=st.sampled_from(["ValueError", "OSError", "MediaError"]),
)


def of_row(entries: list[LedgerEntry], id: str, fingerprint: str) -> list[LedgerEntry]:
    return [each for each in entries if (each.id, each.fingerprint) == (id, fingerprint)]


def video(entries: list[LedgerEntry]) -> LedgerEntry | None:
    """The last entry about the video, done or lost, among entries of one id and fingerprint."""
    settled = [each for each in entries if each.status != "failed"]
    return max(settled, key=lambda e: (e.finished_at, e.attempt, e.status == "lost"), default=None)


def counting(entries: list[LedgerEntry], in_place: set[str]) -> LedgerEntry | None:
    """The entry that counts among those of one id and fingerprint; `in_place` has fingerprints."""
    failures = [each for each in entries if each.status == "failed"]
    failure = max(failures, key=lambda e: (e.finished_at, e.attempt, e.error_class), default=None)
    last = video(entries)
    gone = last is None or last.fingerprint not in in_place
    if last is None or (gone and failure and failure.finished_at > last.finished_at):
        return failure
    return last


def expected(entries: list[LedgerEntry], state: ledger.LedgerState) -> dict:
    """The rules of the module's docstring, one entry at a time; of videos that tie, the state says which."""
    live, verdicts = {}, {}
    for id in {each.id for each in entries}:
        rows = [rows for f in "fg" if (rows := of_row(entries, id, f))]
        videos = [last for last in map(video, rows) if last]
        # What is lost was in place: an older video, of another fingerprint, is long gone.
        order = [(each.finished_at, each.status == "lost", each.attempt) for each in videos]
        last = [each for each, rank in zip(videos, order, strict=True) if rank == max(order)]
        live[id] = {each.fingerprint for each in last if each.status == "done"}
        there = {fingerprint for fingerprint in live[id] if state.is_done(id, fingerprint)}
        latest = max(
            filter(None, (counting(each, there) for each in rows)),
            key=lambda e: (e.finished_at, e.status != "failed", e.status == "lost", e.attempt),
        )
        verdicts[id] = latest.status
    return {"live": live, "verdicts": verdicts}


def found(entries: list[list[LedgerEntry]]) -> ledger.LedgerState:
    """The state of a ledger of these parts, without storage."""
    merge = AttemptMerge()
    for group in entries:
        batches = [entry_rows([each], ledger.SCHEMA) for each in group]
        merge.add(pa.Table.from_batches(batches, ledger.SCHEMA), "x.parquet")
    return merge.state(())


def verdicts(state: ledger.LedgerState) -> tuple:
    keys = [(id, fingerprint) for id in "abc" for fingerprint in "fg"]
    return (
        [state.is_done(*key) for key in keys],
        [state.attempts(*key) for key in keys],
        (state.done, state.failed, state.failures),
        state.newest,
    )
