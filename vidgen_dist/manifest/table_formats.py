"""Tables whose rows are not simply those of their Parquet files: recognised, and refused by name.

Delta Lake, Iceberg and others keep files with rows that were deleted or replaced, and a log that says which
files, and which of their rows, count. Reading the folder's files would bring the deleted rows back. Such a
table is recognised by the folder of its log, in the folder that is read or in one above it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vidgen_dist.errors import Refused
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.listing import Expansion
from vidgen_dist.storage.names import is_hidden
from vidgen_dist.storage.uris import is_local, redact, split
from vidgen_dist.threads import map_ahead

_PROBES = 16


@dataclass(frozen=True)
class TableFormat:
    """A format of tables.

    Args:
        name: The common name of such a table, with its article.
        snapshot: How to write a table's rows to a Parquet file; `{uri}` stands for the table's URI.
        log: A folder in the table's folder that only such tables have; empty if there is none.
        in_log: Regular expression for names of files in that folder, at least one of which is there.
        data: Regular expression for paths of data files, relative to the table's folder; empty if they may
            have any path.
    """

    name: str
    snapshot: str
    log: str = ""
    in_log: str = ".*"
    data: str = ""


_SPARK = "in Spark: spark.read.format('{format}').load('{{uri}}').write.parquet('snapshot/')"
_SQL = "INSERT OVERWRITE DIRECTORY 'snapshot/' STORED AS PARQUET SELECT * FROM the_table"

TABLE_FORMATS = (
    TableFormat(
        "a Delta Lake table",
        "in DuckDB: COPY (FROM delta_scan('{uri}')) TO 'snapshot.parquet'; or with Python's deltalake and "
        "pyarrow: pq.write_table(DeltaTable('{uri}').to_pyarrow_table(), 'snapshot.parquet')",
        log="_delta_log",
    ),
    TableFormat(
        "an Iceberg table",
        "in DuckDB: COPY (FROM iceberg_scan('{uri}')) TO 'snapshot.parquet'; or with Python's pyiceberg and "
        "pyarrow: pq.write_table(catalog.load_table(…).scan().to_arrow(), 'snapshot.parquet')",
        log="metadata",
        in_log=r".*\.metadata\.json(\.gz)?|version-hint\.text",
    ),
    TableFormat("a Hudi table", _SPARK.format(format="hudi"), log=".hoodie"),
    TableFormat("a Paimon table", _SPARK.format(format="paimon"), log="snapshot", in_log=r"snapshot-\d+"),
    TableFormat(
        "a Lance table",
        "with Python's lance and pyarrow: pq.write_table(lance.dataset('{uri}').to_table(), "
        "'snapshot.parquet')",
        log="_versions",
        in_log=r".*\.manifest",
    ),
    TableFormat(
        "a DuckLake table",
        "in DuckDB, with the lake attached: COPY (FROM lake.the_table) TO 'snapshot.parquet'",
        data=r"ducklake-[0-9a-f]{8}-[0-9a-f-]{27}(-delete)?\.parquet",
    ),
    # Seven digits: dates have six or eight.
    TableFormat(
        "a Hive ACID table",
        f"in Hive: {_SQL}",
        data=r"((delete_)?delta_\d{7}_\d{7}(_\d{4})?|base_\d{7})(_v\d+)?/.+",
    ),
)


def check_no_table(uri: str, found: Expansion, files: Sequence[str]) -> None:
    """Refuse a manifest that lies in a table of these formats.

    Folders above the named ones are checked too, except those that may not be read, and except for a single
    file over HTTP: many hosts answer every request with something.

    Args:
        uri: The manifest.
        found: What it stands for.
        files: URIs of the files to read as Parquet; may be empty.

    Raises:
        Refused: It lies in one; the message names the table and its format, and says how to write a snapshot.
        StorageError: The storage failed.
    """
    table = (
        _find_by_listing(found, files)
        or _find_by_file_names(files or found.files)
        or _find_by_folders(found, files)
    )
    if table is not None:
        root, kind = table
        shown = redact(root)
        whole = redact(uri).rstrip("/") == shown.rstrip("/")
        raise Refused(
            f"{redact(uri)}: {'is' if whole else f'lies in {shown},'} {kind.name}, whose Parquet files "
            "also hold rows that were deleted or replaced; write its rows to a separate Parquet file and "
            f"give that, {kind.snapshot.format(uri=shown)}"
        )


def _find_by_listing(found: Expansion, files: Sequence[str]) -> tuple[str, TableFormat] | None:
    """A table in a folder that was listed, with some of the files in it; any table if there are no files."""
    for kind in TABLE_FORMATS:
        if not kind.log:
            continue
        mark = re.compile(rf"(?:(.*)/)?{re.escape(kind.log)}/(?:{kind.in_log})")
        below = {match[1] or "" for path in found.paths if (match := mark.fullmatch(path))}
        for path in sorted(below):
            root = f"{found.folder.rstrip('/')}/{path}" if path else found.folder
            if not files or any(file.startswith(f"{root.rstrip('/')}/") for file in files):
                return root, kind
    return None


def _find_by_file_names(files: Sequence[str]) -> tuple[str, TableFormat] | None:
    for kind in TABLE_FORMATS:
        if kind.data:
            data = re.compile(rf"(.*)/{kind.data}")
            for file in files:
                if match := data.fullmatch(file):
                    return match[1], kind
    return None


def _find_by_folders(found: Expansion, files: Sequence[str]) -> tuple[str, TableFormat] | None:
    """A table whose log is in a folder above, or between a glob's beginning and the files."""
    if found.kind == "file" and found.folder.lower().startswith("http"):
        return None
    folders = dict.fromkeys(_above(found.folder))
    if found.kind == "glob":
        folders = dict.fromkeys([found.folder, *folders])
        for folder in sorted({split(file)[0] for file in files}):
            inner = folder
            # Partitions are not tables, and there may be thousands.
            while inner not in folders and len(inner) > len(found.folder):
                if "=" not in split(inner)[1]:
                    folders[inner] = None
                inner = split(inner)[0]
    if is_local(found.folder):
        folders |= dict.fromkeys(_above(os.path.realpath(found.folder)))
    return next(filter(None, map_ahead(_table_at, list(folders), threads=_PROBES)), None)


def _above(uri: str) -> Iterator[str]:
    """URIs of the folders above a file or a folder, up to the root or the bucket.

    A hidden folder ends the search: what is in one does not belong to a table above it.
    """
    folder, name = split(uri)
    while name and not is_hidden(name):
        yield folder
        folder, name = split(folder)


def _table_at(folder: str) -> tuple[str, TableFormat] | None:
    """The table in this very folder, if it is one."""
    for kind in TABLE_FORMATS:
        if kind.log and any(re.fullmatch(kind.in_log, name) for name in _names_in(folder, kind.log)):
            return folder, kind
    return None


def _names_in(folder: str, name: str) -> list[str]:
    """The names in a folder of a folder; none if it is not there or may not be read."""
    place = Storage(folder)
    try:
        # To find that a folder is not there, object stores list the one above it, too.
        files, folders = place.entries(name) if place.exists(name) else ({}, ())
    except StorageError as error:
        if error.transient:
            raise
        # Whoever may read a folder may not be allowed to read those above it.
        return []
    return [path.rpartition("/")[2] for path in (*files, *folders)]
