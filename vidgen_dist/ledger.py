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

import io
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vidgen_dist.digests import text_hashes
from vidgen_dist.errors import Refused
from vidgen_dist.storage import Storage, StorageError, is_hidden, is_local, open_input, redact
from vidgen_dist.threads import map_ahead

T = TypeVar("T")

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
        pa.field("mean_luma", pa.float64()),
        pa.field("motion", pa.float64()),
        pa.field("clipped", pa.float64()),
        pa.field("flags", pa.list_(pa.field("element", pa.string()))),
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

LATER = ("mean_luma", "motion", "clipped", "flags")
"""Columns that parts of the first versions do not have; they are read as nulls."""

# What the merge reads.
_MERGED = ("id", "fingerprint", "status", "attempt", "finished_at", "error_class")

PART_TIME = "%Y%m%dT%H%M%S%fZ"
"""How the name of a part begins: when it was made, UTC."""

COMPACTED = "-compacted-"
"""In the name of a part that was made of others."""

LARGE = ".large.parquet"
"""How the name of a part ends that is read in pieces, and never compacted again."""

RECENT = 600
"""Seconds over which the pace of a run is taken."""

_READERS = 16
# A disk answers at once; more threads would only wait for each other.
_LOCAL_READERS = 4
_BATCH = 2**16
_MERGE = 2**20
_SHARES = 16
_LISTINGS = 20


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
        mean_luma, motion, clipped: Of the frames before encoding, see `quality.Quality`; also of a video that
            was rejected. `motion` is None of a single frame.
        flags: What seems to be wrong with the video, of `quality.FLAGS`; None if it was not measured.
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
    mean_luma: float | None = None
    motion: float | None = None
    clipped: float | None = None
    flags: Sequence[str] | None = None
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
            moment = datetime.now(UTC).strftime(PART_TIME)
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
        recent: Videos that were done in the `RECENT` seconds before the ledger was read.
        recent_seconds: Since the first of them.
        parts: Paths of the parts that were read.
    """

    done: int
    failed: int
    failures: Mapping[str, int]
    recent: int
    recent_seconds: float
    parts: tuple[str, ...]
    # Best attempt by id and fingerprint, sorted by `id_high`.
    _id_high: np.ndarray
    _id_low: np.ndarray
    _fingerprint: np.ndarray
    # Whether its video is there: done, and the id not done with another fingerprint since.
    _in_place: np.ndarray
    _attempts: np.ndarray
    # Whether it is the latest outcome of its id, and a failure.
    _dead: np.ndarray
    # Place in `_class_names` of a failure's error class, -1 of a video.
    _error_class: np.ndarray
    _class_names: tuple[str, ...]

    def is_done(self, id: str, fingerprint: str) -> bool:
        """Whether the row's video with this fingerprint is there."""
        return bool(self.look_up(pa.array([id]), pa.array([fingerprint])).done[0])

    def attempts(self, id: str, fingerprint: str) -> int:
        """The highest attempt number of the row with this fingerprint; 0 if it was never tried."""
        return int(self.look_up(pa.array([id]), pa.array([fingerprint])).attempts[0])

    def knows(self, ids: pa.Array) -> np.ndarray:
        """Which ids have any entry: bool (N,)."""
        return self._find(_id_hashes(ids), None) >= 0

    def look_up(self, ids: pa.Array, fingerprints: pa.Array) -> Outcomes:
        """What became of rows.

        Args:
            ids, fingerprints: Texts (N,) without nulls.
        """
        index = self._find(_id_hashes(ids), text_hashes(fingerprints)[:, 0])
        found = index >= 0
        return Outcomes(
            done=found & self._at(self._in_place, index, False),
            attempts=self._at(self._attempts, index, 0),
            error_class=self._at(self._error_class, index, -1),
            class_names=self._class_names,
        )

    def dead_place(self, ids: pa.Array, fingerprints: pa.Array) -> np.ndarray:
        """Numbers of the dead letters among some rows, -1 for other rows: int64 (N,)."""
        index = self._find(_id_hashes(ids), text_hashes(fingerprints)[:, 0])
        return np.where(self._at(self._dead, index, False), index, -1)

    @staticmethod
    def _at(values: np.ndarray, index: np.ndarray, otherwise: Any) -> np.ndarray:
        if not len(values):
            return np.full(len(index), otherwise, values.dtype)
        return np.where(index >= 0, values[index], otherwise)

    def _find(self, ids: np.ndarray, fingerprints: np.ndarray | None) -> np.ndarray:
        """Where each entry is, of any fingerprint if there are none; -1 for those that are not there."""
        found = np.full(len(ids), -1, np.int64)
        # Sorted needles go through the haystack once: many times faster.
        left = np.argsort(ids[:, 0])
        at = self._id_high.searchsorted(ids[left, 0])
        while len(left):
            there = at < len(self._id_high)
            left, at = left[there], at[there]
            there = self._id_high[at] == ids[left, 0]
            left, at = left[there], at[there]
            hit = self._id_low[at] == ids[left, 1]
            if fingerprints is not None:
                hit &= self._fingerprint[at] == fingerprints[left]
            found[left[hit]] = at[hit]
            left, at = left[~hit], at[~hit] + 1
        return found


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What became of some rows, each with its fingerprint.

    Attributes:
        done: Whether the video is there: bool (N,).
        attempts: The highest attempt number, 0 if there was none: int32 (N,).
        error_class: Place in `class_names` if the best attempt is a failure, else -1: int32 (N,).
        class_names: Error classes.
    """

    done: np.ndarray
    attempts: np.ndarray
    error_class: np.ndarray
    class_names: tuple[str, ...]

    def failed(self, error_class: str | None = None) -> np.ndarray:
        """Which have failed and are not done, with that error class or any: bool (N,)."""
        if error_class is None:
            return (self.error_class >= 0) & ~self.done
        wanted = [place for place, name in enumerate(self.class_names) if name == error_class]
        return np.isin(self.error_class, wanted) & ~self.done


@dataclass(frozen=True)
class Summary:
    """Counts for `vidgen status`.

    Attributes:
        total: Rows of the manifest; None if that is not known.
        done, failed, failures: As in `LedgerState`.
        pending: Rows of which the ledger says nothing; None without `total`.
        videos_per_minute: Over the last `RECENT` seconds, from the first video in them; None if there are
            not two.
        seconds_left: Until nothing is pending, at that pace; None if either is not known.
    """

    total: int | None
    done: int
    failed: int
    pending: int | None
    failures: Mapping[str, int]
    videos_per_minute: float | None = None
    seconds_left: float | None = None


def summary(output: Storage, total: int | None = None) -> Summary:
    """Counts a ledger's rows by their latest outcome. Raises as `read_ledger`."""
    state = read_ledger(output)
    # A ledger may hold ids that the manifest has no more.
    pending = None if total is None else max(0, total - state.done - state.failed)
    pace = 60 * state.recent / state.recent_seconds if state.recent > 1 and state.recent_seconds else None
    left = None if pace is None or pending is None else 60 * pending / pace
    return Summary(total, state.done, state.failed, pending, state.failures, pace, left)


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


