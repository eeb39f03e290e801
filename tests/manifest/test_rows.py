"""Rows are read in order, with defaults filled in; files that change or are damaged are named."""

from __future__ import annotations

import dataclasses
import os
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.manifest.parquet import request_of, rows_of, write
from vidgen_dist.errors import Refused
from vidgen_dist.families import OUR_FIELDS
from vidgen_dist.manifest import check, open_manifest, row_digest
from vidgen_dist.manifest.reader import ReadPolicy
from vidgen_dist.request import RenderRequest, RequestError
from vidgen_dist.storage.failures import StorageError

LEAST = -(2**63)


def test_every_field_comes_through(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "prompt": "a cat",
        "id": "cat-1",
        "negative_prompt": "a dog",
        "image": "/images/cat.png",
        "video": "s3://clips/cat.mp4",
        "height": 480,
        "width": 720,
        "num_frames": 49,
        "num_inference_steps": 50,
        "guidance_scale": 6.5,
        "guidance_rescale": 0.7,
        "true_cfg_scale": 4.0,
        "use_dynamic_cfg": True,
        "eta": 0.5,
        "strength": 0.8,
        "max_sequence_length": 226,
        "frame_rate": 24.0,
        "decode_timestep": 0.05,
        "decode_noise_scale": 0.025,
        "clip_skip": 2,
        "decode_chunk_size": 8,
        "min_guidance_scale": 1.0,
        "max_guidance_scale": 3.0,
        "motion_bucket_id": 127,
        "noise_aug_strength": 0.02,
        "lora": "/loras/watercolour.safetensors",
        "lora_scale": 0.7,
        "file_fps": 12.0,
        "target_fps": 16,
        "seed": 2**63 - 1,
        "fps": 8.0,
    }
    assert values.keys() == set(OUR_FIELDS)
    table = pa.Table.from_pylist([values, {"prompt": "b"}])
    manifest = open_manifest(write(tmp_path / "m.parquet", table), fields=OUR_FIELDS)
    assert manifest.columns == tuple(OUR_FIELDS)
    assert manifest.num_rows == 2
    full, bare = rows_of(manifest)
    assert request_of(full) == RenderRequest(**values)
    assert request_of(bare) == RenderRequest(prompt="b", id=bare.id)


def test_priorities_are_known_of_all_files_and_decide_nothing_else(tmp_path: Path) -> None:
    prompts = ["p", "q", "r"]
    kinds = [
        pa.array([5, None, LEAST]),
        None,
        pa.array([7, 0, 1], pa.int8()).dictionary_encode(),
        pa.nulls(3),
    ]
    for number, kind in enumerate(kinds):
        columns = {"prompt": prompts, "seed": [number] * 3} | ({} if kind is None else {"priority": kind})
        write(tmp_path / f"{number}.parquet", columns, row_group_size=2)
    manifest = open_manifest(tmp_path)
    assert manifest.unknown_columns == ()
    assert manifest.columns == ("prompt", "seed")
    assert manifest.has_priorities
    assert manifest.priorities().tolist() == [5, 0, LEAST, 0, 0, 0, 7, 0, 1, 0, 0, 0]
    without = open_manifest(tmp_path / "1.parquet")
    assert not without.has_priorities
    assert [row.id for row in rows_of(without)] == [row_digest({"prompt": p, "seed": 1}) for p in prompts]
    assert [row.id for row in rows_of(manifest)][:1] == [row_digest({"prompt": "p", "seed": 0})]


