"""The parts of a ledger: where they are, how they are named, and how they are read.

They may be read while others write and compact. What is read is checked and has `SCHEMA`'s types.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from vidgen_dist.errors import Refused
from vidgen_dist.ledger.entries import OPTIONAL_COLUMNS, SCHEMA
from vidgen_dist.output_layout import LEDGER_FOLDER
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.files import open_input
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.names import is_hidden
from vidgen_dist.storage.uris import is_local, redact
from vidgen_dist.threads import map_ahead

_T = TypeVar("_T")

PART_TIME = "%Y%m%dT%H%M%S%fZ"
"""The beginning of a part's name: when it was made, UTC."""

COMPACTED = "-compacted-"
"""In the name of a part that was merged from others."""

LARGE = ".large.parquet"
"""The end of the name of a part that is read in pieces and never compacted again."""

_READERS = 16
# A disk answers at once; more threads would only wait for one another.
_LOCAL_READERS = 4
_LISTINGS = 20


def part_names(output: Storage) -> list[str]:
    """Paths of the ledger's parts, sorted: oldest first.

    Raises:
        Refused: Some other file is in the folder.
        OSError: The storage failed.
    """
    names = []
    for name in output.list(LEDGER_FOLDER):
        if is_hidden(name):
            continue
        if not name.endswith(".parquet"):
            raise Refused(
                f"{redact(output.uri(name))}: is not a ledger part; allowed in {LEDGER_FOLDER}/: *.parquet"
            )
        names.append(name)
    return names


def has_later_parts(output: Storage, when: datetime) -> bool:
    """Whether anything was entered after a time, by the writers' clocks. Raises as `part_names`."""
    # Compacted parts hold entries that had been entered before.
    names = [name.rpartition("/")[2] for name in part_names(output) if COMPACTED not in name]
    return any(name > when.strftime(PART_TIME) for name in names)


def read_parts(
    output: Storage,
    columns: Sequence[str],
    use: Callable[[str, pa.Table], object],
    wanted: Callable[[str], bool] = lambda _: True,
) -> tuple[str, ...]:
    """Hands all entries, some at a time, to a function; returns the paths of the parts.

    Parts may be compacted meanwhile. The entries of a part that is gone are in another one by then, so the
    folder is listed again; an entry may thus come twice.

    Args:
        output: The run's output.
        columns: The columns of `SCHEMA` to read; the tables have them in this order, with its types.
        use: Called with a part's path and the table of one of its row groups.
        wanted: Whether to read a part, by its path.

    Raises:
        Refused: A file in the folder is not a whole ledger part; the message names it.
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
    raise StorageError(
        f"cannot read {redact(output.uri(LEDGER_FOLDER))}: parts disappear while they are listed; try again"
    )


def read_passthrough_schema(output: Storage) -> pa.Schema:
    """The columns that the newest part has beside the ledger's own; none without any part.

    Raises as `read_parts`.
    """
    for name in reversed(part_names(output)):
        source = _unless_gone(open_input, output.uri(name))
        if source is not None:
            with source:
                try:
                    there = pq.read_schema(source).remove_metadata()
                except (pa.ArrowException, OSError) as error:
                    raise _bad_part_error(output.uri(name), error) from error
            return pa.schema([column for column in there if column.name not in SCHEMA.names])
    return pa.schema([])


def with_earlier_types(output: Storage, passthrough: pa.Schema) -> pa.Schema:
    """Passthrough columns, with the newest part's maps and UUIDs, so that all parts open as one table.

    Raises as `read_parts`.
    """
    before = read_passthrough_schema(output) if len(passthrough) else passthrough

    def typed(column: pa.Field) -> pa.Field:
        at = before.get_field_index(column.name)
        as_before = at >= 0 and _is_compatible(before.field(at).type, column.type)
        return column.with_type(before.field(at).type) if as_before else column

    return pa.schema([typed(column) for column in passthrough])


def _is_compatible(before: pa.DataType, kind: pa.DataType) -> bool:
    """Whether `entry_rows` can write values of a type with the earlier type."""
    if pa.types.is_map(before):
        pair = pa.struct([("key", before.key_type), ("value", before.item_type)])
        return pa.types.is_list(kind) and kind.value_type == pair
    return isinstance(before, pa.UuidType) and pa.types.is_string(kind)


def read_part(output: Storage, name: str) -> pa.Table | None:
    """All columns of a small part; None if it is gone. Raises as `read_parts`."""
    content = _unless_gone(output.read_bytes, name)
    if content is None:
        return None
    return pa.concat_tables(_tables(output.uri(name), io.BytesIO(content), None))


@contextmanager
def open_part(output: Storage, name: str, columns: Sequence[str]) -> Iterator[Iterator[pa.Table]]:
    """A part of any size; its row groups are read as they are asked for. Raises as `read_parts`."""
    with open_input(output.uri(name)) as source:
        yield _tables(output.uri(name), source, columns)


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
        # Read from where they are, one row group after another.
        source = _unless_gone(open_input, output.uri(name))
        if source is None:
            yield name, None
            continue
        with source:
            yield name, _tables(output.uri(name), source, columns)


def _unless_gone(read: Callable[[str], _T], name: str) -> _T | None:
    try:
        return read(name)
    except FileNotFoundError:
        return None


def _tables(uri: str, source: BinaryIO, columns: Sequence[str] | None) -> Iterator[pa.Table]:
    """A part's row groups, or an empty table; without `columns`, `SCHEMA`'s and then all others."""
    try:
        file = pq.ParquetFile(source, page_checksum_verification=True)
        there = set(file.schema_arrow.names)
        missing = [
            column for column in SCHEMA.names if column not in there and column not in OPTIONAL_COLUMNS
        ]
        if missing:
            raise ValueError(f"it has no column {missing[0]!r}")
        own = SCHEMA.names if columns is None else list(columns)
        extra = [name for name in file.schema_arrow.names if name not in SCHEMA.names and columns is None]
        stored = [name for name in (*own, *extra) if name in there]
        if not file.num_row_groups:
            yield _select_columns(file.schema_arrow.empty_table(), own, extra)
        for group in range(file.num_row_groups):
            yield _select_columns(file.read_row_group(group, stored, use_threads=False), own, extra)
    except StorageError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        # OSError too: the bytes are here, but Arrow raises it for some that do not decompress.
        raise _bad_part_error(uri, error) from error


def _bad_part_error(uri: str, error: Exception) -> Refused:
    return Refused(
        f"{redact(uri)}: is not a whole ledger part: {error}; move it elsewhere, "
        "and the rows that only it holds are rendered again"
    )


def _select_columns(table: pa.Table, own: Sequence[str], extra: Sequence[str]) -> pa.Table:
    """A table of some columns of `SCHEMA`, with its types, followed by other columns as they are."""
    columns = [_typed(table, SCHEMA.field(name)) for name in own] + [table.column(name) for name in extra]
    kept = [SCHEMA.field(name) for name in own] + [table.schema.field(name) for name in extra]
    return pa.Table.from_arrays(columns, schema=pa.schema(kept))


def _typed(table: pa.Table, column: pa.Field) -> pa.ChunkedArray:
    """A column with its type in `SCHEMA`: other tools may widen types, and old parts lack some columns."""
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