def dead_letters(output: Storage) -> pa.Table:
    """The rows whose latest outcome is a failure, with `DEAD_LETTERS`' columns, in the order of their ends.

    Error and time are those of the last attempt. Raises as `read_ledger`.
    """
    state = read_ledger(output)
    found = [_LETTERS.empty_table()]

    def pick(_name: str, table: pa.Table) -> None:
        table = table.filter(pc.equal(table.column("status"), FAILED)).combine_chunks()
        if len(table):
            ids, fingerprints = (table.column(name).combine_chunks() for name in ("id", "fingerprint"))
            place = state.dead_place(ids, fingerprints)
            table = table.append_column("place", pa.array(place))
            found.append(table.select(_LETTERS.names).filter(pa.array(place >= 0)).cast(_LETTERS))

    if state.failed:
        read_parts(output, ("status", "fingerprint", *_LETTERS.names[:-1]), pick)
    letters = pa.concat_tables(found).sort_by(
        [(name, "ascending") for name in ("place", "finished_at", "attempt", "error_class")]
    )
    places = letters.column("place").to_numpy()
    letters = letters.filter(pa.array(np.diff(places, append=-1) != 0))
    attempts = state._attempts[letters.column("place").to_numpy()]
    letters = letters.append_column("attempts", pa.array(attempts, pa.int32()))
    return (
        letters.select(DEAD_LETTERS.names)
        .cast(DEAD_LETTERS)
        .sort_by([("finished_at", "ascending"), ("id", "ascending")])
    )


