"""The Parquet files of a manifest: finding them, opening them and reading their row groups."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from vidgen_dist.errors import Refused
from vidgen_dist.manifest.arrow_types import plain_columns
from vidgen_dist.manifest.columns import PRIORITY, RowSchema, check_columns, known_columns
from vidgen_dist.manifest.footers import Footer, open_parquet, read_footer
from vidgen_dist.manifest.table_formats import check_no_table
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.files import open_input, stamp
from vidgen_dist.storage.listing import expand, expansion
from vidgen_dist.storage.uris import redact

PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")

_BATCH_BYTES = 32 * 2**20
# Rows decoded at once. A text that all rows share is stored once, but each row gets a copy.
_PIECE_ROWS = 4096
_PIECE_ROWS_OF_LONG = 512
_PIECE_BYTES = 128 * 2**20
# How far compression shrinks long values other than pictures, at most and roughly.
_UNPACKED = 4
# Row groups up to this size are fetched in one go; larger ones are streamed.
_PREFETCH_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ManifestFile:
    """One Parquet file of a manifest.

    Args:
        uri: Where it is.
        digest: SHA-256 of its footer; shows whether the file is still the one that was opened.
        row_groups: The number of rows of each row group.
        has_priority: Whether it has a column of priorities.
    """

    uri: str
    digest: str
    row_groups: tuple[int, ...]
    has_priority: bool

    @property
    def num_rows(self) -> int:
        """The number of rows of the file."""
        return sum(self.row_groups)

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """Each row group's number, its first row and the row after its last."""
        start = 0
        for group, rows in enumerate(self.row_groups):
            yield group, start, start + rows
            start += rows


def find_files(uri: str) -> list[str]:
    """The files that a URI stands for, see `storage.listing.expand`.

    Raises:
        Refused: There are none.
    """
    return _some(uri, expand(uri))


def _some(uri: str, found: list[str]) -> list[str]:
    if not found:
        raise Refused(f"{redact(uri)}: there is no such file, folder with files or match")
    return found


def find_parquet_files(uri: str) -> list[str]:
    """The Parquet files that a URI stands for; a single file may have any name.

    Raises:
        Refused: There are none, or they belong to a table, see `check_no_table`.
    """
    found = expansion(uri)
    files = found.files
    if found.kind != "file":
        files = [file for file in files if file.lower().endswith(PARQUET_SUFFIXES)]
    check_no_table(uri, found, files)
    if not files:
        names = ", ".join(posixpath.basename(redact(file)) for file in _some(uri, found.files)[:5])
        raise Refused(f"{redact(uri)}: holds no .parquet file; it holds {names}")
    return files


def open_file(uri: str, passthrough: Sequence[str], rows: RowSchema) -> tuple[ManifestFile, pa.Schema]:
    """A file and its schema, from its footer.

    Raises:
        Refused: As `read_footer` and `check_columns`, or a column that is read is encrypted.
    """
    footer = read_footer(uri)
    schema = _without_encrypted(uri, footer, passthrough, rows)
    check_columns(uri, schema, passthrough, rows)
    groups = tuple(footer.metadata.row_group(i).num_rows for i in range(footer.metadata.num_row_groups))
    return ManifestFile(uri, footer.digest, groups, PRIORITY in schema.names), schema


def _without_encrypted(uri: str, footer: Footer, passthrough: Sequence[str], rows: RowSchema) -> pa.Schema:
    """The columns of a file that are not encrypted.

    Raises:
        Refused: A column that is read is encrypted.
    """
    read = {*known_columns(rows.fields), *passthrough} - set(rows.ignored)
    if needed := sorted(footer.encrypted & read):
        raise Refused(
            f"{redact(uri)}: column {needed[0]!r} is encrypted; columns that are read must not be: write "
            "the file without encryption"
        )
    return pa.schema([field for field in footer.schema if field.name not in footer.encrypted])


# The footer of a file with many row groups has megabytes: read once, as long as the file does not change.
@lru_cache(maxsize=1)
def _known_footer(uri: str, _stamp: str) -> Footer:
    return read_footer(uri)


