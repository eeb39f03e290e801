"""Entries into new parts of a ledger."""

from __future__ import annotations

import re
import threading
import time
import uuid
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from vidgen_dist.ledger.entries import LedgerEntry, entry_row, ledger_schema
from vidgen_dist.ledger.parts import FOLDER, PART_TIME
from vidgen_dist.storage import Storage


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
        row = entry_row(entry, self.schema)
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
