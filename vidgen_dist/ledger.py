"""Parquet out: what became of each row; resume; dead letters.

`OUTPUT/ledger/` is a folder of Parquet parts, one row an attempt at a manifest row. A part is written once,
by one writer, and never changed, so any number of workers write at the same time and a reader needs no
lock. Parts of one run share one schema: the folder opens as one table in pandas, DuckDB and `datasets`.

An entry is written after its video is whole under its final name (`media.commit_video`). What was rendered
but not entered when a run was killed is rendered again, to the same name.

Among the entries of one id and one fingerprint `done` beats `failed`, and else the later beats the
earlier. A video of another fingerprint takes the same file's place, so a row counts as done for the
fingerprint that was done last. The order in which parts are read and entries that are there twice change
nothing.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidgen_dist.errors import Refused
from vidgen_dist.storage import Storage, is_hidden, redact
from vidgen_dist.threads import map_ahead

FOLDER = "ledger"
DONE = "done"
FAILED = "failed"
MAX_MESSAGE = 4000

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("frames", pa.int32()),
        pa.field("fps", pa.float64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("seed", pa.int64()),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("model", pa.string()),
        pa.field("revision", pa.string()),
        pa.field("seconds_encode", pa.float64()),
        pa.field("seconds_denoise", pa.float64()),
        pa.field("seconds_decode", pa.float64()),
        pa.field("seconds_write", pa.float64()),
        pa.field("attempt", pa.int32(), nullable=False),
        pa.field("worker", pa.string()),
        pa.field("error_class", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("finished_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""The ledger's own columns; the manifest's `passthrough` columns follow them."""

# What the merge reads.
_MERGED = ("id", "fingerprint", "status", "attempt", "finished_at", "error_class")

_READERS = 16
_BATCH = 2**16
_MERGE = 2**20


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """What became of one attempt at one row; the fields are the ledger's columns.

    Attributes:
        id: The row's identity.
        status: "done" or "failed".
        fingerprint: Digest of all that decides the pixels.
        attempt: 1 for the first attempt at this id with this fingerprint, and so on, over all runs.
        finished_at: When the attempt ended; with a time zone, kept as UTC.
        uri: Where the video is, as a full URI or absolute path, so that it opens from anywhere; of a
            failed row None. If an output is moved as a whole, what follows the last `/videos/` still
            holds below the new place's `videos/`.
        bytes, sha256, frames, fps, width, height: Of the video's file, see `media.EncodedVideo`.
        seed: Seed of the noise.
        model, revision: The checkpoint: hub id or folder, and commit.
        seconds_encode, seconds_denoise, seconds_decode, seconds_write: Seconds of each stage that ran.
        worker: Who made the attempt.
        error_class, error_message: Of a failed row; messages are cut to `MAX_MESSAGE` characters.
        extra: Values of the passthrough columns, as Python values or Arrow scalars; one that is missing
            is null.

    Raises:
        ValueError: Another status, a done row without its URI, a failed one without its error, a time
            without a zone.
    """

    id: str
    status: str
    fingerprint: str
    attempt: int
    finished_at: datetime
    uri: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    frames: int | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    model: str | None = None
    revision: str | None = None
    seconds_encode: float | None = None
    seconds_denoise: float | None = None
    seconds_decode: float | None = None
    seconds_write: float | None = None
    worker: str | None = None
    error_class: str | None = None
    error_message: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        needed = {DONE: "uri", FAILED: "error_class"}.get(self.status)
        if needed is None:
            raise ValueError(f"status: {self.status!r} is not allowed; allowed: {DONE!r} or {FAILED!r}")
        if getattr(self, needed) is None:
            raise ValueError(f"{needed}: may not be missing when the status is {self.status!r}")
        if self.finished_at.tzinfo is None:
            raise ValueError(f"finished_at: {self.finished_at} has no time zone")


