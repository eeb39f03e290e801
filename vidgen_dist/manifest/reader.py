"""Opening a manifest and reading its rows."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from vidgen_dist.bulk_digests import as_list
from vidgen_dist.errors import Refused
from vidgen_dist.manifest.batches import Batch
from vidgen_dist.manifest.columns import (
    PRIORITY,
    RowSchema,
    check_same_columns,
    extra_type,
    readable_schema,
    whole_numbers,
)
from vidgen_dist.manifest.parquet_files import ManifestFile, find_parquet_files, open_file, read_group
from vidgen_dist.manifest.rows import Row
from vidgen_dist.request import FIELDS, Field
from vidgen_dist.threads import map_ahead

_OPEN_FILES = 16


@dataclass(frozen=True)
class ReadPolicy:
    """How many rows of a manifest are held at once.

    Args:
        batch_rows: Rows that are decoded together; they may carry images.
        column_rows: Rows that are held by columns; most of them never become Python objects.
    """

    batch_rows: int = 4096
    column_rows: int = 2**16


@dataclass(frozen=True)
class Manifest:
    """An opened manifest. Made by `open_manifest`.

    Args:
        uri: What was opened.
        files: Its files, sorted by URI.
        columns: The request columns that it has.
        row_schema: What is read of a row.
        ignored_columns: Columns that nothing is rendered from, whether they can be read or not.
        unknown_columns: All other columns but `priority` and passed-through ones; they are not read.
        extra_schema: Names and Arrow types of the passed-through columns.
        reading: How many rows are held at once.
    """

    uri: str
    files: tuple[ManifestFile, ...]
    columns: tuple[str, ...]
    row_schema: RowSchema
    ignored_columns: tuple[str, ...]
    unknown_columns: tuple[str, ...]
    extra_schema: pa.Schema
    reading: ReadPolicy = ReadPolicy()

    @property
    def num_rows(self) -> int:
        """The number of rows of all files."""
        return sum(file.num_rows for file in self.files)

    def place(self, row: int) -> tuple[str, int]:
        """The file URI of a row, given by its place in the manifest, and the row's place in that file."""
        for file in self.files:
            if row < file.num_rows:
                return file.uri, row
            row -= file.num_rows
        raise IndexError(row)

    def rows(
        self, defaults: Mapping[str, Any] | None = None, wanted: np.ndarray | None = None
    ) -> Iterator[Row]:
        """The rows, in order, read as they are asked for.

        Args:
            defaults: Values of request fields for rows without one.
            wanted: Which rows to read, all by default: bool (rows,). Row groups without any are not read.

        Raises:
            StorageError: A file cannot be read or has changed since it was opened.
        """
        for first, batch in self._read(self.reading.batch_rows, defaults, self.extra_schema, wanted):
            yield from batch.rows(None if wanted is None else wanted[first : first + len(batch)])

    def ids(self) -> Iterator[str]:
        """The ids of all rows: the same as from `rows`, much faster."""
        for ids in self.id_arrays():
            yield from as_list(ids)

    def id_arrays(self) -> Iterator[pa.Array]:
        """The same, some at a time: strings (n,). Where all rows have an id column, no other is read.

        Raises:
            StorageError: As `rows`.
        """
        for file in self.files:
            for group, start, _ in file.spans():
                yield from self._ids_of_group(file, group, start)

    def _ids_of_group(self, file: ManifestFile, group: int, start: int) -> Iterator[pa.Array]:
        bare = pa.schema([])
        if "id" in self.columns:
            own = list(read_group(file, group, ("id",), self.reading.column_rows))
            batches = [
                Batch(file.uri, range(each.num_rows), each, ("id",), self.row_schema, bare, {})
                for each in own
            ]
            if all(batch.has_all_ids for batch in batches):
                yield from (batch.ids for batch in batches)
                return
        for columns in read_group(file, group, self.columns, self.reading.column_rows):
            indices = range(start, start + columns.num_rows)
            yield Batch(file.uri, indices, columns, self.columns, self.row_schema, bare, {}).ids
            start += columns.num_rows

    def batches(self, defaults: Mapping[str, Any] | None = None, *, extras: bool = True) -> Iterator[Batch]:
        """The rows, in order, by columns, for work on millions of them.

        Args:
            defaults: Values of request fields for rows without one.
            extras: Whether to read the passed-through columns.

        Raises:
            StorageError: As `rows`.
        """
        for _, batch in self._read(
            self.reading.column_rows, defaults, self.extra_schema if extras else pa.schema([])
        ):
            yield batch

    def wanted_batches(
        self, defaults: Mapping[str, Any], wanted: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Batch]]:
        """Some rows, in order, by columns, with their places in the manifest: int64 (n,).

        Args:
            defaults: Values of request fields for rows without one.
            wanted: Which rows to read: bool (rows,). Row groups without any are not read.

        Raises:
            StorageError: As `rows`.
        """
        for first, batch in self._read(self.reading.column_rows, defaults, self.extra_schema, wanted):
            chosen = np.flatnonzero(wanted[first : first + len(batch)])
            if len(chosen):
                yield first + chosen, batch.take(chosen)

    @property
    def has_priorities(self) -> bool:
        """Whether a file has the column `priority`."""
        return any(file.has_priority for file in self.files)

    def priorities(self) -> np.ndarray:
        """The column `priority`, 0 where a row has none: int64 (rows,).

        Raises:
            StorageError: As `rows`.
        """
        return self._priorities

    @functools.cached_property
    def _priorities(self) -> np.ndarray:
        found = np.zeros(self.num_rows, np.int64)
        first = 0
        for file in self.files:
            for group, start, _ in file.spans() if file.has_priority else ():
                for columns in read_group(file, group, (PRIORITY,), self.reading.column_rows):
                    here = slice(first + start, first + start + columns.num_rows)
                    found[here] = whole_numbers(columns.column(0), 0)
                    start += columns.num_rows
            first += file.num_rows
        found.flags.writeable = False
        return found

    def _read(
        self,
        most_rows: int,
        defaults: Mapping[str, Any] | None,
        extra_schema: pa.Schema,
        wanted: np.ndarray | None = None,
    ) -> Iterator[tuple[int, Batch]]:
        """Row groups with wanted rows, in batches, each with its first row's place in the manifest."""
        names = tuple(dict.fromkeys((*self.columns, *extra_schema.names)))
        first = 0
        for file in self.files:
            for group, start, stop in file.spans():
                if wanted is None or wanted[first + start : first + stop].any():
                    for columns in read_group(file, group, names, most_rows):
                        indices = range(start, start + columns.num_rows)
                        batch = Batch(
                            file.uri,
                            indices,
                            columns,
                            self.columns,
                            self.row_schema,
                            extra_schema,
                            defaults or {},
                        )
                        yield first + start, batch
                        start += columns.num_rows
            first += file.num_rows


