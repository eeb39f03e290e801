"""Tables of Delta Lake, Iceberg and others are refused by name; folders of plain Parquet files are not."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from vidgen_dist.errors import Refused
from vidgen_dist.manifest import open_manifest
from vidgen_dist.storage.folder import Storage, open_storage

_LAKE_FILE = f"ducklake-{uuid.UUID(int=7)}.parquet"

TABLES = {
    "Delta Lake": ("_delta_log/00000000000000000000.json", "day=1/part-0.parquet"),
    "Iceberg": ("metadata/v1.metadata.json", "data/day=1/00000-0.parquet"),
    "Iceberg of a catalog": (f"metadata/00001-{uuid.UUID(int=1)}.metadata.json", "data/00000-0.parquet"),
    "Iceberg, packed": (f"metadata/00001-{uuid.UUID(int=1)}.gz.metadata.json", "data/0/1/00000-0.parquet"),
    "Iceberg of Hadoop": ("metadata/version-hint.text", "data/00000-0.parquet"),
    "Hudi": (".hoodie/hoodie.properties", "2026/01/a_0-1-2_3.parquet"),
    "Paimon": ("snapshot/snapshot-1", "bucket-0/data-0.parquet"),
    "Lance": ("_versions/1.manifest", "data/a.parquet"),
    "DuckLake": (f"main/t/{_LAKE_FILE}", f"main/t/{_LAKE_FILE}"),
    "Hive ACID": ("delta_0000001_0000001_0000/000000_0", "base_0000002_v0000017/a.parquet"),
    "Hive ACID, deleted": ("delete_delta_0000003_0000003/b", "delta_0000001_0000001/a.parquet"),
}
"""By format: a file of the log, and a file of rows."""


def name_of(kind: str) -> str:
    name = kind.partition(",")[0].partition(" of ")[0]
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def rows() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["a cat"]}), sink)
    return sink.getvalue()


def put_table(place: Storage, log: str, data: str) -> None:
    place.write_bytes(log, b"{}")
    place.write_bytes(data, rows())


@pytest.fixture
def place() -> Iterator[Storage]:
    """A folder on a storage whose only folders are those of files."""
    yield open_storage(f"memory://{uuid.uuid4().hex}/lake")
    fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_is_refused_however_it_is_named(place: Storage, kind: str) -> None:
    log, data = TABLES[kind]
    put_table(Storage(place.uri("db/t")), log, data)
    folder = data.rpartition("/")[0]
    given = ("", "db", "db/t", "db/t/", f"db/t/{folder}", "**/*.parquet", f"db/t/{folder}/*.parquet")
    for uri in (*(f"{place.root}/{path}" for path in given), place.uri(f"db/t/{data}")):
        with pytest.raises(Refused) as refused:
            open_manifest(uri)
        said = str(refused.value)
        assert said.startswith(f"{uri}: "), uri
        assert f" {name_of(kind)} table, whose Parquet files also hold rows that were deleted" in said, uri
        assert "snapshot" in said, uri


def test_the_message_says_what_to_run(place: Storage) -> None:
    put_table(place, *TABLES["Delta Lake"])
    with pytest.raises(Refused) as refused:
        open_manifest(place.uri("day=1"))
    assert str(refused.value) == (
        f"{place.root}/day=1: lies in {place.root}, a Delta Lake table, whose Parquet files also hold rows "
        "that were deleted or replaced; write its rows to a separate Parquet file and give that, "
        f"in DuckDB: COPY (FROM delta_scan('{place.root}')) TO 'snapshot.parquet'; or with Python's "
        f"deltalake and pyarrow: pq.write_table(DeltaTable('{place.root}').to_pyarrow_table(), "
        "'snapshot.parquet')"
    )


@pytest.mark.parametrize("kind", [kind for kind in TABLES if kind != "DuckLake"])
def test_a_table_without_any_parquet_file_is_named(place: Storage, kind: str) -> None:
    place.write_bytes(TABLES[kind][0], b"{}")
    place.write_bytes("data/0.lance", b"rows")
    with pytest.raises(Refused, match=f"{place.root}: is {name_of(kind)} table"):
        open_manifest(place.root)


def test_tables_beside_the_files_that_are_read_do_not_matter(place: Storage) -> None:
    put_table(Storage(place.uri("tables/t")), *TABLES["Delta Lake"])
    put_table(place, "metadata/v1.json", "prompts/a.parquet")
    place.write_bytes("b.parquet", rows())
    for path in ("prompts", "*.parquet", "*/*.parquet", "b.parquet"):
        assert open_manifest(f"{place.root}/{path}").num_rows == 1, path


@pytest.mark.parametrize(
    "log",
    [
        "metadata/clip.json",
        "snapshot/first",
        "schema/schema-0",
        "delta_1_2/note",
        "base_20260101/note",
        "_SUCCESS",
        "_committed_123",
        "_metadata",
        "_temporary/0/b.parquet",
        "._a.parquet.crc",
        ".delta_log/0.json",
        "my_delta_log/0.json",
    ],
)
def test_folders_of_plain_files_are_read(place: Storage, log: str) -> None:
    put_table(place, log, "base_20260101/_k=1/a.parquet")
    assert open_manifest(place.root).num_rows == 1
    assert open_manifest(f"{place.root}/**/a.parquet").num_rows == 1


def test_what_a_table_hides_is_no_part_of_it(place: Storage) -> None:
    put_table(place, *TABLES["Delta Lake"])
    place.write_bytes("_exports/m.parquet", rows())
    assert open_manifest(place.uri("_exports/m.parquet")).num_rows == 1
    assert open_manifest(place.uri("_exports")).num_rows == 1


def test_on_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_table(open_storage(tmp_path / "t"), *TABLES["Iceberg"])
    (tmp_path / "link").symlink_to(tmp_path / "t" / "data")
    (tmp_path / "empty" / "_delta_log").mkdir(parents=True)
    (tmp_path / "empty" / "a.parquet").write_bytes(rows())
    monkeypatch.chdir(tmp_path / "t" / "data")
    for given in (tmp_path / "link", tmp_path / "t" / "metadata", ".", "day=1/*.parquet", "*/*.parquet"):
        with pytest.raises(Refused, match=f"lies in {tmp_path}/t, an Iceberg table"):
            open_manifest(given)
    assert open_manifest(tmp_path / "empty").num_rows == 1


def test_on_s3(s3_bucket: str) -> None:
    put_table(open_storage(f"s3://{s3_bucket}"), *TABLES["Hudi"])
    for path in ("", "/2026/01", "/*/*/*.parquet"):
        with pytest.raises(Refused, match=rf"(is|lies in s3://{s3_bucket},) a Hudi table"):
            open_manifest(f"s3://{s3_bucket}{path}")


class GuardedFileSystem(LocalFileSystem):
    """Stands for a storage on which a folder may be read, but not those above it."""

    protocol = "guarded"

    def ls(self, path: str, detail: bool = False, **kwargs: Any) -> Any:
        if "/mine" not in path:
            raise PermissionError(f"no access to {path}")
        return super().ls(path, detail, **kwargs)


def test_folders_above_that_may_not_be_read_are_passed_over(tmp_path: Path) -> None:
    fsspec.register_implementation("guarded", GuardedFileSystem, clobber=True)
    put_table(open_storage(tmp_path / "mine"), "note", "t/a.parquet")
    put_table(open_storage(tmp_path / "mine" / "b"), *TABLES["Delta Lake"])
    mine = f"guarded://{tmp_path}/mine"
    assert open_manifest(f"{mine}/t").num_rows == 1
    assert open_manifest(f"{mine}/t/*.parquet").num_rows == 1
    with pytest.raises(Refused, match=f"lies in {mine}/b, a Delta Lake table"):
        open_manifest(f"{mine}/b/day=1")