def ledger_schema(passthrough: pa.Schema | None = None) -> pa.Schema:
    """`SCHEMA` and, after it, the passthrough columns with the types that they have in the manifest.

    Raises:
        Refused: A passthrough column has the name of one of the ledger's own.
    """
    extra = [column.remove_metadata().with_nullable(True) for column in passthrough or ()]
    clashes = sorted({column.name for column in extra} & set(SCHEMA.names))
    if clashes:
        raise Refused(
            f"passthrough: column {clashes[0]!r} cannot be copied to the ledger, which has a column of that "
            f"name; rename it in the manifest. The ledger's own columns: {', '.join(SCHEMA.names)}"
        )
    return pa.schema([*SCHEMA, *extra])


# --- writing -----------------------------------------------------------------------------------------


class LedgerWriter:
    """Collects entries and writes them as Parquet parts. May be used from many threads.

    A part is due when `max_entries` wait, or when any wait and the last part is `max_seconds` old. Entries
    that come more rarely than that are thus written at once, and a killed run loses at most the last
    `max_seconds`. There is no timer: between entries, call `flush_due` now and then. As a context
    manager it flushes at the end, also when the block raised.

    Args:
        output: The run's output.
        writer_id: Part of the file names, for people; letters, digits, `.`, `_` and `-`.
        passthrough: Columns of the manifest that are copied, see `ledger_schema`.
        max_entries: Entries of a part at most, roughly.
        max_seconds: How long an entry may wait.

    Raises:
        Refused: See `ledger_schema`.
        ValueError: A writer id with other characters.
    """

    def __init__(
        self,
        output: Storage,
        writer_id: str,
        passthrough: pa.Schema | None = None,
        *,
        max_entries: int = 1000,
        max_seconds: float = 15.0,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", writer_id):
            raise ValueError(
                f"writer_id {writer_id!r} is not allowed; allowed: letters, digits, '.', '_', '-'"
            )
        self.schema = ledger_schema(passthrough)
        self._output = output
        self._writer_id = writer_id
        self._max_entries = max_entries
        self._max_seconds = max_seconds
        self._waiting: list[pa.RecordBatch] = []
        self._guard = threading.Lock()
        self._flushing = threading.Lock()
        self._parts = 0
        self._last_part = -float("inf")

    def __enter__(self) -> LedgerWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    @property
    def waiting(self) -> int:
        """Entries that no part holds yet."""
        with self._guard:
            return len(self._waiting)

    def append(self, entry: LedgerEntry) -> None:
        """Takes an entry, and writes a part if one is due.

        Raises:
            ValueError: A value that its column cannot hold, or an unknown passthrough column; the entry
                is not taken, and the others are not held up by it.
            OSError: As `flush`; the entry is taken, do not append it again.
        """
        row = _row(entry, self.schema)
        with self._guard:
            self._waiting.append(row)
        self.flush_due()

    def flush_due(self) -> None:
        """Writes a part if one is due. Raises as `flush`."""
        with self._guard:
            count = len(self._waiting)
            old = time.monotonic() - self._last_part >= self._max_seconds
        if count >= self._max_entries or (count and old):
            self.flush()

    def flush(self) -> None:
        """Writes all entries that wait as one part; nothing when none do.

        Raises:
            OSError: The storage refused; the entries go on waiting.
        """
        with self._flushing:
            with self._guard:
                batches = list(self._waiting)
            if not batches:
                return
            sink = pa.BufferOutputStream()
            table = pa.Table.from_batches(batches, self.schema).combine_chunks()
            pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
            # A name of its own for each try: what a failed one may have left is whole, or not there.
            moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
            name = f"{moment}-{self._writer_id}-{self._parts:06d}-{uuid.uuid4().hex[:8]}.parquet"
            self._output.write_bytes(f"{FOLDER}/{name}", sink.getvalue().to_pybytes())
            with self._guard:
                del self._waiting[: len(batches)]
                self._parts += 1
                self._last_part = time.monotonic()


def _row(entry: LedgerEntry, schema: pa.Schema) -> pa.RecordBatch:
    values = {column.name: getattr(entry, column.name) for column in fields(entry) if column.name != "extra"}
    if entry.error_message is not None:
        # Messages quote whatever broke, also what is no text.
        text = entry.error_message.encode("utf-8", "backslashreplace").decode()
        values["error_message"] = text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE - 3]}..."
    unknown = sorted(set(entry.extra) - (set(schema.names) - set(values)))
    if unknown:
        raise ValueError(f"ledger entry {entry.id!r}: {unknown[0]!r} is no passthrough column of this ledger")
    values |= entry.extra
    arrays = []
    for column in schema:
        value = values.get(column.name)
        try:
            array = pa.array([value], column.type)
            if array.null_count and not column.nullable:
                raise ValueError("may not be missing")
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise ValueError(
                f"ledger entry {entry.id!r}: {column.name}: {str(value)[:100]!r} is not allowed; "
                f"allowed: {column.type} ({error})"
            ) from error
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


