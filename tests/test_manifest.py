"""Manifests are opened, read, checked and built; what cannot be is refused by name."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pickle
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidgen_dist import manifest as module
from vidgen_dist.errors import Refused
from vidgen_dist.manifest import Manifest, Row, build, check, open_manifest, row_digest
from vidgen_dist.request import FIELDS, RenderRequest, RequestError
from vidgen_dist.storage import StorageError, open_storage


def write(path: Path, columns: Mapping[str, Any] | pa.Table, **options: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(dict(columns)), path, **options)
    return str(path)


def rows_of(manifest: Manifest, size: int = 1000, **options: Any) -> list[Row]:
    return [row for shard in manifest.shards(size) for row in manifest.read(shard, **options)]


def request_of(row: Row) -> RenderRequest:
    assert row.error is None
    assert row.request is not None
    return row.request


# --- opening -----------------------------------------------------------------------------------------


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
        "use_dynamic_cfg": True,
        "eta": 0.5,
        "strength": 0.8,
        "max_sequence_length": 226,
        "seed": 2**63 - 1,
        "fps": 8.0,
    }
    assert values.keys() == set(FIELDS)
    manifest = open_manifest(write(tmp_path / "m.parquet", pa.Table.from_pylist([values, {"prompt": "b"}])))
    assert manifest.columns == FIELDS
    assert manifest.num_rows == 2
    full, bare = rows_of(manifest)
    assert request_of(full) == RenderRequest(**values)
    assert request_of(bare) == RenderRequest(prompt="b", id=bare.id)


@pytest.mark.parametrize(
    ("column", "array"),
    [
        ("prompt", pa.array(["7"], pa.large_string())),
        ("prompt", pa.array(["7"]).dictionary_encode()),
        ("id", pa.array([7], pa.int32())),
        ("id", pa.array([7], pa.uint64())),
        ("seed", pa.array([7], pa.uint64())),
        ("seed", pa.array([7.0], pa.float64())),
        ("height", pa.array([7], pa.int16())),
        ("height", pa.array([7.0], pa.float32())),
        ("guidance_scale", pa.array([7], pa.int8())),
        ("guidance_scale", pa.array([7.0], pa.float32())),
        ("guidance_scale", pa.array([Decimal("7.0")])),
        ("seed", pa.array([Decimal(7)], pa.decimal128(20, 0))),
    ],
)
def test_columns_of_any_type_that_can_hold_the_value(tmp_path: Path, column: str, array: pa.Array) -> None:
    columns = {"prompt": ["p"]} | {column: array}
    (row,) = rows_of(open_manifest(write(tmp_path / "m.parquet", columns)))
    value = getattr(request_of(row), column)
    assert value == {"prompt": "7", "id": "7"}.get(column, 7)


def test_decimals_ask_for_the_same_as_floats(tmp_path: Path) -> None:
    columns = {"prompt": ["p", "p", "p"], "guidance_scale": pa.array([Decimal("6.5"), Decimal(6), None])}
    decimals = rows_of(open_manifest(write(tmp_path / "d.parquet", columns)))
    columns["guidance_scale"] = pa.array([6.5, 6.0, None])
    floats = rows_of(open_manifest(write(tmp_path / "f.parquet", columns)))
    assert [request_of(row) for row in decimals] == [request_of(row) for row in floats]


def test_ids_may_be_uuids(tmp_path: Path) -> None:
    own = uuid.uuid4()
    path = write(tmp_path / "m.parquet", {"prompt": ["p"], "id": pa.array([own.bytes], pa.uuid())})
    manifest = open_manifest(path)
    assert [row.id for row in rows_of(manifest)] == [str(own)]
    assert [manifest.read_ids(shard) for shard in manifest.shards(1)] == [[str(own)]]


@pytest.mark.parametrize("column", [name for name in FIELDS if name != "prompt"])
def test_a_column_of_nulls_is_as_none(tmp_path: Path, column: str) -> None:
    manifest = open_manifest(write(tmp_path / "m.parquet", {"prompt": ["p"], column: pa.nulls(1)}))
    (row,) = rows_of(manifest)
    without = open_manifest(write(tmp_path / "w.parquet", {"prompt": ["p"]}))
    assert request_of(row) == request_of(rows_of(without)[0])


@pytest.mark.parametrize(
    ("column", "array", "allowed"),
    [
        ("prompt", pa.array([1]), "a string column"),
        ("prompt", pa.array([b"p"]), "a string column"),
        ("id", pa.array([1.0]), "a string or integer column"),
        ("negative_prompt", pa.array([True]), "a string column"),
        ("num_frames", pa.array(["49"]), "an integer column, or a float column"),
        ("seed", pa.array([True]), "an integer column, or a float column"),
        ("guidance_scale", pa.array(["6"]), "a float or integer column"),
        ("fps", pa.array([b"8"]), "a float or integer column"),
        ("use_dynamic_cfg", pa.array([1]), "a boolean column"),
        ("image", pa.array([1]), "struct of bytes and path"),
        ("image", pa.array([{"data": b"1"}]), "struct of bytes and path"),
        ("video", pa.array([b"clip"]), "a string column"),
    ],
)
def test_a_column_of_another_type_is_refused(
    tmp_path: Path, column: str, array: pa.Array, allowed: str
) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": ["p"]} | {column: array})
    with pytest.raises(Refused) as caught:
        open_manifest(path)
    assert str(caught.value).startswith(f"{path}: column {column!r} has type {array.type}; allowed: ")
    assert allowed in str(caught.value)


def test_no_prompt(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"Prompts": ["p"], "seed": [1]})
    with pytest.raises(Refused) as caught:
        open_manifest(path)
    assert str(caught.value) == (
        f"{path}: there is no column 'prompt', which every manifest needs (is 'prompts' meant to be it?); "
        "it has: Prompts, seed"
    )


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["p"]), pa.array([1]), pa.array([2])], ["prompt", "seed", "seed"])
    with pytest.raises(Refused, match=r"m\.parquet: column 'seed' is there 2 times; allowed: once"):
        open_manifest(write(tmp_path / "m.parquet", table))


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


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
        ("m.parquet", _cut, "is a Parquet file cut short"),
        ("m.parquet", lambda data: data[:-1], "is a Parquet file cut short"),
        ("m.parquet", lambda _: b"PAR1", "is a Parquet file cut short"),
        ("m.parquet", lambda _: b"PAR1PAR1", "is a Parquet file cut short"),
        ("m.parquet", lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1", "footer is damaged"),
        ("m.parquet", lambda data: data[:-200] + bytes(192) + data[-8:], "footer is damaged"),
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
    assert list(manifest.shards(10)) == []
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


def test_files_that_differ_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"prompt": ["p"], "seed": [1]})
    write(tmp_path / "b.parquet", {"prompt": ["p"]})
    with pytest.raises(Refused, match=r"b\.parquet: there is no column 'seed', which .*a\.parquet has"):
        open_manifest(tmp_path)
    write(tmp_path / "b.parquet", {"prompt": ["p"], "seed": [1], "fps": [8]})
    with pytest.raises(Refused, match=r"a\.parquet: there is no column 'fps', which .*b\.parquet has"):
        open_manifest(tmp_path)
    write(tmp_path / "b.parquet", {"prompt": ["p"], "seed": ["1"]})
    with pytest.raises(Refused, match=r"b\.parquet: column 'seed' has type string"):
        open_manifest(tmp_path)
    # What pandas makes of a column when one of its values goes missing.
    write(tmp_path / "b.parquet", {"prompt": ["q", "r"], "seed": [2.0, None]})
    assert [request_of(row).seed for row in rows_of(open_manifest(tmp_path))] == [1, 2, None]


def test_unknown_columns_are_named_and_those_passed_through_come_along(tmp_path: Path) -> None:
    columns = {
        "prompt": ["p", "q"],
        "num_frame": [49, 49],
        "source": pa.array(["web", None]).dictionary_encode(),
        "made": pa.array([1, 1_500], pa.timestamp("ns")),
        "a.b": [[1], None],
    }
    path = write(tmp_path / "m.parquet", columns)
    assert open_manifest(path).unknown_columns == ("num_frame", "source", "made", "a.b")
    manifest = open_manifest(path, passthrough=("source", "made", "a.b", "prompt"))
    assert manifest.unknown_columns == ("num_frame",)
    assert manifest.extra_schema == pa.schema(
        [
            ("source", pa.string()),
            ("made", pa.timestamp("us")),
            ("a.b", pa.list_(pa.int64())),
            ("prompt", pa.string()),
        ]
    )
    extras = [row.extra for row in rows_of(manifest)]
    assert pa.Table.from_pylist(extras, manifest.extra_schema).to_pylist() == extras
    assert [e["source"] for e in extras] == ["web", None]
    assert [e["a.b"] for e in extras] == [[1], None]
    assert [e["prompt"] for e in extras] == ["p", "q"]
    with pytest.raises(
        Refused, match=r"m\.parquet: there is no column 'sauce' to pass through; it has: prompt, num"
    ):
        open_manifest(path, passthrough=("sauce",))


def test_a_column_may_be_named_twice_to_pass_through(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": ["p"], "source": [1]})
    (row,) = rows_of(open_manifest(path, passthrough=("source", "source")))
    assert row.extra == {"source": 1}


@pytest.mark.parametrize(
    "array",
    [
        pa.array([2**62], pa.timestamp("us")),
        pa.array([10**8], pa.date32()),
        pa.array([1], pa.duration("ns")),
        pa.array([0], pa.timestamp("us", tz="Nowhere/Atall")),
        pa.array([[1]], pa.list_(pa.timestamp("ns"))),
    ],
)
def test_values_that_cannot_be_passed_through_are_refused(tmp_path: Path, array: pa.Array) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": ["p"], "made": array})
    with pytest.raises(Refused, match=r"m\.parquet: column 'made' .* cannot be passed through"):
        check(open_manifest(path, passthrough=("made",)))


def test_a_field_in_a_folders_name_alone_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "style=old" / "a.parquet", {"prompt": ["p"]})
    assert open_manifest(tmp_path).num_rows == 1
    columns = {"prompt": ["p"], "height": [480]}
    write(tmp_path / "both" / "height=480" / "a.parquet", columns)
    assert open_manifest(tmp_path / "both").num_rows == 1
    write(tmp_path / "lost" / "height=480" / "a.parquet", {"prompt": ["p"]})
    with pytest.raises(Refused, match=r"height=480/a\.parquet: 'height' is in a folder's name alone"):
        open_manifest(tmp_path / "lost")


def test_an_empty_path_is_not_the_manifests_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": ["p"], "image": [""]})
    (problem,) = check(open_manifest(path)).problems
    assert problem.column == "image"


def test_a_passed_through_column_has_one_type(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"prompt": ["p"], "source": [1]})
    write(tmp_path / "b.parquet", {"prompt": ["p"], "source": ["1"]})
    assert open_manifest(tmp_path).unknown_columns == ("source",)
    with pytest.raises(
        Refused, match=r"b\.parquet: column 'source' has type string but int64 in .*a\.parquet"
    ):
        open_manifest(tmp_path, passthrough=("source",))


def test_every_field_of_a_request_has_a_column_type() -> None:
    assert module._KINDS.keys() == module._ARROW_TYPES.keys() == set(FIELDS)
    for field, (fits, _) in module._KINDS.items():
        assert fits(module._ARROW_TYPES[field])


# --- reading -----------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    files=st.lists(st.integers(0, 30), min_size=1, max_size=3),
    group=st.integers(1, 12),
    size=st.integers(1, 15),
    order=st.randoms(use_true_random=False),
    batch=st.integers(1, 7),
)
def test_shards_hold_every_row_once(
    tmp_path_factory: pytest.TempPathFactory, files: list[int], group: int, size: int, order: Any, batch: int
) -> None:
    folder = tmp_path_factory.mktemp("m")
    names = itertools.count()
    for number, rows in enumerate(files):
        prompts = pa.array([f"p{next(names)}" for _ in range(rows)], pa.string())
        write(folder / f"{number}.parquet", {"prompt": prompts, "id": prompts}, row_group_size=group)
    manifest = open_manifest(folder)
    shards = list(manifest.shards(size))
    assert all(1 <= shard.num_rows <= min(size, group) for shard in shards)
    whole = rows_of(manifest)
    assert [request_of(row).prompt for row in whole] == [f"p{n}" for n in range(sum(files))]
    assert [row.index for row in whole] == [n for rows in files for n in range(rows)]
    by_shard = {shard: list(manifest.read(shard)) for shard in shards}
    assert list(itertools.chain.from_iterable(by_shard.values())) == whole
    order.shuffle(shards)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BATCH_ROWS", batch)
        for shard in shards:
            assert list(manifest.read(shard)) == by_shard[shard]
            assert manifest.read_ids(shard) == [row.id for row in by_shard[shard]]


def test_a_large_row_group_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = open_manifest(write(tmp_path / "m.parquet", {"prompt": [str(n) for n in range(1000)]}))
    opened: list[int] = []
    original = module._RowGroup.__init__

    def noting(self: Any, file: Any, index: int, columns: Any) -> None:
        opened.append(index)
        original(self, file, index, columns)

    monkeypatch.setattr(module._RowGroup, "__init__", noting)
    assert len(rows_of(manifest, size=10)) == 1000
    assert opened == [0]
    assert len(module._open_groups._groups) <= 4


def test_shards_are_read_in_threads_and_in_other_processes(tmp_path: Path) -> None:
    write(tmp_path / "m.parquet", {"prompt": [f"p{n}" for n in range(600)]}, row_group_size=150)
    manifest = pickle.loads(pickle.dumps(open_manifest(tmp_path)))
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda shard: list(manifest.read(shard)), manifest.shards(7)))
    assert [request_of(row).prompt for rows in read for row in rows] == [f"p{n}" for n in range(600)]


def test_a_reader_that_stops_early_disturbs_no_one(tmp_path: Path) -> None:
    manifest = open_manifest(write(tmp_path / "m.parquet", {"prompt": [f"p{n}" for n in range(50)]}))
    first, second, *_ = manifest.shards(20)
    rows = manifest.read(first)
    next(rows)
    other = [request_of(row).prompt for row in manifest.read(second)]
    rows.close()
    assert other == [f"p{n}" for n in range(20, 40)]
    assert [request_of(row).prompt for row in manifest.read(first)] == [f"p{n}" for n in range(20)]


def test_a_shard_has_at_least_a_row(tmp_path: Path) -> None:
    manifest = open_manifest(write(tmp_path / "m.parquet", {"prompt": ["p"]}))
    with pytest.raises(ValueError, match="shard size 0"):
        list(manifest.shards(0))


@pytest.mark.parametrize("same_size", [True, False])
def test_a_file_that_changes_during_the_run_is_named(tmp_path: Path, same_size: bool) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": [f"p{n:03d}" for n in range(100)]})
    manifest = open_manifest(path)
    first, second, *_ = manifest.shards(50)
    list(manifest.read(first))
    list(manifest.read(second))
    prompts = [f"{'q' if same_size else 'much longer '}{n:03d}" for n in range(100)]
    write(tmp_path / "m.parquet", {"prompt": prompts})
    with pytest.raises(StorageError, match=r"m\.parquet: the manifest was changed while in use"):
        list(manifest.read(first))
    os.unlink(path)
    with pytest.raises(FileNotFoundError, match=r"m\.parquet"):
        list(manifest.read(first))


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
    with pytest.raises(StorageError, match=r"cannot read .*m\.parquet, row group 0: "):
        rows_of(manifest)
    with pytest.raises(Refused, match=r"cannot read .*m\.parquet, row group 0: "):
        check(manifest)


def test_text_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    prompts = pa.Array.from_buffers(pa.string(), 3, pa.array([b"good", b"b\xffd", b"fine"]).buffers())
    ids = pa.Array.from_buffers(pa.string(), 3, pa.array([b"1", b"2", b"\xff"]).buffers())
    manifest = open_manifest(
        write(tmp_path / "m.parquet", {"prompt": prompts, "id": ids, "note": prompts}), passthrough=["note"]
    )
    good, bad_prompt, bad_id = rows_of(manifest)
    assert request_of(good).prompt == "good"
    assert bad_prompt.error is not None
    assert (bad_prompt.id, bad_prompt.error.field) == ("2", "prompt")
    assert bad_id.error is not None
    assert (bad_id.id, bad_id.error.field) == (row_digest({"prompt": "fine"}), "id")
    assert bad_prompt.extra == {"note": "b\ufffdd"}
    assert manifest.read_ids(next(manifest.shards(10))) == [good.id, bad_prompt.id, bad_id.id]


def test_defaults_fill_what_a_row_lacks(tmp_path: Path) -> None:
    columns = {"prompt": ["p", "q", "r"], "num_frames": [9, None, None]}
    manifest = open_manifest(write(tmp_path / "m.parquet", columns))
    defaults = {"num_frames": 49, "num_inference_steps": 20, "negative_prompt": "blur"}
    rows = rows_of(manifest, defaults=defaults)
    assert [request_of(row).num_frames for row in rows] == [9, 49, 49]
    assert {request_of(row).num_inference_steps for row in rows} == {20}
    assert {request_of(row).negative_prompt for row in rows} == {"blur"}
    assert [row.id for row in rows] == [row.id for row in rows_of(manifest)]


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


# --- identity ----------------------------------------------------------------------------------------


def test_ids_are_the_column_or_a_digest(tmp_path: Path) -> None:
    manifest = open_manifest(write(tmp_path / "m.parquet", {"prompt": ["p", "q"], "id": ["one", None]}))
    named, unnamed = rows_of(manifest)
    assert named.id == "one"
    assert unnamed.id == row_digest({"prompt": "q"})
    assert request_of(unnamed).id == unnamed.id
    assert manifest.read_ids(next(manifest.shards(10))) == ["one", unnamed.id]


def test_digests_stay_the_same_from_release_to_release() -> None:
    # A changed digest would render finished datasets again.
    row = {
        "prompt": "a café 🎬",
        "num_frames": 49,
        "guidance_scale": 6.5,
        "image": b"\x89PNG",
    }
    assert row_digest({"prompt": "a cat"}) == "3c775fcc9396f480239a1b029fa22d99"
    assert row_digest(row) == "19d4107521bada4537d474af6d5e1396"


def test_digests_are_the_same_in_another_process(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": ["p", "q"], "seed": [1, 2]})
    code = (
        "import sys; from vidgen_dist.manifest import open_manifest\n"
        "m = open_manifest(sys.argv[1]); print(*[i for s in m.shards(9) for i in m.read_ids(s)])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code, path], env=environment, capture_output=True, check=True
    )
    assert done.stdout.decode().split() == [row.id for row in rows_of(open_manifest(path))]


request_values = st.fixed_dictionaries(
    {"prompt": st.text(st.characters(exclude_categories=["Cs"]), max_size=20)},
    optional={
        "negative_prompt": st.sampled_from(["", "blur"]),
        "image": st.sampled_from(["a.png", "b.png"]),
        "height": st.integers(1, 4096),
        "num_frames": st.integers(1, 200),
        "guidance_scale": st.floats(0, 30),
        "use_dynamic_cfg": st.booleans(),
        "seed": st.integers(0, 2**63 - 1),
    },
)


@settings(max_examples=30)
@given(st.lists(request_values, min_size=1, max_size=5), st.permutations(FIELDS), st.booleans())
def test_digests_depend_on_the_request_alone(
    tmp_path_factory: pytest.TempPathFactory,
    rows: Sequence[dict[str, Any]],
    order: Sequence[str],
    nulls: bool,
) -> None:
    folder = tmp_path_factory.mktemp("m")
    there = {name for row in rows for name in row}
    names = [name for name in order if name in there or (nulls and name != "id")]
    plain = pa.Table.from_pylist(rows, pa.schema([(n, module._ARROW_TYPES[n]) for n in sorted(there)]))
    other = pa.Table.from_pylist(rows[::-1], pa.schema([(n, module._ARROW_TYPES[n]) for n in names]))
    other = other.append_column("note", pa.array([str(n) for n in range(len(rows))]))
    ids = [row.id for row in rows_of(open_manifest(write(folder / "a" / "m.parquet", plain)))]
    again = rows_of(open_manifest(write(folder / "b" / "n.parquet", other, row_group_size=2)), size=1)
    assert [row.id for row in again][::-1] == ids
    same = [{k: v for k, v in row.items() if v is not None} for row in rows]
    assert len(set(ids)) == len({json.dumps(row, sort_keys=True) for row in same})


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.float32(), pa.float64()])
def test_digests_do_not_depend_on_the_type_of_a_number(tmp_path: Path, kind: pa.DataType) -> None:
    columns = {"prompt": ["p"], "num_frames": pa.array([49], kind), "guidance_scale": pa.array([6], kind)}
    (row,) = rows_of(open_manifest(write(tmp_path / "m.parquet", columns)))
    assert row.id == row_digest({"prompt": "p", "num_frames": 49, "guidance_scale": 6})


# --- checking ----------------------------------------------------------------------------------------

BAD_CELLS = [
    ("prompt", None, "prompt: None is not allowed; a text"),
    ("id", "", "id: '' is not allowed"),
    ("num_frames", -1, "num_frames: -1 is not allowed; a whole number from 1"),
    ("num_frames", 0, "num_frames: 0 is not allowed; a whole number from 1"),
    ("num_frames", 4.5, "num_frames: 4.5 is not allowed; a whole number from 1"),
    ("num_frames", float("nan"), "num_frames: nan is not allowed"),
    ("height", -480, "height: -480 is not allowed"),
    ("width", 0.5, "width: 0.5 is not allowed"),
    ("num_inference_steps", 0, "num_inference_steps: 0 is not allowed"),
    ("max_sequence_length", 0, "max_sequence_length: 0 is not allowed"),
    ("seed", -1, "seed: -1 is not allowed; a whole number from 0 to 9223372036854775807"),
    ("seed", 1e300, "seed: 1e+300 is not allowed"),
    ("guidance_scale", float("inf"), "guidance_scale: inf is not allowed"),
    ("guidance_scale", -1.0, "guidance_scale: -1.0 is not allowed"),
    ("eta", 1.5, "eta: 1.5 is not allowed"),
    ("strength", 0.0, "strength: 0.0 is not allowed; a number above 0"),
    ("fps", 0.0, "fps: 0.0 is not allowed"),
]


@pytest.mark.parametrize(("column", "value", "said"), BAD_CELLS)
def test_a_bad_cell_is_named_with_file_row_and_column(
    tmp_path: Path, column: str, value: Any, said: str
) -> None:
    good = {"strength": 0.5, "fps": 8.0, "prompt": "fine", "id": "x"}.get(column, 1)
    columns = {"prompt": ["p", "q", "r"]} | {column: [good, value, None if column != "prompt" else "s"]}
    path = write(tmp_path / "m.parquet", columns)
    report = check(open_manifest(path))
    assert not report.ok
    assert report.rows == 3
    assert report.counts == {column: 1}
    (problem,) = report.problems
    assert (problem.file, problem.row, problem.column) == (path, 1, column)
    assert problem.message.startswith(said)
    assert str(problem).startswith(f"{path}, row 1 (id ")
    row = rows_of(open_manifest(path))[1]
    assert row.request is None
    assert (row.id, str(row.error)) == (problem.id, problem.message)


def test_a_seed_beyond_64_bits_is_a_bad_row(tmp_path: Path) -> None:
    columns = {"prompt": ["p", "q"], "seed": pa.array([2**63, 1], pa.uint64())}
    (problem,) = check(open_manifest(write(tmp_path / "m.parquet", columns))).problems
    assert (problem.row, problem.column) == (0, "seed")


def test_a_good_manifest_has_no_problems(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": ["p", "q"], "mood": ["gay", "grim"]})
    report = check(open_manifest(path))
    assert report.ok
    assert (report.rows, report.problems, report.num_problems) == (2, (), 0)
    assert report.unknown_columns == ("mood",)


def test_two_rows_with_one_id_are_both_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"prompt": ["p", "q", "r"], "id": ["1", "2", "3"]}, row_group_size=1)
    write(tmp_path / "b.parquet", {"prompt": ["s", "t", "u"], "id": [4, 2, 2]})
    report = check(open_manifest(tmp_path))
    assert report.counts == {"id": 2}
    assert [(p.file, p.row, p.id, p.column) for p in report.problems] == [
        (str(tmp_path / "b.parquet"), 1, "2", "id"),
        (str(tmp_path / "b.parquet"), 2, "2", "id"),
    ]
    assert f"the same as that of row 1 of {tmp_path / 'a.parquet'}" in report.problems[0].message


def test_two_rows_without_id_that_ask_for_the_same_share_one(tmp_path: Path) -> None:
    report = check(open_manifest(write(tmp_path / "m.parquet", {"prompt": ["p", "q", "p"]})))
    (problem,) = report.problems
    assert (problem.row, problem.column) == (2, "id")
    assert "row 0" in problem.message
    assert check(open_manifest(write(tmp_path / "m.parquet", {"prompt": ["p"] * 3, "seed": [1, 2, 3]}))).ok


@settings(max_examples=30)
@given(st.lists(st.integers(0, 12), max_size=40), st.integers(1, 9))
def test_every_shared_id_is_counted(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int], group: int
) -> None:
    path = tmp_path_factory.mktemp("m") / "m.parquet"
    columns = {"prompt": pa.array(["p"] * len(ids), pa.string()), "id": pa.array(ids, pa.int64())}
    report = check(open_manifest(write(path, columns, row_group_size=group)), limit=1000)
    again = [row for row, number in enumerate(ids) if number in ids[:row]]
    assert [problem.row for problem in report.problems] == again
    assert report.num_problems == len(again)


def test_problems_are_counted_beyond_those_named(tmp_path: Path) -> None:
    columns = {"prompt": ["p"] * 60, "num_frames": [-1] * 50 + [1] * 10, "id": [0] * 60}
    report = check(open_manifest(write(tmp_path / "m.parquet", columns)), limit=3)
    assert report.counts == {"num_frames": 50, "id": 59}
    assert [p.column for p in report.problems] == ["num_frames"] * 3 + ["id"] * 3


def test_defaults_and_the_models_rules_are_part_of_the_check(tmp_path: Path) -> None:
    manifest = open_manifest(write(tmp_path / "m.parquet", {"prompt": ["p", "q"], "height": [480, None]}))

    def resolve(request: RenderRequest) -> RenderRequest:
        assert request.height is not None
        if request.height % 16:
            raise RequestError("height", request.height, "a multiple of 16")
        return dataclasses.replace(request, width=720)

    assert check(manifest, resolve=resolve, defaults={"height": 16}).ok
    (problem,) = check(manifest, resolve=resolve, defaults={"height": 100}).problems
    assert (problem.row, problem.column, problem.message) == (
        1,
        "height",
        "height: 100 is not allowed; a multiple of 16",
    )


def test_media_that_do_not_open_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"an image")
    columns = {"prompt": list("pqrs"), "image": ["a.png", "none.png", "bad.png", None]}
    (tmp_path / "bad.png").write_bytes(b"?")
    manifest = open_manifest(write(tmp_path / "m.parquet", columns))
    seen: list[str] = []

    def probe(request: RenderRequest) -> None:
        if request.image is not None:
            seen.append(request.image)
            if Path(request.image).read_bytes() == b"?":
                raise ValueError(f"{request.image}: does not decode as an image")

    report = check(manifest, probe=probe)
    assert sorted(seen) == [str(tmp_path / name) for name in ("a.png", "bad.png", "none.png")]
    assert [(p.row, p.column) for p in report.problems] == [(1, "image"), (2, "image")]
    assert "none.png" in report.problems[0].message
    assert "bad.png: does not decode" in report.problems[1].message
    assert report.counts == {"image": 2}
    assert check(manifest).ok


# --- S3 ----------------------------------------------------------------------------------------------


def test_a_manifest_on_s3(s3_bucket: str, tmp_path: Path) -> None:
    store = open_storage(f"s3://{s3_bucket}/data")
    for name, first in (("a", 0), ("b", 100)):
        columns = {"prompt": [f"p{n}" for n in range(first, first + 100)], "image": ["img/x.png"] * 100}
        store.put_file(write(tmp_path / name, columns, row_group_size=30), f"m/{name}.parquet")
    for uri in (store.uri("m"), store.uri("m") + "/*.parquet"):
        manifest = open_manifest(uri)
        rows = rows_of(manifest, size=8)
        assert [request_of(row).prompt for row in rows] == [f"p{n}" for n in range(200)]
        assert {request_of(row).image for row in rows} == {f"s3://{s3_bucket}/data/m/img/x.png"}
        assert check(manifest).ok
    store.put_file(tmp_path / "a", "m/b.parquet")
    with pytest.raises(StorageError, match=rf"s3://{s3_bucket}/data/m/b\.parquet: the manifest was changed"):
        rows_of(manifest)
    store.write_bytes("m/c.parquet", (tmp_path / "a").read_bytes()[:-10])
    with pytest.raises(Refused, match=rf"s3://{s3_bucket}/data/m/c\.parquet: is a Parquet file cut short"):
        open_manifest(store.uri("m"))
    with pytest.raises(Refused, match="there is no such file"):
        open_manifest(store.uri("none"))


def test_building_from_and_to_s3(s3_bucket: str) -> None:
    store = open_storage(f"s3://{s3_bucket}/in")
    store.write_bytes("prompts.txt", b"a cat\na dog\n")
    store.write_bytes("more.csv", b"prompt,image\na fox,fox.png\n")
    out = f"s3://{s3_bucket}/out/m.parquet"
    report = build([store.uri("prompts.txt"), store.uri("*.csv")], out)
    assert (report.uri, report.rows) == (out, 3)
    rows = rows_of(open_manifest(out))
    assert [request_of(row).prompt for row in rows] == ["a cat", "a dog", "a fox"]
    assert request_of(rows[2]).image == f"s3://{s3_bucket}/in/fox.png"


def test_a_bucket_that_is_not_there_is_refused(s3_bucket: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=f"s3://{s3_bucket}-none/m"):
        open_manifest(f"s3://{s3_bucket}-none/m.parquet")
    (tmp_path / "p.txt").write_text("a cat\n")
    with pytest.raises(
        Refused, match=f"cannot write s3://{s3_bucket}-none/m.parquet: .*bucket does not exist"
    ):
        build([tmp_path / "p.txt"], f"s3://{s3_bucket}-none/m.parquet")


# --- building ----------------------------------------------------------------------------------------


def test_text_csv_and_json_lines_make_one_manifest(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffa cat\r\n\n  a café \u2028 still one line\n".encode())
    (tmp_path / "b.csv").write_bytes(
        "\ufeffprompt,num_frames,guidance_scale,use_dynamic_cfg,seed,mood\n"
        '"one, ""two""\nthree",49,6,TRUE,9223372036854775807,gay\n'
        "\n"
        "plain, 9.0 ,.5,,,\n".encode()
    )
    (tmp_path / "c.jsonl").write_text(
        '{"prompt": "j\\u00e9", "id": 7, "fps": 8, "height": 480.0, "tags": ["x", 1]}\n\n{"prompt": ""}\n'
    )
    inputs = [tmp_path / name for name in ("a.txt", "b.csv", "c.jsonl")]
    report = build(inputs, tmp_path / "m.parquet")
    assert report.rows == 6
    assert report.unknown_columns == ("mood", "tags")
    manifest = open_manifest(tmp_path / "m.parquet", passthrough=("mood", "tags"))
    assert manifest.columns == report.columns
    rows = rows_of(manifest)
    assert [request_of(row) for row in rows] == [
        RenderRequest(prompt="a cat", id="a-000001"),
        RenderRequest(prompt="a café \u2028 still one line", id="a-000003"),
        RenderRequest(
            prompt='one, "two"\nthree',
            id="b-000002",
            num_frames=49,
            guidance_scale=6.0,
            use_dynamic_cfg=True,
            seed=2**63 - 1,
        ),
        RenderRequest(prompt="plain", id="b-000005", num_frames=9, guidance_scale=0.5),
        RenderRequest(prompt="jé", id="7", fps=8.0, height=480),
        RenderRequest(prompt="", id="c-000003"),
    ]
    assert [row.extra["mood"] for row in rows] == [None, None, "gay", None, None, None]
    assert rows[4].extra["tags"] == '["x", 1]'
    schema = pq.read_schema(tmp_path / "m.parquet")
    assert (schema.field("seed").type, schema.field("guidance_scale").type) == (pa.int64(), pa.float64())
    assert check(manifest).ok


def test_a_folder_of_inputs_with_prompts_that_repeat(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "p.txt").write_text("a cat\na cat\n")
    build([tmp_path], tmp_path / "m.parquet")
    manifest = open_manifest(tmp_path / "m.parquet")
    assert [row.id for row in rows_of(manifest)] == ["p-000001", "p-000002", "p-2-000001", "p-2-000002"]
    assert check(manifest).ok


def test_relative_media_stay_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "p.csv").write_text("prompt,image,video\np,i/a.png,/abs/a.mp4\n")
    build([tmp_path / "in" / "p.csv"], tmp_path / "in" / "m.parquet")
    build([tmp_path / "in" / "p.csv"], tmp_path / "out" / "m.parquet")
    assert pq.read_table(tmp_path / "in" / "m.parquet")["image"].to_pylist() == ["i/a.png"]
    for folder in ("in", "out"):
        (row,) = rows_of(open_manifest(tmp_path / folder / "m.parquet"))
        assert request_of(row).image == str(tmp_path / "in" / "i" / "a.png")
        assert request_of(row).video == "/abs/a.mp4"


def test_row_groups_are_small_enough_to_hand_out(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("".join(f"prompt {n}\n" for n in range(5000)))
    build([tmp_path / "p.txt"], tmp_path / "m.parquet")
    assert open_manifest(tmp_path / "m.parquet").files[0].row_groups == (4096, 904)
    # 100 kB of prompt a row: a group stays within some megabytes.
    (tmp_path / "p.txt").write_text(("x" * 100_000 + "\n") * 400)
    build([tmp_path / "p.txt"], tmp_path / "m.parquet")
    assert max(open_manifest(tmp_path / "m.parquet").files[0].row_groups) < 200


BAD_INPUTS = [
    ("p.csv", b"text,seed\na,1\n", "p.csv: the header has no column 'prompt'; it has: text, seed"),
    ("p.csv", b"prompt,seed,seed\na,1,2\n", "p.csv: the header"),
    ("p.csv", b"", "p.csv: is empty; its first line must name the columns"),
    (
        "p.csv",
        b"prompt,seed\na,1\nb\n",
        "p.csv, line 3: line: ['b'] is not allowed; 2 cells, as in the header",
    ),
    ("p.csv", b"prompt,seed\na,1,2\n", "p.csv, line 2: line: ['a', '1', '2'] is not allowed; 2 cells"),
    ("p.csv", b'prompt\n"a\n', "p.csv, line 2: cannot be read as CSV"),
    ("p.csv", b"prompt\na\n\xff\n", "p.csv, line 3: is not UTF-8"),
    ("p.csv", b"prompt,seed\n,1\n", "p.csv, line 2: prompt: None is not allowed; a text"),
    (
        "p.csv",
        b'prompt,seed\n"a\nb",1\nc,-1\n',
        "p.csv, line 4: seed: -1 is not allowed; a whole number from 0",
    ),
    (
        "p.csv",
        b"prompt,num_frames\na,49.5\n",
        "p.csv, line 2: num_frames: 49.5 is not allowed; a whole number",
    ),
    ("p.csv", b"prompt,num_frames\na,1_000\n", "p.csv, line 2: num_frames: '1_000' is not allowed"),
    ("p.csv", b"prompt,fps\na,nan\n", "p.csv, line 2: fps: 'nan' is not allowed; a number"),
    ("p.csv", b"prompt,fps\na,8 fps\n", "p.csv, line 2: fps: '8 fps' is not allowed; a number"),
    ("p.csv", b"prompt,fps\na,1e999\n", "p.csv, line 2: fps: inf is not allowed"),
    (
        "p.csv",
        b"prompt,use_dynamic_cfg\na,1\n",
        "p.csv, line 2: use_dynamic_cfg: '1' is not allowed; true or false",
    ),
    ("p.csv", b"prompt,id\na,1\nb,1\n", "p.csv, line 3: id: '1' is also that of"),
    ("p.txt", b"a cat\n\xff\n", "p.txt, line 2: line: b'\\xff\\n' is not allowed; UTF-8"),
    ("p.txt", b"\n \n", "p.txt: there are no rows"),
    (
        "p.jsonl",
        b'{"prompt": "a"}\n{"prompt": \n',
        "p.jsonl, line 2: line: '{\"prompt\":' is not allowed; a JSON object",
    ),
    ("p.jsonl", b'["a"]\n', "p.jsonl, line 1: line: '[\"a\"]' is not allowed; a JSON object"),
    (
        "p.jsonl",
        b'{"prompt": "a", "prompt": "b"}\n',
        "p.jsonl, line 1: prompt: 2 is not allowed; each key once",
    ),
    ("p.jsonl", b'{"seed": 1}\n', "p.jsonl, line 1: prompt: None is not allowed"),
    ("p.jsonl", b'{"prompt": 1}\n', "p.jsonl, line 1: prompt: 1 is not allowed; a text"),
    ("p.jsonl", b'{"prompt": "a", "num_frames": "49"}\n', "p.jsonl, line 1: num_frames: '49' is not allowed"),
    ("p.jsonl", b'{"prompt": "a", "fps": NaN}\n', "p.jsonl, line 1: fps: nan is not allowed"),
    ("p.jsonl", b'{"prompt": "a", "image": [1]}\n', "p.jsonl, line 1: image: [1] is not allowed; a text"),
    ("p.jsonl", b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}\n", "p.jsonl, line 1: line: "),
    (
        "p.jsonl",
        b'{"prompt": "\\ud800"}\n',
        "p.jsonl, line 1: prompt: '\\ud800' is not allowed; a text that UTF-8",
    ),
    ("p.jsonl", b'{"prompt": "a", "x": "\\ud800"}\n', "p.jsonl, line 1: x: '\\ud800' is not allowed"),
    ("p.jsonl", b'{"prompt": "a", "id": true}\n', "p.jsonl, line 1: id: True is not allowed"),
    ("p.tsv", b"prompt\na\n", "p.tsv: cannot be made into a manifest; allowed: .txt, .csv, .jsonl"),
]


@pytest.mark.parametrize(("name", "content", "said"), BAD_INPUTS)
def test_bad_input_is_named_and_nothing_is_written(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused) as caught:
        build([tmp_path / name], tmp_path / "m.parquet")
    assert str(caught.value).startswith(f"{tmp_path}/{said}")
    assert os.listdir(tmp_path) == [name]


def test_several_bad_lines_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,seed\n" + "a,-1\n" * 30)
    with pytest.raises(Refused) as caught:
        build([tmp_path / "p.csv"], tmp_path / "m.parquet")
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "and 10 more lines"


def test_inputs_and_outputs_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a\n")
    with pytest.raises(Refused, match=r"none\.txt: there is no such file"):
        build([tmp_path / "none.txt"], tmp_path / "m.parquet")
    with pytest.raises(Refused, match=r"m\.csv: a manifest's name ends in \.parquet"):
        build([tmp_path / "p.txt"], tmp_path / "m.csv")
    with pytest.raises(Refused, match=r"cannot write .*p\.txt/m\.parquet: "):
        build([tmp_path / "p.txt"], tmp_path / "p.txt" / "m.parquet")


@settings(max_examples=30)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"prompt": st.text(st.characters(exclude_categories=["Cs"]), max_size=10)},
            optional={
                "seed": st.integers(0, 2**63 - 1),
                "fps": st.floats(0.5, 1000),
                "note": st.text("añ\n", max_size=3),
            },
        ),
        min_size=1,
        max_size=6,
    )
)
def test_json_lines_come_out_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("b")
    (folder / "p.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    report = build([folder / "p.jsonl"], folder / "m.parquet")
    rows = rows_of(open_manifest(folder / "m.parquet", passthrough=report.unknown_columns))
    read = [
        {k: getattr(request_of(row), k) for k in ("prompt", "seed", "fps")} | dict(row.extra) for row in rows
    ]
    assert [{k: v for k, v in values.items() if v is not None} for values in read] == records


# --- memory ------------------------------------------------------------------------------------------


def test_checking_holds_few_rows(tmp_path: Path) -> None:
    # 2,000 rows of 64 KiB: the whole would be 128 MiB.
    image = pa.array([np.random.default_rng(n).bytes(2**16) for n in range(2000)], pa.binary())
    columns = {"prompt": [str(n) for n in range(2000)], "image": image}
    pages = {"use_dictionary": False, "write_batch_size": 8, "data_page_size": 2**20}
    manifest = open_manifest(write(tmp_path / "m.parquet", columns, compression="none", **pages))
    del columns, image
    pool = pa.default_memory_pool()
    before, most = pool.bytes_allocated(), 0

    def probe(_request: RenderRequest) -> None:
        nonlocal most
        most = max(most, pool.bytes_allocated() - before)

    assert check(manifest, probe=probe).ok
    assert 0 < most < 80 * 2**20
