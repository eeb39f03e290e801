"""Manifests are opened on any storage; an incomplete manifest is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tests.manifest.parquet import request_of, rows_of, write
from vidgen_dist.errors import Refused
from vidgen_dist.manifest import check, open_manifest
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import open_storage


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _end(data: bytes) -> int:
    """The bytes of a file from the beginning of its footer."""
    return 8 + int.from_bytes(data[-8:-4], "little")


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("m.parquet", lambda _: b"", "is not Parquet"),
        ("m.parquet", lambda _: b"prompt\na cat\n", "is not Parquet"),
        (
            "m.csv",
            lambda _: b"prompt\na cat\n",
            "is not Parquet; `vidgen manifest build` makes one from it",
        ),
        ("m.parquet", _cut, "is a truncated Parquet file"),
        ("m.parquet", lambda data: data[:-1], "is a truncated Parquet file"),
        ("m.parquet", lambda _: b"PAR1", "is a truncated Parquet file"),
        ("m.parquet", lambda _: b"PAR1PAR1", "is a truncated Parquet file"),
        ("m.parquet", lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1", "footer is damaged"),
        # In what Arrow's writer adds for its readers; and in what Parquet itself needs.
        ("m.parquet", lambda data: data[:-200] + bytes(192) + data[-8:], "cannot read its Parquet footer"),
        ("m.parquet", lambda data: data[: -_end(data)] + bytes(99) + data[99 - _end(data) :], "is damaged"),
        ("m.parquet", lambda data: data[:-4] + b"PARE", "is encrypted Parquet"),
    ],
)
def test_what_is_not_a_whole_parquet_file(
    tmp_path: Path, name: str, change: Callable[[bytes], bytes], said: str
) -> None:
    data = Path(write(tmp_path / "whole", {"prompt": ["a cat", "a dog"], "seed": [1, 2]})).read_bytes()
    (tmp_path / name).write_bytes(change(data))
    with pytest.raises(Refused) as caught:
        open_manifest(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert said in str(caught.value)


def test_one_file_of_many_that_is_cut_short_is_named(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / f"{name}.parquet", {"prompt": ["p"]})
    (tmp_path / "b.parquet").write_bytes(_cut((tmp_path / "b.parquet").read_bytes()))
    with pytest.raises(Refused, match=r"/b\.parquet: is a truncated Parquet file"):
        open_manifest(tmp_path)


def test_nothing_to_open(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "prompts.csv").touch()
    for missing in ("none.parquet", "empty", "*.parquet"):
        with pytest.raises(Refused, match=f"{tmp_path}.*: there is no such file, folder with files or match"):
            open_manifest(tmp_path / missing)
    with pytest.raises(Refused, match=r"other: holds no \.parquet file; it holds prompts\.csv"):
        open_manifest(tmp_path / "other")


def test_an_empty_manifest_has_no_rows(tmp_path: Path) -> None:
    manifest = open_manifest(write(tmp_path / "m.parquet", {"prompt": pa.array([], pa.string())}))
    assert manifest.num_rows == 0
    assert list(manifest.rows()) == []
    assert list(manifest.ids()) == []
    assert check(manifest).ok


def test_a_folder_and_a_glob_of_files(tmp_path: Path) -> None:
    for name in ("b", "a", "sub/c", "_hidden/d"):
        write(tmp_path / f"{name}.parquet", {"prompt": [name]})
    (tmp_path / "README.md").write_text("not one of them")
    (tmp_path / "_SUCCESS").touch()
    assert [request_of(r).prompt for r in rows_of(open_manifest(tmp_path))] == ["a", "b", "sub/c"]
    assert [request_of(r).prompt for r in rows_of(open_manifest(tmp_path / "[ab].parquet"))] == ["a", "b"]
    assert [request_of(r).prompt for r in rows_of(open_manifest(f"file://{tmp_path}/*/*.parquet"))] == [
        "sub/c"
    ]
    write(tmp_path / "no-suffix", {"prompt": ["n"]})
    assert open_manifest(tmp_path / "no-suffix").num_rows == 1


def test_a_manifest_on_s3(s3_bucket: str, tmp_path: Path) -> None:
    store = open_storage(f"s3://{s3_bucket}/data")
    for name, first in (("a", 0), ("b", 100)):
        columns = {"prompt": [f"p{n}" for n in range(first, first + 100)], "image": ["img/x.png"] * 100}
        store.put_file(write(tmp_path / name, columns, row_group_size=30), f"m/{name}.parquet")
    for uri in (store.uri("m"), store.uri("m") + "/*.parquet"):
        manifest = open_manifest(uri)
        rows = rows_of(manifest)
        assert [request_of(row).prompt for row in rows] == [f"p{n}" for n in range(200)]
        assert {request_of(row).image for row in rows} == {f"s3://{s3_bucket}/data/m/img/x.png"}
        assert check(manifest).ok
    store.put_file(tmp_path / "a", "m/b.parquet")
    with pytest.raises(StorageError, match=rf"s3://{s3_bucket}/data/m/b\.parquet: the manifest was changed"):
        rows_of(manifest)
    store.write_bytes("m/c.parquet", (tmp_path / "a").read_bytes()[:-10])
    with pytest.raises(Refused, match=rf"s3://{s3_bucket}/data/m/c\.parquet: is a truncated Parquet file"):
        open_manifest(store.uri("m"))
    with pytest.raises(Refused, match="there is no such file"):
        open_manifest(store.uri("none"))


def test_a_bucket_that_is_not_there_is_refused(s3_bucket: str) -> None:
    with pytest.raises(Refused, match=f"s3://{s3_bucket}-none/m"):
        open_manifest(f"s3://{s3_bucket}-none/m.parquet")