# --- reading -----------------------------------------------------------------------------------------

# One attempt, or the best of some. Digests in place of texts: 10 million rows fit in half a gigabyte.
_ATTEMPT = np.dtype(
    [
        ("id_high", np.uint64),
        ("id_low", np.uint64),
        ("fingerprint", np.uint64),
        ("done", np.bool_),
        ("finished_at", np.int64),
        ("attempt", np.int32),
        ("attempts", np.int32),
        ("error_class", np.int32),
    ]
)


@dataclass(frozen=True, eq=False)
class LedgerState:
    """What a ledger says, merged. Made by `read_ledger`; plain arrays, may be sent to other processes.

    Attributes:
        done: Ids whose latest outcome is a video.
        failed: Ids whose latest outcome is a failure: the dead letters.
        failures: Number of dead letters by error class, the most frequent first.
        parts: Paths of the parts that were read.
    """

    done: int
    failed: int
    failures: Mapping[str, int]
    parts: tuple[str, ...]
    # Best attempt by id and fingerprint, sorted by `id_high`.
    _id_high: np.ndarray
    _id_low: np.ndarray
    _fingerprint: np.ndarray
    # Whether its video is there: done, and the id not done with another fingerprint since.
    _in_place: np.ndarray
    _attempts: np.ndarray

    def is_done(self, id: str, fingerprint: str) -> bool:
        """Whether the row's video with this fingerprint is there."""
        index = self._find(id, fingerprint)
        return index is not None and bool(self._in_place[index])

    def attempts(self, id: str, fingerprint: str) -> int:
        """The highest attempt number of the row with this fingerprint; 0 if it was never tried."""
        index = self._find(id, fingerprint)
        return 0 if index is None else int(self._attempts[index])

    def _find(self, id: str, fingerprint: str) -> int | None:
        high, low, third = np.frombuffer(_digest(id, fingerprint), np.uint64)
        index = int(self._id_high.searchsorted(high))
        while index < len(self._id_high) and self._id_high[index] == high:
            if self._id_low[index] == low and self._fingerprint[index] == third:
                return index
            index += 1
        return None


@dataclass(frozen=True)
class Summary:
    """Counts for `vidgen status`.

    Attributes:
        total: Rows of the manifest; None if that is not known.
        done, failed, failures: As in `LedgerState`.
        pending: Rows of which the ledger says nothing; None without `total`.
    """

    total: int | None
    done: int
    failed: int
    pending: int | None
    failures: Mapping[str, int]


def summary(output: Storage, total: int | None = None) -> Summary:
    """Counts a ledger's rows by their latest outcome. Raises as `read_ledger`."""
    state = read_ledger(output)
    # A ledger may hold ids that the manifest has no more.
    pending = None if total is None else max(0, total - state.done - state.failed)
    return Summary(total, state.done, state.failed, pending, state.failures)