_LETTERS = pa.schema(
    [
        *(SCHEMA.field(name) for name in ("id", "error_class", "error_message", "attempt", "finished_at")),
        pa.field("place", pa.int64()),
    ]
)


def read_ledger(output: Storage) -> LedgerState:
    """Reads and merges all parts. An output without a ledger gives an empty state.

    Raises:
        Refused: A file in the folder is no whole ledger part; names it.
        OSError: The storage failed.
    """
    merge = _Merge()
    names = read_parts(output, _MERGED, lambda name, table: merge.add(table, output.uri(name)))
    return merge.state(names)


def read_parts(
    output: Storage,
    columns: Sequence[str],
    use: Callable[[str, pa.Table], object],
    wanted: Callable[[str], bool] = lambda _: True,
) -> tuple[str, ...]:
    """Hands all entries, some at a time, to a function; returns the paths of the parts.

    Parts may be compacted meanwhile. What was in one that is gone is in another by then, so the folder is
    listed again; an entry may thus come twice.

    Args:
        output: The run's output.
        columns: Those of `SCHEMA` that are wanted; the tables have them with its types, in this order.
        use: Called with a part's path and a table, of one row group of the part.
        wanted: Whether to read a part, by its path.

    Raises:
        Refused: A file in the folder is no whole ledger part; names it.
        OSError: The storage failed.
    """
    read: dict[str, None] = {}
    for _ in range(_LISTINGS):
        names = [name for name in part_names(output) if name not in read and wanted(name)]
        gone = 0
        for name, tables in _read_all(output, names, columns):
            if tables is None:
                gone += 1
                continue
            for table in tables:
                use(name, table)
            read[name] = None
        if not gone:
            return tuple(read)
    raise StorageError(f"cannot read {redact(output.uri(FOLDER))}: parts vanish as fast as they are listed")


def read_part(output: Storage, name: str) -> pa.Table | None:
    """All columns of a small part; None if it is gone. Raises as `read_parts`."""
    content = _unless_gone(output.read_bytes, name)
    if content is None:
        return None
    return pa.concat_tables(_tables(output.uri(name), io.BytesIO(content), None))


@contextmanager
def open_part(output: Storage, name: str, columns: Sequence[str]) -> Iterator[Iterator[pa.Table]]:
    """A part of any size, its row groups read as they are asked for. Raises as `read_parts`."""
    with open_input(output.uri(name)) as source:
        yield _tables(output.uri(name), source, columns)


def part_names(output: Storage) -> list[str]:
    """Paths of the ledger's parts, sorted: oldest first.

    Raises:
        Refused: Another file is in the folder.
        OSError: The storage failed.
    """
    names = []
    for name in output.list(FOLDER):
        if is_hidden(name):
            continue
        if not name.endswith(".parquet"):
            raise Refused(f"{redact(output.uri(name))}: is no ledger part; allowed in {FOLDER}/: *.parquet")
        names.append(name)
    return names


def _read_all(
    output: Storage, names: list[str], columns: Sequence[str]
) -> Iterator[tuple[str, Iterable[pa.Table] | None]]:
    """Each part's tables; None for a part that is gone."""

    def read_small(name: str) -> list[pa.Table] | None:
        content = _unless_gone(output.read_bytes, name)
        return None if content is None else list(_tables(output.uri(name), io.BytesIO(content), columns))

    small = [name for name in names if not name.endswith(LARGE)]
    readers = _LOCAL_READERS if is_local(output.root) else _READERS
    yield from zip(small, map_ahead(read_small, small, threads=readers), strict=True)
    for name in (name for name in names if name.endswith(LARGE)):
        # Read where they lie, one row group after another.
        source = _unless_gone(open_input, output.uri(name))
        if source is None:
            yield name, None
            continue
        with source:
            yield name, _tables(output.uri(name), source, columns)


def _unless_gone(read: Callable[[str], T], name: str) -> T | None:
    try:
        return read(name)
    except FileNotFoundError:
        return None


