"""Questions that commands ask of a ledger: counts and dead letters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vidgen_dist.ledger.attempt_merge import read_ledger
from vidgen_dist.ledger.entries import FAILED, SCHEMA
from vidgen_dist.ledger.parts import read_parts
from vidgen_dist.ledger.state import OUTCOME_COLUMNS, LedgerState
from vidgen_dist.storage.folder import Storage


@dataclass(frozen=True)
class Summary:
    """Counts for `vidgen status`.

    Attributes:
        total: Rows of the manifest; None if it is not known.
        done, failed, failures: The manifest's ids by their latest outcomes; without it, all ids of the
            ledger.
        pending: The manifest's other ids; None without `total`.
        videos_per_minute: Over the last `RECENT` seconds, from the first video in them; None with fewer than
            two.
        seconds_left: Until nothing is pending, at that pace; None if pace or `pending` is not known.
    """

    total: int | None
    done: int
    failed: int
    pending: int | None
    failures: Mapping[str, int]
    videos_per_minute: float | None = None
    seconds_left: float | None = None


def summary(output: Storage, total: int | None = None, ids: Iterable[pa.Array] = ()) -> Summary:
    """Counts a manifest's rows by the latest outcomes of their ids, whatever their fingerprints.

    Args:
        output: The run's output.
        total: Rows of the manifest; None if it cannot be read.
        ids: The rows' ids, some at a time.

    Raises as `read_ledger`.
    """
    return count_rows(read_ledger(output), total, ids)


def count_rows(state: LedgerState, total: int | None = None, ids: Iterable[pa.Array] = ()) -> Summary:
    """The same, of a ledger that was read before."""
    pace = 60 * state.recent / state.recent_seconds if state.recent > 1 and state.recent_seconds else None
    if total is None:
        return Summary(None, state.done, state.failed, None, state.failures, pace)
    # A ledger may hold ids that are no longer in the manifest.
    counts = state.count(ids if state.parts else ())
    pending = total - counts.done - counts.failed
    left = None if pace is None else 60 * pending / pace
    return Summary(total, counts.done, counts.failed, pending, counts.failures, pace, left)


def latest(output: Storage, columns: Sequence[str] = SCHEMA.names) -> pa.Table:
    """The entry of each id's latest outcome, by time.

    Args:
        output: The run's output.
        columns: The columns of `SCHEMA` to return, with its types.

    Raises as `read_ledger`.
    """
    state = read_ledger(output)
    kept = list(dict.fromkeys((*columns, "id", *_LATER)))
    found = [pa.schema([*map(SCHEMA.field, kept), _PLACE]).empty_table()]

    def pick(_name: str, table: pa.Table) -> None:
        if len(table):
            place = state.latest_outcomes(table)
            entries = table.select(kept).append_column(_PLACE, pa.array(place))
            found.append(entries.filter(pa.array(place >= 0)))

    read_parts(output, list(dict.fromkeys((*kept, *OUTCOME_COLUMNS))), pick)
    entries = pa.concat_tables(found)
    found.clear()
    # Places are sorted before entries are, which are copied only once.
    last = _last_of_place(entries)
    by_time = [("finished_at", "ascending"), ("id", "ascending")]
    order = pc.sort_indices(entries.select(["finished_at", "id"]).take(last), by_time)
    return entries.select(list(columns)).take(last.take(order))


def _last_of_place(entries: pa.Table) -> pa.Array:
    """The index of the last entry of each place."""
    keys = [(name, "ascending") for name in ("place", *_LATER)]
    order = pc.sort_indices(entries.select([name for name, _ in keys]), keys)
    places = entries.column("place").to_numpy()[order.to_numpy()]
    return order.filter(pa.array(np.diff(places, append=-1) != 0))


_PLACE = pa.field("place", pa.int64())

_LATER = ("finished_at", "attempt", "error_class")
"""What decides which entry is the last. The error class is there so that it is always the same one."""

DEAD_LETTERS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("error_class", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("finished_at", SCHEMA.field("finished_at").type, nullable=False),
    ]
)
"""Columns of `dead_letters`."""


_LETTERS = pa.schema(
    [
        *(SCHEMA.field(name) for name in ("id", "error_class", "error_message", "attempt", "finished_at")),
        pa.field("place", pa.int64()),
    ]
)


def dead_letters(output: Storage) -> pa.Table:
    """The rows whose latest outcome is a failure, with the columns `DEAD_LETTERS`, by time.

    Error and time are those of the last attempt. Raises as `read_ledger`.
    """
    state = read_ledger(output)
    found = [_LETTERS.empty_table()]

    def pick(_name: str, table: pa.Table) -> None:
        table = table.filter(pc.equal(table.column("status"), FAILED)).combine_chunks()
        if len(table):
            ids, fingerprints = (table.column(name).combine_chunks() for name in ("id", "fingerprint"))
            place = state.dead_letter_indices(ids, fingerprints)
            table = table.append_column("place", pa.array(place))
            found.append(table.select(_LETTERS.names).filter(pa.array(place >= 0)).cast(_LETTERS))

    if state.failed:
        read_parts(output, ("status", "fingerprint", *_LETTERS.names[:-1]), pick)
    letters = pa.concat_tables(found).sort_by([(name, "ascending") for name in ("place", *_LATER)])
    places = letters.column("place").to_numpy()
    letters = letters.filter(pa.array(np.diff(places, append=-1) != 0))
    attempts = state.dead_letter_attempts(letters.column("place").to_numpy())
    letters = letters.append_column("attempts", pa.array(attempts, pa.int32()))
    return (
        letters.select(DEAD_LETTERS.names)
        .cast(DEAD_LETTERS)
        .sort_by([("finished_at", "ascending"), ("id", "ascending")])
    )