def test_a_priority_may_also_be_passed_through(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": ["p", "q"], "priority": [1, None]})
    manifest = open_manifest(path, passthrough=("priority",))
    assert [row.extra for row in rows_of(manifest)] == [{"priority": 1}, {"priority": None}]
    assert (manifest.extra_schema.field("priority").type, manifest.unknown_columns) == (pa.int64(), ())


@settings(max_examples=30)
@given(
    files=st.lists(st.integers(0, 30), min_size=1, max_size=3),
    group=st.integers(1, 12),
    batch=st.integers(1, 7),
    data=st.data(),
)
def test_every_row_comes_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, files: list[int], group: int, batch: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("m")
    total = sum(files)
    prompts = [f"p{n}" for n in range(total)]
    some = st.lists(st.booleans(), min_size=total, max_size=total)
    own = [prompt if has else None for prompt, has in zip(prompts, data.draw(some), strict=True)]
    wanted = np.array(data.draw(some), np.bool_)
    first = 0
    for number, rows in enumerate(files):
        here = slice(first, first + rows)
        columns = {"prompt": pa.array(prompts[here], pa.string()), "id": pa.array(own[here], pa.string())}
        write(folder / f"{number}.parquet", columns, row_group_size=group)
        first += rows
    reading = ReadPolicy(batch_rows=batch, column_rows=batch)
    manifest = dataclasses.replace(open_manifest(folder), reading=reading)
    whole = list(manifest.rows())
    assert [request_of(row).prompt for row in whole] == prompts
    assert [row.index for row in whole] == [n for rows in files for n in range(rows)]
    assert list(manifest.ids()) == [row.id for row in whole]
    chosen = [row for row, want in zip(whole, wanted, strict=True) if want]
    assert list(manifest.rows(wanted=wanted)) == chosen


def test_row_groups_without_a_wanted_row_are_not_read(tmp_path: Path) -> None:
    columns = {"prompt": [f"a prompt {n}" * 50 for n in range(2000)]}
    path = Path(write(tmp_path / "m.parquet", columns, use_dictionary=False, row_group_size=1000))
    data = bytearray(path.read_bytes())
    manifest = open_manifest(path)
    data[4 : len(data) // 4] = os.urandom(len(data) // 4 - 4)
    path.write_bytes(data)
    last = np.arange(2000) == 1999
    assert [row.index for row in manifest.rows(wanted=last)] == [1999]
    with pytest.raises(StorageError, match="row group 0"):
        list(manifest.rows())


@pytest.mark.parametrize("same_size", [True, False])
def test_a_file_that_changes_during_the_run_is_named(tmp_path: Path, same_size: bool) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": [f"p{n:03d}" for n in range(100)]}, row_group_size=50)
    manifest = open_manifest(path)
    rows = manifest.rows()
    assert [request_of(row).prompt for row in islice(rows, 50)] == [f"p{n:03d}" for n in range(50)]
    prompts = [f"{'q' if same_size else 'much longer '}{n:03d}" for n in range(100)]
    write(tmp_path / "m.parquet", {"prompt": prompts}, row_group_size=50)
    for reading in (rows, manifest.rows(), manifest.ids()):
        with pytest.raises(StorageError, match=r"m\.parquet: the manifest was changed while in use"):
            next(reading)
    os.unlink(path)
    with pytest.raises(FileNotFoundError, match=r"m\.parquet"):
        next(manifest.rows())


def test_the_same_file_copied_anew_is_the_same(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "m.parquet", {"prompt": ["p", "q"]}))
    manifest = open_manifest(path)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    assert [request_of(row).prompt for row in rows_of(manifest)] == ["p", "q"]


def test_damaged_pages_are_named(tmp_path: Path) -> None:
    columns = {"prompt": [f"a prompt {n}" * 50 for n in range(2000)]}
    path = Path(write(tmp_path / "m.parquet", columns, use_dictionary=False, write_page_checksum=False))
    data = bytearray(path.read_bytes())
    manifest = open_manifest(path)
    data[4 : len(data) // 2] = os.urandom(len(data) // 2 - 4)
    path.write_bytes(data)
    said = r"cannot read .*m\.parquet, row group 0, column 'prompt' \(string\): "
    with pytest.raises(StorageError, match=said):
        rows_of(manifest)
    with pytest.raises(Refused, match=said):
        check(manifest)


def test_text_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    prompts = pa.Array.from_buffers(pa.string(), 3, pa.array([b"good", b"b\xffd", b"fine"]).buffers())
    ids = pa.Array.from_buffers(pa.string(), 3, pa.array([b"1", b"2", b"\xff"]).buffers())
    manifest = open_manifest(
        write(tmp_path / "m.parquet", {"prompt": prompts, "id": ids, "note": prompts}), passthrough=["note"]
    )
    good, bad_prompt, bad_id = rows_of(manifest)
    assert request_of(good).prompt == "good"
    assert isinstance(bad_prompt.outcome, RequestError)
    assert (bad_prompt.id, bad_prompt.outcome.field) == ("2", "prompt")
    assert isinstance(bad_id.outcome, RequestError)
    assert (bad_id.id, bad_id.outcome.field) == (row_digest({"prompt": "fine"}), "id")
    assert bad_prompt.extra == {"note": "b\ufffdd"}
    assert list(manifest.ids()) == [good.id, bad_prompt.id, bad_id.id]


def test_defaults_fill_what_a_row_lacks(tmp_path: Path) -> None:
    columns = {"prompt": ["p", "q", "r"], "num_frames": [9, None, None]}
    manifest = open_manifest(write(tmp_path / "m.parquet", columns))
    defaults = {"num_frames": 49, "num_inference_steps": 20, "negative_prompt": "blur"}
    rows = list(manifest.rows(defaults))
    assert [request_of(row).num_frames for row in rows] == [9, 49, 49]
    assert {request_of(row).num_inference_steps for row in rows} == {20}
    assert {request_of(row).negative_prompt for row in rows} == {"blur"}
    assert [row.id for row in rows] == [row.id for row in rows_of(manifest)]


def test_misspelt_uris_of_images_are_bad_rows(tmp_path: Path) -> None:
    (tmp_path / "s3:").mkdir()
    (tmp_path / "s3:" / "there.png").touch()
    images = ["dbfs:/a.png", "s3://b/a.png", "s3:/there.png", "file://host/a.png", "https:/h/a?sig=hunter2"]
    manifest = open_manifest(write(tmp_path / "m.parquet", {"prompt": list("abcde"), "image": images}))
    problems = check(manifest).problems
    assert [(problem.row, problem.column) for problem in problems] == [
        (0, "image"),
        (3, "image"),
        (4, "image"),
    ]
    assert (
        "'dbfs:/a.png' is not allowed; it is neither an existing path nor a URI; write dbfs:///a.png"
        in str(problems[0])
    )
    assert "it names a host, 'host'" in str(problems[1])
    assert "hunter2" not in str(problems[2])
    assert request_of(rows_of(manifest)[2]).image == f"{tmp_path}/s3:/there.png"


def test_images_come_as_paths_bytes_or_as_datasets_writes_them(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    paths = ["img/a.png", "/abs/b.png", "s3://bucket/c.png"]
    expected = [f"{folder}/img/a.png", "/abs/b.png", "s3://bucket/c.png"]
    manifest = open_manifest(
        write(folder / "p.parquet", {"prompt": list("pqr"), "image": paths, "video": paths})
    )
    assert [request_of(row).image for row in rows_of(manifest)] == expected
    assert [request_of(row).video for row in rows_of(manifest)] == expected
    encoded = pa.array([b"\x89PNG", None, b"GIF8"], pa.binary())
    manifest = open_manifest(write(folder / "b.parquet", {"prompt": list("pqr"), "image": encoded}))
    assert [request_of(row).image for row in rows_of(manifest)] == [b"\x89PNG", None, b"GIF8"]
    struct = pa.array(
        [
            {"bytes": b"\x89PNG", "path": "a.png"},
            {"bytes": None, "path": "a.png"},
            {"bytes": None, "path": None},
        ],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    manifest = open_manifest(write(folder / "s.parquet", {"prompt": list("pqr"), "image": struct}))
    assert [request_of(row).image for row in rows_of(manifest)] == [b"\x89PNG", f"{folder}/a.png", None]


def test_a_long_prompt_that_rows_share_is_not_read_for_all_at_once(tmp_path: Path) -> None:
    # Stored once, as a dictionary; of 4,000 rows it would be 381 MiB.
    prompts = pa.DictionaryArray.from_arrays(np.zeros(4000, np.int8), pa.array(["x" * 100_000]))
    columns = {"prompt": prompts, "seed": range(4000)}
    manifest = open_manifest(write(tmp_path / "m.parquet", columns, store_schema=False))
    pool = pa.default_memory_pool()
    before, most, rows = pool.bytes_allocated(), 0, 0
    for batch in manifest.batches():
        assert batch.columns.column("prompt").type == pa.string()
        rows += len(batch)
        most = max(most, pool.bytes_allocated() - before)
    assert rows == 4000
    assert 0 < most < 150 * 2**20