def _tables(uri: str, source: BinaryIO, columns: Sequence[str] | None) -> Iterator[pa.Table]:
    """A part's row groups, an empty one if it has none; without `columns` `SCHEMA`'s and all others after."""
    try:
        file = pq.ParquetFile(source, page_checksum_verification=True)
        there = set(file.schema_arrow.names)
        missing = [column for column in SCHEMA.names if column not in there and column not in LATER]
        if missing:
            raise ValueError(f"it has no column {missing[0]!r}")
        own = SCHEMA.names if columns is None else list(columns)
        extra = [name for name in file.schema_arrow.names if name not in SCHEMA.names and columns is None]
        stored = [name for name in (*own, *extra) if name in there]
        if not file.num_row_groups:
            yield _with_own(file.schema_arrow.empty_table(), own, extra)
        for group in range(file.num_row_groups):
            yield _with_own(file.read_row_group(group, stored, use_threads=False), own, extra)
    except StorageError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        # OSError too: the bytes are here, but Arrow says so of some that do not unpack.
        raise Refused(
            f"{redact(uri)}: is no whole ledger part: {error}; move it elsewhere, "
            "and the rows that only it knows are rendered again"
        ) from error


def _with_own(table: pa.Table, own: Sequence[str], extra: Sequence[str]) -> pa.Table:
    """Some columns of `SCHEMA`, with its types, and after them others as they are."""
    columns = [_typed(table, SCHEMA.field(name)) for name in own] + [table.column(name) for name in extra]
    kept = [SCHEMA.field(name) for name in own] + [table.schema.field(name) for name in extra]
    return pa.Table.from_arrays(columns, schema=pa.schema(kept))


def _typed(table: pa.Table, column: pa.Field) -> pa.ChunkedArray:
    """A column as `SCHEMA` has it: other tools, merging parts, may widen types, and old parts lack some."""
    if column.name not in table.column_names:
        return pa.chunked_array([pa.nulls(len(table), column.type)])
    values = table.column(column.name)
    try:
        values = values.cast(column.type)
    except pa.ArrowException as error:
        raise ValueError(f"column {column.name!r} is {values.type}, not {column.type}: {error}") from None
    if values.null_count and not column.nullable:
        raise ValueError(f"column {column.name!r} has {values.null_count} missing values")
    return values


class _Merge:
    """Merges attempts, in any order; memory follows the rows, not the attempts.

    Attempts are kept apart by the first bits of their ids' hashes, so that each step of the merge, which
    needs some copies, has only a share of them.
    """

    def __init__(self) -> None:
        self._classes: dict[str, int] = {}
        self._best = [np.empty(0, _ATTEMPT)] * _SHARES
        self._read: list[list[np.ndarray]] = [[] for _ in range(_SHARES)]
        self._waiting: list[tuple[str, pa.Table]] = []
        self._rows = 0
        self._count = 0
        self._kept = 0

    def add(self, table: pa.Table, uri: str) -> None:
        """Takes attempts with the columns `_MERGED`, of the part `uri`.

        Raises:
            Refused: A status that is none, of this part or one before.
        """
        self._waiting.append((uri, table))
        self._rows += len(table)
        # Small parts cost less together.
        if self._rows >= _BATCH:
            self._take()
        # Whenever as much again was read.
        if self._count > max(self._kept, _MERGE):
            for share in range(_SHARES):
                self._merge(share)
            self._count, self._kept = 0, sum(map(len, self._best))

    def _take(self) -> None:
        for chunk in _attempts(self._waiting, self._classes):
            shares = chunk["id_high"] >> np.uint64(64 - _SHARES.bit_length() + 1)
            order = np.argsort(shares, kind="stable")
            chunk = chunk[order]
            bounds = shares[order].searchsorted(np.arange(_SHARES + 1, dtype=np.uint64))
            for share, read in enumerate(self._read):
                read.append(chunk[bounds[share] : bounds[share + 1]].copy())
            self._count += len(chunk)
        self._waiting, self._rows = [], 0

    def state(self, parts: tuple[str, ...]) -> LedgerState:
        """The state; nothing can be added any more. Raises as `add`."""
        self._take()
        since = time.time_ns() // 1000 - RECENT * 1_000_000
        shares = []
        for share in range(_SHARES):
            self._merge(share)
            shares.append(_settle(self._best[share], since))
            self._best[share] = self._best[share][:0].copy()
        return _state(shares, self._classes, parts)

    def _merge(self, share: int) -> None:
        if self._read[share]:
            attempts = np.concatenate([self._best[share], *self._read[share]])
            self._best[share], self._read[share] = _best(attempts, self._classes), []


