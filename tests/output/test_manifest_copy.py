"""Copies of manifests in outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidgen_dist.errors import Refused
from vidgen_dist.manifest import open_manifest
from vidgen_dist.output.manifest_copy import keep_manifest, names_in_copy
from vidgen_dist.storage.folder import open_storage


def test_a_file_is_copied_once(make_manifest: Callable[..., str], tmp_path: Path) -> None:
    manifest = open_manifest(make_manifest("a fox", {"prompt": "a dog"}))
    output = open_storage(str(tmp_path / "out"))
    copy = keep_manifest(output, manifest)
    assert Path(copy).name == "manifest.parquet"
    assert list(open_manifest(copy).ids()) == list(manifest.ids())
    before = Path(copy).stat()
    assert keep_manifest(output, manifest) == copy
    assert keep_manifest(output, open_manifest(copy)) == copy
    assert Path(copy).stat().st_mtime_ns == before.st_mtime_ns
    other = keep_manifest(output, open_manifest(make_manifest("a fox", "a cat")))
    assert other != copy
    assert Path(copy).exists()


def test_a_folder_keeps_its_order_and_a_torn_copy_is_completed(tmp_path: Path) -> None:
    for name in ("b.parquet", "a/z.parquet", "a/b.parquet"):
        (tmp_path / "rows" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"prompt": [name]}), tmp_path / "rows" / name)
    manifest = open_manifest(str(tmp_path / "rows"))
    output = open_storage(str(tmp_path / "out"))
    copy = keep_manifest(output, manifest)
    assert list(open_manifest(copy).ids()) == list(manifest.ids())
    (Path(copy) / "a" / "z.parquet").unlink()
    assert keep_manifest(output, manifest) == copy
    assert list(open_manifest(copy).ids()) == list(manifest.ids())


def test_what_is_below_the_common_folder_is_the_name() -> None:
    assert names_in_copy(["s3://b/m/a/x.parquet", "s3://b/m/a1/x.parquet"]) == {
        "a/x.parquet": "s3://b/m/a/x.parquet",
        "a1/x.parquet": "s3://b/m/a1/x.parquet",
    }
    assert names_in_copy(["/m/x.parquet"]) == {"x.parquet": "/m/x.parquet"}


def test_an_output_that_cannot_be_written(make_manifest: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(Refused, match="cannot be kept in"):
        keep_manifest(open_storage(str(tmp_path / "out")), open_manifest(make_manifest("a fox")))