def open_manifest(
    uri: str | os.PathLike[str],
    *,
    passthrough: Sequence[str] = (),
    fields: Mapping[str, Field] = FIELDS,
    required: Sequence[str] = ("prompt",),
    one_of: Sequence[str] = (),
    ignored: Sequence[str] = (),
) -> Manifest:
    """Open a Parquet file, a folder of them or a glob, and check the columns of every file.

    Args:
        uri: Where; in a folder, and folders in it, all files named ``.parquet``, ``.parq`` or ``.pq``.
        passthrough: Columns whose values are copied to the ledger with each row.
        fields: The fields that rows may have, by name; columns of these names are read.
        required: Fields that every row needs.
        one_of: Fields of which every row needs at least one.
        ignored: Fields that nothing is rendered from: values that cannot be read are left out.

    Raises:
        Refused: Nothing is there; a file is not Parquet or is truncated; a required or a passed-through
            column is missing; a column's type is not allowed; files differ in their request columns.
    """
    text = os.fspath(uri)
    rows = RowSchema(fields, tuple(required), tuple(one_of), tuple(ignored))
    passthrough = tuple(dict.fromkeys(passthrough))
    try:
        uris = find_parquet_files(text)
        opened = list(map_ahead(lambda file: open_file(file, passthrough, rows), uris, threads=_OPEN_FILES))
    except OSError as error:
        raise Refused(str(error)) from None
    (first, schema), rest = opened[0], opened[1:]
    for file, other in rest:
        check_same_columns(file.uri, other, first.uri, schema, passthrough, rows)
    rows = readable_schema(rows, [schema for _, schema in opened])
    known = {*fields, PRIORITY, *passthrough}
    unknown = dict.fromkeys(name for _, s in opened for name in s.names if name not in known)
    return Manifest(
        uri=text,
        files=tuple(file for file, _ in opened),
        columns=tuple(name for name in rows.fields if name in schema.names),
        row_schema=rows,
        ignored_columns=tuple(name for name in ignored if any(name in s.names for _, s in opened)),
        unknown_columns=tuple(unknown),
        extra_schema=pa.schema([(name, extra_type(schema.field(name).type)) for name in passthrough]),
    )