def _check_statuses(tables: list[tuple[str, pa.Table]]) -> None:
    for uri, table in tables:
        found = table.column("status").to_pylist()
        if strange := set(found) - {DONE, FAILED}:
            status = min(strange)
            raise Refused(
                f"{redact(uri)}: row {found.index(status)}: status: {status!r} is not allowed; "
                f"allowed: {DONE!r} or {FAILED!r}"
            )


def _attempts(tables: list[tuple[str, pa.Table]], classes: dict[str, int]) -> Iterator[np.ndarray]:
    """The attempts of some parts' tables; `classes` numbers the error classes and grows."""
    if not tables:
        return
    whole = pa.concat_tables([table for _, table in tables]).combine_chunks()
    if not pc.all(pc.is_in(whole.column("status"), pa.array([DONE, FAILED])), min_count=0).as_py():
        _check_statuses(tables)
    for batch in whole.to_batches(max_chunksize=_BATCH):
        out = np.empty(batch.num_rows, _ATTEMPT)
        out["id_high"], out["id_low"] = _id_hashes(batch.column("id")).T
        out["fingerprint"] = text_hashes(batch.column("fingerprint"))[:, 0]
        out["done"] = pc.equal(batch.column("status"), DONE).to_numpy(zero_copy_only=False)
        out["finished_at"] = batch.column("finished_at").cast(pa.int64()).to_numpy()
        out["attempt"] = out["attempts"] = batch.column("attempt").to_numpy()
        names = batch.column("error_class").fill_null("").dictionary_encode()
        numbers = [classes.setdefault(name, len(classes)) for name in names.dictionary.to_pylist()]
        out["error_class"] = np.array(numbers, np.int32)[names.indices.to_numpy()]
        yield out


def _id_hashes(ids: pa.Array) -> np.ndarray:
    """128 bits of each id, for which a collision would skip a row; 64 of a fingerprint are enough."""
    return text_hashes(ids)


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


@dataclass(frozen=True, eq=False)
class _Share:
    """A share of the ids, settled."""

    best: np.ndarray
    in_place: np.ndarray
    dead: np.ndarray
    done: int
    classes: np.ndarray
    recent: int
    first_recent: int


def _settle(best: np.ndarray, since: int) -> _Share:
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
    dead = latest & ~best["done"]
    times = best["finished_at"][in_place]
    times = times[times >= since]
    return _Share(
        best=best,
        in_place=in_place,
        dead=dead,
        done=int(np.count_nonzero(latest & best["done"])),
        classes=np.bincount(best["error_class"][dead]),
        recent=len(times),
        first_recent=int(times.min(initial=np.iinfo(np.int64).max)),
    )


def _state(shares: list[_Share], classes: Mapping[str, int], parts: tuple[str, ...]) -> LedgerState:
    names = tuple(classes)
    counts = np.zeros(len(names), np.int64)
    for share in shares:
        counts[: len(share.classes)] += share.classes
    failures = {names[number]: int(counts[number]) for number in np.flatnonzero(counts)}
    recent = sum(share.recent for share in shares)
    first = min(share.first_recent for share in shares)

    def column(name: str) -> np.ndarray:
        return np.concatenate([share.best[name] for share in shares])

    errors = column("error_class")
    errors[column("done")] = -1
    return LedgerState(
        done=sum(share.done for share in shares),
        failed=int(counts.sum()),
        failures=dict(sorted(failures.items(), key=lambda item: (-item[1], item[0]))),
        recent=recent,
        recent_seconds=max(0.0, time.time() - first / 1e6) if recent else 0.0,
        parts=parts,
        _id_high=column("id_high"),
        _id_low=column("id_low"),
        _fingerprint=column("fingerprint"),
        _in_place=np.concatenate([share.in_place for share in shares]),
        _attempts=column("attempts"),
        _dead=np.concatenate([share.dead for share in shares]),
        _error_class=errors,
        _class_names=names,
    )
