"""`vidgen manifest check` and `vidgen manifest build`."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.cli.conftest import write_manifest
from tests.commands import CommandResult, Vidgen
from vidgen_dist.manifest import BAD_ROWS_SCHEMA
from vidgen_dist.storage.files import read_bytes


@pytest.mark.usefixtures("no_ray")
def test_a_manifest_is_checked_with_the_schedulers_settings(
    vidgen: Vidgen, checkpoint: Path, manifest: Path
) -> None:
    def checked(*settings: str) -> CommandResult:
        flags = [part for setting in settings for part in ("--scheduler", setting)]
        return vidgen("manifest", "check", manifest, "--model", checkpoint, *flags)

    assert checked("_class_name=CogVideoXDDIMScheduler", "trained_betas=null").status == 0
    assert (
        "model.scheduler._class_name: 'LCMScheduler' is not allowed"
        in checked("_class_name=LCMScheduler").err
    )
    ran = checked("num_train_timesteps=9")
    assert ran.status == 2
    assert "num_inference_steps: 50 is not allowed; a whole number from 1 to the scheduler's" in ran.err


def test_check_looks_at_pictures(vidgen: Vidgen, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    rows = [{"id": name, "prompt": "x", "image": f"{name}.png"} for name in ("good", "bad", "none")]
    ran = vidgen("manifest", "check", write_manifest(tmp_path / "m.parquet", *rows))
    assert ran.status == 2
    assert "row 1 (id 'bad'): image" in ran.err
    assert "row 2 (id 'none'): image" in ran.err
    assert "row 0" not in ran.err
    assert "2 of 3 rows" in ran.err


def test_check_counts_rows_not_problems(vidgen: Vidgen, tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.parquet", {"prompt": None, "seed": 1}, {"prompt": None, "seed": 1})
    ran = vidgen("manifest", "check", path)
    assert "2 of 2 rows cannot be rendered (prompt 2, id 1)" in ran.err


def test_check_of_a_good_manifest(vidgen: Vidgen, tmp_path: Path, checkpoint: Path) -> None:
    path = write_manifest(tmp_path / "m.parquet", {"prompt": "x", "source": "web"})
    ran = vidgen("manifest", "check", path, "--model", checkpoint)
    assert ran.status == 0, ran.err
    assert "1 row, all can be rendered" in ran.out
    assert "'source'" in ran.err
    assert "'source'" not in vidgen("manifest", "check", path, "--passthrough", "source").err


@pytest.mark.parametrize("num_frames", [-3, 9])
def test_check_lists_all_bad_rows_in_a_file(vidgen: Vidgen, tmp_path: Path, num_frames: int) -> None:
    rows = [{"id": str(n), "prompt": "a fox", "num_frames": num_frames} for n in range(50)]
    path = write_manifest(tmp_path / "m" / "m.parquet", *rows)
    ran = vidgen("manifest", "check", path, "--export", tmp_path / "sub" / "bad.parquet")
    found = pq.read_table(tmp_path / "sub" / "bad.parquet")
    assert found.schema.equals(BAD_ROWS_SCHEMA)
    if num_frames > 0:
        assert (ran.status, len(found)) == (0, 0)
        return
    assert (ran.status, len(found)) == (2, 50)
    assert "bad.parquet: 50 rows" in ran.out
    assert found.slice(49).to_pylist() == [
        {
            "id": "49",
            "row": 49,
            "file": str(path),
            "column": "num_frames",
            "value": "-3",
            "reason": "a whole number from 1 to 2147483647",
        }
    ]


@pytest.mark.parametrize("given", ["m", "m/m.parquet", "m/*.parquet"])
@pytest.mark.parametrize(
    ("export", "said"),
    [
        ("bad.csv", "allowed: *.parquet"),
        ("m/m.parquet", "lies in the manifest"),
        ("file/bad.parquet", "cannot be used for output"),
        ("memory://a/bad.parquet", "its own memory"),
    ],
)
def test_bad_rows_are_not_listed_where_they_cannot_be(
    vidgen: Vidgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, export: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_manifest(tmp_path / "m" / "m.parquet", {"prompt": "a fox"})
    before = path.read_bytes()
    (tmp_path / "file").write_bytes(b"")
    ran = vidgen("manifest", "check", given, "--export", export)
    assert (ran.status, said in ran.err) == (2, True), ran.err
    assert path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "m", "m.parquet"]


def test_bad_rows_are_listed_on_s3(vidgen: Vidgen, tmp_path: Path, s3_bucket: str) -> None:
    path = write_manifest(tmp_path / "m.parquet", {"prompt": "a fox"}, {"prompt": None})
    uri = f"s3://{s3_bucket}/sub/bad.parquet"
    assert vidgen("manifest", "check", path, "--export", uri).status == 2
    assert pq.read_table(pa.BufferReader(read_bytes(uri)))["column"].to_pylist() == ["prompt"]


def test_build_without_a_manifest_to_write(vidgen: Vidgen, tmp_path: Path) -> None:
    ran = vidgen("manifest", "build", tmp_path / "a.txt")
    assert ran.status == 2
    assert f"OUT is missing: vidgen manifest build {tmp_path / 'a.txt'} MANIFEST.parquet" in ran.err


def test_build(vidgen: Vidgen, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a fox\na boat\n")
    (tmp_path / "b.csv").write_text("prompt,num_frames\na train,9\n")
    ran = vidgen("manifest", "build", tmp_path / "a.txt", tmp_path / "b.csv", tmp_path / "m.parquet")
    assert ran.status == 0, ran.err
    assert "3 rows" in ran.out
    assert pq.read_table(tmp_path / "m.parquet")["num_frames"].to_pylist() == [None, None, 9]
