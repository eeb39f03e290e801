"""Exports to a folder that `datasets` reads."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.maintenance.exports import DONE, bytes_of, contents, put_manifest
from tests.maintenance.outputs import put_run
from vidgen_dist.maintenance.export import export
from vidgen_dist.maintenance.export_writer import ExportPolicy
from vidgen_dist.storage.folder import Storage


def test_a_folder_for_datasets(output: Storage, place: str) -> None:
    made = export(output.root, "hf", place)
    assert (made.videos, made.failed, made.pending, made.missing) == (8, 1, 1, 0)
    assert (made.files, made.kept) == (8, 0)
    metadata = pq.read_table(f"{place}/metadata.parquet")
    assert metadata.column_names[:3] == ["file_name", "id", "prompt"]
    assert not {"uri", "worker", "status"} & set(metadata.column_names)
    rows = metadata.to_pylist()
    assert [row["id"] for row in rows] == list(reversed(DONE))
    for row in rows:
        assert row["prompt"] == f"prompt of {row['id']}"[:100]
        assert row["source"] == f"source of {row['id']}"[:100]
        assert (row["frames"], row["guidance_scale"], row["model"]) == (3, 6.0, "checkpoint")
        assert Path(place, row["file_name"]).read_bytes() == bytes_of(output, row["id"])
        assert row["seed"] == DONE.index(row["id"])
    assert [row["num_inference_steps"] for row in rows] == [None, 3, None, 5, None, 7, None, 9]
    # Nothing else: readers take every video that they find.
    files = {path for path in contents(place) if not path.startswith(".")}
    assert files == {"metadata.parquet", *(row["file_name"] for row in rows)}


def test_names_say_nothing_of_splits(tmp_path: Path, place: str) -> None:
    """`datasets` would make a split of `test-1.mp4`, and leave out all files without one."""
    ids = ("test-1", "validation.x", "train_2")
    output = put_run(str(tmp_path / "out"), ids=ids, manifest=put_manifest(tmp_path / "m.parquet", ids))
    export(output.root, "hf", place)
    names = pq.read_table(f"{place}/metadata.parquet")["file_name"].to_pylist()
    assert names == [f"videos/00000/00000000{place}.mp4" for place in range(3)]


def test_columns_that_datasets_takes_for_itself(tmp_path: Path, place: str) -> None:
    manifest = put_manifest(
        tmp_path / "m.parquet", ("a",), video=["clip.mp4"], image=[{"bytes": b"1"}], old_file_name=["x"]
    )
    output = put_run(str(tmp_path / "out"), ids=("a",), manifest=manifest)
    run = output.read_bytes("run.yaml").replace(b"[source]", b"[source, old_file_name]")
    output.write_bytes("run.yaml", run)
    export(output.root, "hf", place)
    names = pq.read_schema(f"{place}/metadata.parquet").names
    assert {"video_given", "old_file_name_given"} <= set(names)
    assert not {"video", "old_file_name", "image"} & set(names)


def test_folders_are_small(output: Storage, place: str) -> None:
    export(output.root, "hf", place, policy=ExportPolicy(folder_rows=4))
    sizes = [len(list(folder.iterdir())) for folder in sorted(Path(place, "videos").iterdir())]
    assert sizes == [3, 4, 1]
    names = pq.read_table(f"{place}/metadata.parquet")["file_name"].to_pylist()
    assert all(Path(place, name).is_file() for name in names)


def test_a_folder_is_listed_once(output: Storage, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the manifest's row groups are."""
    listed: list[str] = []
    sizes = Storage.sizes

    def count(storage: Storage, prefix: str = "") -> dict[str, int]:
        listed.append(prefix)
        return sizes(storage, prefix)

    monkeypatch.setattr(Storage, "sizes", count)
    export(output.root, "hf", place)
    assert listed == ["videos/00000"]
