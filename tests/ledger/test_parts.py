"""Reading parts, and files that are not parts."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.ledger.parts import entry, table, write
from vidgen_dist import ledger
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import read_ledger, summary
from vidgen_dist.ledger.entries import entry_rows
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import Storage


def test_all_parts_open_as_one_table(output: Storage) -> None:
    passthrough = pa.schema([("caption", pa.string())])
    write(output, entry("a"), writer="w0", passthrough=passthrough)
    write(output, entry("b", "failed"), writer="w1", passthrough=passthrough)
    files = [Path(output.uri(name)) for name in output.list("ledger")]
    schemas = {pq.read_schema(file).to_string() for file in files}
    assert len(schemas) == 1
    assert ds.dataset(output.uri("ledger")).to_table().num_rows == 2
    assert {pq.ParquetFile(file).metadata.row_group(0).column(0).compression for file in files} == {"ZSTD"}


def put_torn(output: Storage) -> str:
    write(output, *(entry(f"row-{index}") for index in range(200)))
    (whole,) = output.list("ledger")
    data = output.read_bytes(whole)
    output.write_bytes("ledger/x.parquet", data[: len(data) * 2 // 3])
    return "magic bytes"


def put_flipped(output: Storage) -> str:
    write(output, *(entry(f"row-{index}.{random.Random(index).random()}") for index in range(200)))
    (whole,) = output.list("ledger")
    data = bytearray(output.read_bytes(whole))
    ids = pq.read_metadata(pa.BufferReader(bytes(data))).row_group(0).column(0)
    data[(ids.dictionary_page_offset + ids.data_page_offset) // 2] ^= 1
    output.delete(whole)
    output.write_bytes("ledger/x.parquet", bytes(data))
    return ""


def put_table(output: Storage, changed: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(changed, sink)
    output.write_bytes("ledger/x.parquet", sink.getvalue().to_pybytes())


def one_row(**columns: pa.Array) -> pa.Table:
    whole = pa.Table.from_batches([entry_rows([entry()], ledger.SCHEMA)])
    for name, values in columns.items():
        whole = whole.set_column(whole.column_names.index(name), name, values)
    return whole


BAD = {
    "empty": lambda output: output.write_bytes("ledger/x.parquet", b""),
    "text": lambda output: output.write_bytes("ledger/x.parquet", b"id,status\n" * 10),
    "torn": put_torn,
    "flipped": put_flipped,
    "foreign": lambda output: put_table(output, pa.table({"prompt": ["a panda"]})),
    "missing column": lambda output: put_table(output, one_row().drop_columns(["finished_at"])),
    "null id": lambda output: put_table(output, one_row(id=pa.array([None], pa.string()))),
    "type": lambda output: put_table(output, one_row(attempt=pa.array(["first"]))),
    "status": lambda output: put_table(output, one_row(status=pa.array(["skipped"]))),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_part_that_is_none_is_named_never_skipped(kind: str, output: Storage) -> None:
    BAD[kind](output)
    for read in (read_ledger, summary):
        with pytest.raises(Refused, match=f"{output.uri('ledger')}/x.parquet: "):
            read(output)


def test_messages_say_what_is_wrong(output: Storage) -> None:
    for kind, message in {
        "foreign": "has no column 'id'",
        "null id": "column 'id' has 1 missing values",
        "type": "column 'attempt' is string, not int32",
        "status": "row 0: status: 'skipped' is not allowed; allowed: done, failed, lost",
    }.items():
        BAD[kind](output)
        with pytest.raises(Refused, match=message):
            read_ledger(output)


def test_other_files_in_the_folder(output: Storage) -> None:
    write(output, entry("a"))
    output.write_bytes("ledger/.hidden", b"")
    output.write_bytes("ledger/_SUCCESS", b"")
    assert read_ledger(output).done == 1
    output.write_bytes("ledger/part.parquet.gz", b"")
    with pytest.raises(
        Refused, match=r"part.parquet.gz: is not a ledger part; allowed in ledger/: \*.parquet"
    ):
        read_ledger(output)


def test_parts_merged_by_another_tool_are_read(output: Storage) -> None:
    write(output, entry("a"), entry("b", "failed"))
    write(output, entry("c"))
    widened = table(output)
    for name, type in {
        "attempt": pa.int64(),
        "id": pa.large_string(),
        "status": pa.dictionary(pa.int32(), pa.string()),
    }.items():
        widened = widened.set_column(widened.column_names.index(name), name, widened[name].cast(type))
    for name in output.list("ledger"):
        output.delete(name)
    put_table(output, widened)
    state = read_ledger(output)
    assert (state.done, state.failed) == (2, 1)
    assert state.is_done("c", "f")


def test_a_storage_that_fails_is_no_bad_part(output: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3):
        write(output, entry(str(index)))

    def refuse(_: Storage, path: str) -> bytes:
        raise StorageError(f"cannot read {path}: 503")

    monkeypatch.setattr(Storage, "read_bytes", refuse)
    with pytest.raises(StorageError, match="503"):
        read_ledger(output)
