"""Exports to tar shards."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.maintenance.exports import DONE, bytes_of, contents, members, put_manifest, samples
from tests.maintenance.outputs import put_run
from vidgen_dist import media
from vidgen_dist.maintenance.export import export
from vidgen_dist.spec import parse_bytes
from vidgen_dist.storage.folder import Storage, open_storage


@pytest.mark.parametrize("format", media.FORMATS)
def test_shards(tmp_path: Path, place: str, format: str) -> None:
    manifest = put_manifest(tmp_path / "manifest.parquet")
    output = put_run(str(tmp_path / "out"), format, manifest=manifest)
    made = export(output.root, "webdataset", place, shard_rows=3)
    assert (made.videos, made.files, made.missing) == (8, 3, 0)
    found = samples(place)
    assert list(found) == [f"00000000{row}" for row in range(1, 9)]
    for row, sample in zip(reversed(DONE), found.values(), strict=True):
        text = json.loads(sample.pop("json"))
        assert (text["id"], text["prompt"], text["frames"]) == (row, f"prompt of {row}"[:100], 3)
        assert datetime.fromisoformat(text["finished_at"]).tzinfo is not None
        if format == "png":
            assert list(sample) == [f"{frame:06d}.png" for frame in range(3)]
            continue
        assert sample == {format: bytes_of(output, row)}
    assert {shard for shard, _, _ in members(place)} == {f"0000{number}.tar" for number in range(3)}


def test_shards_are_the_same_bytes(output: Storage, place: str) -> None:
    for name in ("a", "b"):
        export(output.root, "webdataset", place + name, shard_rows=3)
    assert contents(place + "a") == contents(place + "b")
    for _, member, _ in members(place + "a"):
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")


def test_shards_keep_their_size(output: Storage, place: str) -> None:
    for shard_size, count in (("1GB", 1), ("21kB", 2), ("20kB", 4), ("1kB", 8)):
        folder = place + shard_size
        export(output.root, "webdataset", folder, shard_size=shard_size)
        sizes = [size for name, size in open_storage(folder).sizes().items() if name.endswith(".tar")]
        assert len(sizes) == count
        if count < 8:
            assert max(sizes) <= parse_bytes(shard_size)
        assert len(samples(folder)) == 8


@pytest.mark.parametrize("format", ["npy", "png"])
def test_a_shard_that_lacks_a_row_is_made_again(tmp_path: Path, place: str, format: str) -> None:
    """Even if it has the size of a complete one, or that size is not known."""
    manifest = put_manifest(tmp_path / "m.parquet")
    output = put_run(str(tmp_path / "out"), format, manifest=manifest)
    shown = output.uri(next(path for path in output.list("videos") if "case" in path))
    hidden = f"{shown}.hidden"
    Path(shown).rename(hidden)
    for _ in range(2):
        made = export(output.root, "webdataset", place)
        assert (made.videos, made.missing, made.kept) == (7, 1, 0)
        left = json.loads(Path(place, ".00000.tar.left.json").read_bytes())
        assert list(left.values()) == ["its video is not there"]
        assert [row.id for row in made.left] == list(left)
    Path(hidden).rename(shown)
    for kept in (0, 1):
        made = export(output.root, "webdataset", place)
        assert (made.videos, made.missing, made.kept) == (8, 0, kept)
        assert set(contents(place)) == {"00000.tar", ".export.json"}


def test_values_that_json_does_not_know(tmp_path: Path, place: str) -> None:
    path = tmp_path / "m.parquet"
    values = {
        "t": np.datetime64("2026-01-01T12:00:00.5", "ms"),
        "n": float("nan"),
        "b": b"\x00\xff",
        "l": [1.5],
    }
    pq.write_table(pa.Table.from_pylist([{"id": "a", "prompt": "p", "source": values}]), path)
    output = put_run(str(tmp_path / "out"), ids=("a",), manifest=str(path))
    export(output.root, "webdataset", place)
    (sample,) = samples(place).values()
    source = json.loads(sample["json"], parse_constant=pytest.fail)["source"]
    assert source == {"t": "2026-01-01T12:00:00.500000", "n": None, "b": "AP8=", "l": [1.5]}