def read_ledger(output: Storage) -> LedgerState:
    """Reads and merges all parts. An output without a ledger gives an empty state.

    Raises:
        Refused: A file in the folder is no whole ledger part; names it.
        OSError: The storage failed.
    """
    names = _part_names(output)
    classes: dict[str, int] = {}
    best = np.empty(0, _ATTEMPT)
    read: list[np.ndarray] = []
    count = 0
    tables = map_ahead(lambda name: _read_part(output, name), names, threads=_READERS)
    for name, table in zip(names, tables, strict=True):
        for chunk in _attempts(table, output.uri(name), classes):
            read.append(chunk)
            count += len(chunk)
        # Merged whenever as much again was read: memory follows the rows, not the attempts.
        if count > max(len(best), _MERGE):
            best, read, count = _best(np.concatenate([best, *read]), classes), [], 0
    return _state(_best(np.concatenate([best, *read]), classes), classes, names)


def _part_names(output: Storage) -> list[str]:
    names = []
    for name in output.list(FOLDER):
        if is_hidden(name):
            continue
        if not name.endswith(".parquet"):
            raise Refused(f"{redact(output.uri(name))}: is no ledger part; allowed in {FOLDER}/: *.parquet")
        names.append(name)
    return names


def _read_part(output: Storage, name: str) -> pa.Table:
    data = output.read_bytes(name)
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        missing = [column for column in SCHEMA.names if column not in file.schema_arrow.names]
        if missing:
            raise ValueError(f"it has no column {missing[0]!r}")
        table = file.read(_MERGED)
        for column in _MERGED:
            table = _typed(table, SCHEMA.field(column))
    except (pa.ArrowException, OSError, ValueError) as error:
        # OSError too: the bytes are here, but Arrow says so of some that do not unpack.
        raise Refused(
            f"{redact(output.uri(name))}: is no whole ledger part: {error}; move it elsewhere, "
            "and the rows that only it knows are rendered again"
        ) from error
    return table


def _typed(table: pa.Table, column: pa.Field) -> pa.Table:
    """The table with one column as `SCHEMA` has it: other tools, merging parts, may widen types."""
    index = table.column_names.index(column.name)
    values = table.column(index)
    try:
        values = values.cast(column.type)
    except pa.ArrowException as error:
        raise ValueError(f"column {column.name!r} is {values.type}, not {column.type}: {error}") from None
    if values.null_count and not column.nullable:
        raise ValueError(f"column {column.name!r} has {values.null_count} missing values")
    return table.set_column(index, column, values)


def _attempts(table: pa.Table, uri: str, classes: dict[str, int]) -> Iterator[np.ndarray]:
    """The attempts of one part; `classes` numbers the error classes and grows."""
    start = 0
    for batch in table.to_batches(max_chunksize=_BATCH):
        out = np.empty(batch.num_rows, _ATTEMPT)
        ids, fingerprints = (batch.column(name).to_pylist() for name in ("id", "fingerprint"))
        digests = b"".join(map(_digest, ids, fingerprints))
        out["id_high"], out["id_low"], out["fingerprint"] = np.frombuffer(digests, np.uint64).reshape(-1, 3).T
        statuses = batch.column("status").to_pylist()
        if strange := set(statuses) - {DONE, FAILED}:
            status = min(strange)
            raise Refused(
                f"{redact(uri)}: row {start + statuses.index(status)}: status: {status!r} is not allowed; "
                f"allowed: {DONE!r} or {FAILED!r}"
            )
        out["done"] = [status == DONE for status in statuses]
        out["finished_at"] = batch.column("finished_at").cast(pa.int64()).to_numpy()
        out["attempt"] = out["attempts"] = batch.column("attempt").to_numpy()
        names = batch.column("error_class").fill_null("").to_pylist()
        out["error_class"] = [classes.setdefault(name, len(classes)) for name in names]
        start += batch.num_rows
        yield out


