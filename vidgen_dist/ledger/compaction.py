"""Merging many small ledger parts into few, while others write and read.

A new part is written whole and read back; only then are the parts removed whose entries it holds. Whoever
reads meanwhile sees entries twice, which changes nothing (`vidgen_dist.ledger`), or finds a part gone and
lists the folder again. The new part's metadata names the parts that it holds: if the process dies before it
has removed them, the next compaction does. Two compactions at a time lose nothing either, but may leave
entries twice.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq

from vidgen_dist.errors import Refused
from vidgen_dist.ledger.entries import SCHEMA
from vidgen_dist.ledger.parts import COMPACTED, LARGE, PART_TIME, open_part, part_names, read_part
from vidgen_dist.output_layout import LEDGER_FOLDER
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.files import open_input
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.uris import redact
from vidgen_dist.threads import map_ahead

_PARTS = b"vidgen.parts"
"""Key in a part's metadata: a JSON list of the parts whose entries it holds."""

_MOST_PARTS = 5000
"""Parts that one new part replaces, at most: their names are in its footer, which every reader reads."""

_GROUP_ROWS = 2**16


@dataclass(frozen=True)
class Compaction:
    """What a compaction did.

    Args:
        before, after: The number of the ledger's parts before and after.
        entries: The number of entries that were moved.
    """

    before: int
    after: int
    entries: int


@dataclass
class _PartGroup:
    """Small parts with the same schema, to be merged into one."""

    names: list[str] = field(default_factory=list)
    tables: list[pa.Table] = field(default_factory=list)
    rows: int = 0
    size: int = 0

    def put(self, name: str, table: pa.Table) -> None:
        self.names.append(name)
        self.tables.append(table)
        self.rows += len(table)
        self.size += table.nbytes


def compact(
    output: Storage,
    *,
    part_rows: int = 250_000,
    part_bytes: int = 256 * 2**20,
    min_age: timedelta = timedelta(minutes=1),
    threads: int = 16,
) -> Compaction:
    """Merge the small parts of a ledger.

    Args:
        output: A run's output; the run may be at work.
        part_rows, part_bytes: Entries of a new part, and their bytes in memory, roughly.
        min_age: Younger parts stay: if their writer got no answer, it writes them once more.
        threads: Parts that are read, or removed, at the same time.

    Raises:
        Refused: A file in the folder is not a whole ledger part; the message names it. It stays, and so do
            the parts of its group.
        OSError: The storage failed; entries that were moved before stay moved.
    """
    names = part_names(output)
    before = len(names)
    _finish_removals(output, names, threads)
    latest = datetime.now(UTC) - min_age
    small = [n for n in part_names(output) if not n.endswith(LARGE) and _creation_time(n) <= latest]
    entries = 0
    for pile in _group_parts(output, small, part_rows, part_bytes, threads):
        _write(output, pile, large=2 * pile.rows >= part_rows or 2 * pile.size >= part_bytes)
        _remove(output, pile.names, threads)
        entries += pile.rows
    return Compaction(before, len(part_names(output)), entries)


def _group_parts(
    output: Storage, names: list[str], most_rows: int, most_bytes: int, threads: int
) -> Iterator[_PartGroup]:
    """Groups of parts with the same columns, of two parts or more."""
    piles: dict[pa.Schema, _PartGroup] = {}
    tables = map_ahead(lambda name: read_part(output, name), names, threads=threads)
    for name, table in zip(names, tables, strict=True):
        if table is None:
            continue
        table = table.replace_schema_metadata(None)
        pile = piles.setdefault(table.schema, _PartGroup())
        pile.put(name, table)
        if pile.rows >= most_rows or pile.size >= most_bytes or len(pile.names) == _MOST_PARTS:
            yield piles.pop(table.schema)
    yield from (pile for pile in piles.values() if len(pile.names) > 1)


def _write(output: Storage, pile: _PartGroup, *, large: bool) -> None:
    table = pa.concat_tables(pile.tables).replace_schema_metadata({_PARTS: json.dumps(pile.names)})
    moment = datetime.now(UTC).strftime(PART_TIME)
    suffix = LARGE if large else ".parquet"
    name = f"{LEDGER_FOLDER}/{moment}{COMPACTED}{uuid.uuid4().hex[:16]}{suffix}"
    with output.create(name) as file:
        pq.write_table(table, file, row_group_size=_GROUP_ROWS, compression="zstd", write_page_checksum=True)
    with open_part(output, name, SCHEMA.names) as tables:
        found = sum(map(len, tables))
    if found != pile.rows:
        raise StorageError(
            f"{redact(output.uri(name))}: has {found:,} entries where {pile.rows:,} were written; "
            "nothing was removed"
        )


def _finish_removals(output: Storage, names: list[str], threads: int) -> None:
    """Remove the parts whose entries a compacted part holds: its process died before it removed them."""
    there = set(names)
    for name in names:
        if COMPACTED in name:
            with suppress(FileNotFoundError):
                _remove(output, [part for part in _merged_parts(output, name) if part in there], threads)


def _merged_parts(output: Storage, name: str) -> list[str]:
    try:
        with open_input(output.uri(name)) as file:
            metadata = pq.read_metadata(file).metadata or {}
    except pa.ArrowException as error:
        raise Refused(f"{redact(output.uri(name))}: is not a whole ledger part: {error}") from error
    parts: list[str] = json.loads(metadata.get(_PARTS, b"[]"))
    return parts


def _remove(output: Storage, names: list[str], threads: int) -> None:
    for _ in map_ahead(output.delete, names, threads=threads):
        pass


def _creation_time(name: str) -> datetime:
    """When a part was made, by its name; long ago if the name does not say."""
    found = re.match(rf"{LEDGER_FOLDER}/(\d{{8}}T\d{{12}}Z)-", name)
    if found is None:
        return datetime.min.replace(tzinfo=UTC)
    return datetime.strptime(found[1], PART_TIME).replace(tzinfo=UTC)
