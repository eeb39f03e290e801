"""An export to a folder of videos for Hugging Face `datasets`, its `videofolder`."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidgen_dist.maintenance.export_writer import (
    NO_VIDEO,
    ExportWriter,
    OmittedRow,
    remove_temporary_files,
    row_key,
)
from vidgen_dist.maintenance.manifest_join import ROW, URI, ManifestJoin
from vidgen_dist.output.video_files import path_in_output
from vidgen_dist.storage.files import size
from vidgen_dist.storage.retries import with_retries
from vidgen_dist.threads import map_ahead

METADATA = "metadata.parquet"


class FolderExport(ExportWriter):
    """Writes videos under the numbers of their rows, and one table of all rows."""

    def write(self, join: ManifestJoin) -> None:
        """Write `videos/` and, last, `metadata.parquet`."""
        schema = _folder_schema(join.schema)
        with (
            self._place.create(METADATA) as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            listed, there = "", dict[str, int]()
            for table in join.tables():
                for folder, piece in _by_folder(table, self._policy.folder_rows):
                    if folder != listed:
                        listed, there = folder, self._place.sizes(folder)
                        remove_temporary_files(self._place, there)
                    whole = self._copy_all(piece, there)
                    names = pa.array(
                        [self._file_name(row) for row in piece.column(ROW).to_pylist()], pa.string()
                    )
                    exported = piece.drop_columns([ROW, URI]).cast(_as_exported(piece.schema))
                    columns = pa.table([names, *exported.columns], schema=schema)
                    writer.write_table(columns.filter(pa.array(whole, pa.bool_())))

    def _copy_all(self, table: pa.Table, there: Mapping[str, int]) -> list[bool]:
        """Copy the videos that are not there yet; returns for each row whether its video is there now."""

        def copy(row: Mapping[str, Any]) -> tuple[bool, str | None]:
            name = self._file_name(row[ROW])
            if there.get(name) == row["bytes"]:
                return True, None
            source = self._output.uri(path_in_output(row[URI]))
            return False, with_retries(
                lambda: self._copy(source, name, row["bytes"]), hurry=threading.Event()
            )

        rows = table.select([ROW, URI, "id", "bytes"]).to_pylist()
        whole = []
        for row, (kept, message) in zip(
            rows, map_ahead(copy, rows, threads=self._policy.copiers), strict=True
        ):
            whole.append(message is None)
            self._files += message is None
            self._kept += kept
            self._add_rows(1, [] if message is None else [OmittedRow(row["id"], message)])
        return whole

    def _file_name(self, row: int) -> str:
        return f"{_folder(row // self._policy.folder_rows)}/{row_key(row)}.mp4"

    def _copy(self, source: str, name: str, expected: int) -> str | None:
        """Copy a video; returns what is wrong with it if it was not copied."""
        try:
            found = size(source)
            if found == expected:
                self._place.copy_file(source, name)
                return None
        except FileNotFoundError:
            return NO_VIDEO
        return f"its video has {found:,} bytes, where the ledger says {expected:,}"


def _by_folder(table: pa.Table, folder_rows: int) -> Iterator[tuple[str, pa.Table]]:
    """A table's rows by the folder of their videos."""
    folders = table.column(ROW).to_numpy() // folder_rows
    bounds = np.append(np.flatnonzero(np.diff(folders, prepend=-1)), len(folders))
    for start, stop in pairwise(bounds):
        yield _folder(folders[start]), table.slice(start, stop - start)


def _folder(number: int) -> str:
    return f"videos/{number:05d}"


def _folder_schema(schema: pa.Schema) -> pa.Schema:
    """Columns of `metadata.parquet`: names that `datasets` reserves get the suffix `_given`."""
    renamed = [
        column.with_name(f"{column.name}_given") if _is_reserved(column.name) else column
        for column in _as_exported(schema)
    ]
    return pa.schema([pa.field("file_name", pa.string()), *renamed])


def _as_exported(schema: pa.Schema) -> pa.Schema:
    """The exported columns, with types that `datasets` reads."""
    exported = (column for column in schema if column.name not in (ROW, URI))
    return pa.schema([column.with_type(_without_uint64(column.type)) for column in exported])


def _without_uint64(kind: pa.DataType) -> pa.DataType:
    """A plain type with decimals for uint64: `datasets` fails on numbers from 2**63 on."""
    if pa.types.is_uint64(kind):
        return pa.decimal128(20, 0)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_without_uint64(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_without_uint64(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_without_uint64(kind.value_type)))
    return kind


def _is_reserved(name: str) -> bool:
    return name == "video" or re.fullmatch(r"(.*_)?file_names?", name) is not None