def _digest(id: str, fingerprint: str) -> bytes:
    """24 bytes: 128 bits of the id, for which a collision would skip a row, and 64 of the fingerprint."""
    first = blake2b(id.encode(), digest_size=16).digest()
    return first + blake2b(fingerprint.encode(), digest_size=8).digest()


def _best(attempts: np.ndarray, classes: Mapping[str, int]) -> np.ndarray:
    """The best attempt by id and fingerprint, sorted by these; a maximum, so merging is in any order."""
    attempts = attempts[np.argsort(attempts["id_high"], kind="stable")]
    # Most ids have one attempt, and sorting by all keys takes ten times as long: only where it matters.
    several = _in_runs(attempts, "id_high")
    chosen = attempts[several]
    keys = [chosen[key] for key in ("attempt", "finished_at", "done", "fingerprint", "id_low", "id_high")]
    attempts[several] = chosen[np.lexsort([_ranks(classes)[chosen["error_class"]], *keys])]
    starts = _starts(attempts, "id_high", "id_low", "fingerprint")
    best = attempts[starts + np.diff(starts, append=len(attempts)) - 1]
    if len(best):
        best["attempts"] = np.maximum.reduceat(attempts["attempts"], starts)
    return best


def _ranks(classes: Mapping[str, int]) -> np.ndarray:
    """Of each error class's number its place in the alphabet; numbers follow the order of reading."""
    ranks = np.zeros(len(classes), np.int32)
    for rank, name in enumerate(sorted(classes)):
        ranks[classes[name]] = rank
    return ranks


def _starts(attempts: np.ndarray, *keys: str) -> np.ndarray:
    """Where runs of equal keys begin."""
    begins = np.ones(len(attempts), np.bool_)
    if len(attempts):
        begins[1:] = np.logical_or.reduce([attempts[key][1:] != attempts[key][:-1] for key in keys])
    return np.flatnonzero(begins)


def _in_runs(attempts: np.ndarray, *keys: str) -> np.ndarray:
    """Indices of the attempts that share their keys with a neighbour."""
    sizes = np.diff(_starts(attempts, *keys), append=len(attempts))
    return np.flatnonzero(np.repeat(sizes > 1, sizes))


def _last_of_id(attempts: np.ndarray) -> np.ndarray:
    """Whether each of some attempts, sorted by id, is the last of its id."""
    last = np.zeros(len(attempts), np.bool_)
    last[-1:] = True
    last[_starts(attempts, "id_high", "id_low")[1:] - 1] = True
    return last


def _state(best: np.ndarray, classes: Mapping[str, int], parts: list[str]) -> LedgerState:
    """Chooses, for ids with several fingerprints, the video in place and the latest outcome."""
    in_place = best["done"].copy()
    latest = np.ones(len(best), np.bool_)
    several = _in_runs(best, "id_high", "id_low")
    chosen = best[several]
    keys = ("fingerprint", "attempt", "done", "finished_at", "id_low", "id_high")
    order = np.lexsort([chosen[key] for key in keys])
    several, chosen = several[order], chosen[order]
    latest[several] = _last_of_id(chosen)
    done = chosen["done"]
    in_place[several[done]] = _last_of_id(chosen[done])
    dead = best[latest & ~best["done"]]
    names = list(classes)
    numbers, counts = np.unique(dead["error_class"], return_counts=True)
    failures = {names[number]: int(count) for number, count in zip(numbers, counts, strict=True)}
    return LedgerState(
        done=int(np.count_nonzero(latest & best["done"])),
        failed=len(dead),
        failures=dict(sorted(failures.items(), key=lambda item: (-item[1], item[0]))),
        parts=tuple(parts),
        _id_high=best["id_high"].copy(),
        _id_low=best["id_low"].copy(),
        _fingerprint=best["fingerprint"].copy(),
        _in_place=in_place,
        _attempts=best["attempts"].copy(),
    )