def read_group(
    file: ManifestFile, index: int, columns: Sequence[str], most_rows: int
) -> Iterator[pa.RecordBatch]:
    """A row group from front to back, with plain types, in small batches however large the group is.

    Args:
        file, index: The file and the row group's number.
        columns: Names of the columns to read.
        most_rows: Rows of a batch, at most.

    Raises:
        StorageError: The file cannot be read or has changed since it was opened.
    """
    try:
        footer = _known_footer(file.uri, stamp(file.uri))
        if footer.digest != file.digest:
            raise StorageError(
                f"{redact(file.uri)}: the manifest was changed while in use; start again to use the new one"
            )
        group = footer.metadata.row_group(index)
        small = group.total_byte_size <= _PREFETCH_BYTES
        row_bytes = group.total_byte_size / max(1, group.num_rows)
        rows = max(1, min(most_rows, int(_BATCH_BYTES / max(1.0, row_bytes))))
        missing = group.num_rows
        with (
            open_input(file.uri) as source,
            open_parquet(
                source, metadata=footer.metadata, pre_buffer=small, buffer_size=0 if small else 2**20
            ) as parquet,
        ):
            most = _most_rows(group, footer.leaves(columns))
            pieces = parquet.iter_batches(
                min(rows, most), row_groups=[index], columns=list(columns), use_threads=False
            )
            plain = (plain_columns(piece, footer.enums) for piece in pieces)
            for batch in _combine(plain, rows):
                missing -= batch.num_rows
                yield batch
        if missing:
            raise OSError("it has fewer rows than the footer says")
    except (StorageError, FileNotFoundError):
        raise
    except Refused as error:
        raise StorageError(f"cannot read {redact(file.uri)}, row group {index}: {error}") from None
    except (pa.ArrowException, OSError) as error:
        of_column = _column_at_fault(file, index, columns)
        raise StorageError(f"cannot read {redact(file.uri)}, row group {index}{of_column}: {error}") from None


def _column_at_fault(file: ManifestFile, index: int, columns: Sequence[str]) -> str:
    """The first of these columns that cannot be read by itself, for a message; empty if all can be read."""
    for name in columns:
        if len(columns) == 1 or not _can_be_read(file, index, name):
            kind = _known_footer(file.uri, stamp(file.uri)).schema.field(name).type
            return f", column {name!r} ({kind})"
    return ""


def _can_be_read(file: ManifestFile, index: int, column: str) -> bool:
    try:
        for _ in read_group(file, index, (column,), _PIECE_ROWS):
            pass
    except StorageError:
        return False
    return True


def _most_rows(group: pq.RowGroupMetaData, leaves: Sequence[int]) -> int:
    """How many rows may be decoded at once, whatever text or image they share."""
    most = _PIECE_ROWS
    for leaf in leaves:
        column = group.column(leaf)
        if _has_long_values(column):
            # The whole dictionary may be one value, and each row gets a copy of it.
            first, packed = column.data_page_offset, 0
            if column.has_dictionary_page and column.dictionary_page_offset:
                packed = max(0, first - column.dictionary_page_offset)
            fits = _PIECE_BYTES // max(1, _UNPACKED * packed)
            most = min(most, _PIECE_ROWS_OF_LONG, max(1, fits))
    return most


def _has_long_values(column: pq.ColumnChunkMetaData) -> bool:
    """Whether a text may be longer than what writers keep as a column's minimum and maximum (often 4 kB)."""
    known = column.statistics
    return column.physical_type == "BYTE_ARRAY" and (
        known is None or not (known.has_min_max or known.null_count == column.num_values)
    )


def _combine(pieces: Iterable[pa.RecordBatch], most_rows: int) -> Iterator[pa.RecordBatch]:
    """The pieces joined into batches, as many pieces to a batch as fit."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for piece in pieces:
        if held and (rows + piece.num_rows > most_rows or size + piece.nbytes > _BATCH_BYTES):
            yield _concatenate(held)
            held, rows, size = [], 0, 0
        held.append(piece)
        rows, size = rows + piece.num_rows, size + piece.nbytes
    if held:
        yield _concatenate(held)


def _concatenate(pieces: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(pieces).combine_chunks().to_batches()[0] if len(pieces) > 1 else pieces[0]
