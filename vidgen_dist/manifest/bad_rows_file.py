"""A Parquet file that lists a manifest's bad rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vidgen_dist.manifest.problems import BadRows
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.uris import to_record

BAD_ROWS_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("column", pa.string()),
        pa.field("value", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""The file's columns: the row's id, its place in its file, from 0, and that file; the column with the fault,
null if it is not in a single one; the column's value as shortened text, null if there is none; what is
allowed, or what went wrong.
"""


@contextlib.contextmanager
def create_bad_rows_file(
    place: Storage, name: str, group_rows: int = 2**16
) -> Iterator[Callable[[BadRows], None]]:
    """A file of bad rows: the function takes them some at a time; the file appears when the block ends.

    Args:
        place, name: The folder, and the file's name in it.
        group_rows: Rows of its row groups, roughly. A group for each batch of the manifest that has a bad row
            would make thousands of small ones.

    Raises:
        OSError: The storage failed.
    """
    held: list[pa.Table] = []
    with place.create(name) as file, pq.ParquetWriter(file, BAD_ROWS_SCHEMA, compression="zstd") as writer:

        def put(most: int) -> None:
            if sum(map(len, held)) > most:
                writer.write_table(pa.concat_tables(held))
                held.clear()

        def take(bad: BadRows) -> None:
            held.append(_table(bad))
            put(group_rows)

        yield take
        put(0)


def _table(bad: BadRows) -> pa.Table:
    batch = bad.batch
    columns = [bad.fault_texts(name) for name in ("column", "value", "reason")]
    columns[0] = pc.if_else(pc.equal(columns[0], ""), None, columns[0])
    indices = pa.array(batch.indices[place] for place in bad.places.tolist())
    file = pa.array([to_record(batch.file)]).take(pa.nulls(len(bad), pa.int64()).fill_null(0))
    return pa.table([batch.ids.take(pa.array(bad.places)), indices, file, *columns], BAD_ROWS_SCHEMA)
