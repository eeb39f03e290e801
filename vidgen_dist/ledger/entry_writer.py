"""Writing entries into new parts of a ledger."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from vidgen_dist.ledger.entries import LedgerEntry, entry_rows, ledger_schema
from vidgen_dist.ledger.parts import PART_TIME
from vidgen_dist.output_layout import LEDGER_FOLDER
from vidgen_dist.storage.folder import Storage


@dataclass(frozen=True)
class _EncodedPart:
    """A part to be written: its path, its bytes, and how many batches of entries it holds."""

    path: str
    content: bytes
    batches: int


class LedgerWriter:
    """Collects entries and writes them as Parquet parts. May be used from many threads.

    A part is due when `max_entries` are waiting, when `min_entries` are waiting and the last part is
    `max_seconds` old, or when an entry has waited for `patience` seconds. A killed process loses the waiting
    entries. There is no timer: between entries, call `flush_due` now and then. As a context manager it
    flushes at the end, even if the block raised.

    Args:
        output: The run's output.
        writer_id: Part of the file names, for people; letters, digits, `.`, `_` and `-`.
        passthrough: Columns of the manifest that are copied, see `ledger_schema`.
        max_entries: Entries of a part, at most, roughly.
        max_seconds: Seconds between two parts, while fewer than `max_entries` are waiting.
        min_entries: Entries of a part, at least, from 1, while none has waited for `patience`.
        patience: Seconds that an entry waits for others.

    Raises:
        Refused: See `ledger_schema`.
        ValueError: The writer id has other characters.
    """

    def __init__(
        self,
        output: Storage,
        writer_id: str,
        passthrough: pa.Schema | None = None,
        *,
        max_entries: int = 1000,
        max_seconds: float = 15.0,
        min_entries: int = 1,
        patience: float = float("inf"),
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
        self._min_entries = min_entries
        self._patience = patience
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_since = 0.0
        self._unconfirmed: _EncodedPart | None = None
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
            return sum(rows.num_rows for rows in self._waiting)

    def append(self, entry: LedgerEntry) -> None:
        """Takes an entry, and writes a part if one is due.

        Raises:
            ValueError: As `take`.
            OSError: As `flush`; the entry is taken, do not append it again.
        """
        self.take([entry])
        self.flush_due()

    def take(self, entries: Sequence[LedgerEntry]) -> None:
        """Takes entries; `flush_due` is to be called before long.

        Raises:
            ValueError: A column cannot hold its value, or a passthrough column is unknown; that entry is not
                taken, the others are.
        """
        try:
            rows = entry_rows(entries, self.schema)
        except ValueError:
            if len(entries) == 1:
                raise
            self._take_one_by_one(entries)
            return
        with self._guard:
            if not self._waiting:
                self._waiting_since = time.monotonic()
            self._waiting.append(rows)

    def _take_one_by_one(self, entries: Sequence[LedgerEntry]) -> None:
        """Takes the entries that can be taken; raises as `take`."""
        faults = []
        for entry in entries:
            try:
                self.take([entry])
            except ValueError as error:
                faults.append(error)
        if faults:
            raise faults[0]

    @property
    def due(self) -> bool:
        """Whether a part is due."""
        now, count = time.monotonic(), self.waiting
        with self._guard:
            old = now - self._last_part >= self._max_seconds
            long = now - self._waiting_since >= self._patience
        return count >= self._max_entries or (count >= self._min_entries and old) or (count > 0 and long)

    def flush_due(self) -> None:
        """Writes a part if one is due. Raises as `flush`."""
        if self.due:
            self.flush()

    def flush(self) -> None:
        """Writes all waiting entries, if there are any.

        Raises:
            OSError: The storage failed; the entries stay waiting.
        """
        with self._flushing:
            if self._unconfirmed is not None:
                # It may have been written and only the answer lost: the same name avoids entries twice.
                self._write(self._unconfirmed)
            with self._guard:
                batches = list(self._waiting)
            if batches:
                self._write(self._encode_part(batches))

    def _encode_part(self, batches: list[pa.RecordBatch]) -> _EncodedPart:
        sink = pa.BufferOutputStream()
        table = pa.Table.from_batches(batches, self.schema).combine_chunks()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        moment = datetime.now(UTC).strftime(PART_TIME)
        name = f"{moment}-{self._writer_id}-{self._parts:06d}-{uuid.uuid4().hex[:8]}.parquet"
        return _EncodedPart(f"{LEDGER_FOLDER}/{name}", sink.getvalue().to_pybytes(), len(batches))

    def _write(self, part: _EncodedPart) -> None:
        self._unconfirmed = part
        self._output.write_bytes(part.path, part.content)
        self._unconfirmed = None
        with self._guard:
            del self._waiting[: part.batches]
            self._parts += 1
            self._last_part = self._waiting_since = time.monotonic()
