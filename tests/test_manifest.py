"""Manifests are opened, read and checked; what cannot be is refused by name."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidgen_dist.errors import Refused
from vidgen_dist.families import OUR_FIELDS
from vidgen_dist.manifest import (
    LISTED,
    PRIORITY,
    Manifest,
    Problem,
    Row,
    check,
    checking,
    column_of,
    describe_unknown,
    known_columns,
    list_bad_rows,
    listing,
    open_manifest,
    opening,
    row_digest,
)
from vidgen_dist.manifest.columns import extra_type
from vidgen_dist.request import FIELDS, RenderRequest, RequestError
from vidgen_dist.storage.faults import StorageError
from vidgen_dist.storage.folder import open_storage

LEAST = -(2**63)


def write(path: Path, columns: Mapping[str, Any] | pa.Table, **options: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(dict(columns)), path, **options)
    return str(path)


def rows_of(manifest: Manifest) -> list[Row]:
    return list(manifest.rows())


def request_of(row: Row) -> RenderRequest:
    assert isinstance(row.outcome, RenderRequest)
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


# As pyarrow writes them, and as DuckDB, Iceberg and others do, which say it as Parquet has it alone.
@pytest.mark.parametrize("store_schema", [True, False])
def test_ids_may_be_uuids(tmp_path: Path, store_schema: bool) -> None:
    own = [uuid.uuid4() for _ in range(3)]
    ids = pa.array([own[0].bytes, None, own[2].bytes], pa.uuid())
    columns = {"prompt": pa.array(["p"] * 3, pa.json_()), "id": ids, "u": ids}
    path = write(tmp_path / "m.parquet", columns, store_schema=store_schema)
    manifest = open_manifest(path, passthrough=("u",))
    rows = rows_of(manifest)
    assert [row.id for row in rows] == [str(own[0]), row_digest({"prompt": "p"}), str(own[2])]
    assert [row.extra["u"] for row in rows] == [str(own[0]), None, str(own[2])]
    assert list(manifest.ids()) == [row.id for row in rows]
    assert check(manifest).ok


def test_sixteen_bytes_are_no_id(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": ["p"], "id": pa.array([bytes(16)], pa.binary(16))})
    with pytest.raises(Refused, match=r"'id' has type fixed_size_binary\[16\]; allowed: .* UUID column"):
        open_manifest(path)


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
        ("id", pa.array([1.0]), "a string, integer or UUID column"),
        ("negative_prompt", pa.array([True]), "a string column"),
        ("num_frames", pa.array(["49"]), "an integer column, or a float column"),
        ("seed", pa.array([True]), "an integer column, or a float column"),
        ("guidance_scale", pa.array(["6"]), "a float or integer column"),
        ("fps", pa.array([b"8"]), "a float or integer column"),
        ("use_dynamic_cfg", pa.array([1]), "a boolean column"),
        ("image", pa.array([1]), "struct of bytes and path"),
        ("image", pa.array([{"data": b"1"}]), "struct of bytes and path"),
        ("video", pa.array([b"clip"]), "a string column"),
        ("priority", pa.array([1.0]), "an integer column of at most 64 bits with a sign (nulls are 0"),
        ("priority", pa.array(["high"]), "an integer column"),
        ("priority", pa.array([True]), "an integer column"),
        ("priority", pa.array([1], pa.uint64()), "an integer column"),
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
        f"{path}: there is no column 'prompt', which every manifest needs (is 'Prompts' meant to be it?); "
        "it has: Prompts, seed"
    )


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["p"]), pa.array([1]), pa.array([2])], ["prompt", "seed", "seed"])
    with pytest.raises(Refused, match=r"m\.parquet: column 'seed' is there 2 times; allowed: once"):
        open_manifest(write(tmp_path / "m.parquet", table))


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _end(data: bytes) -> int:
    """Bytes from where a file's footer begins."""
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
        ("m.parquet", _cut, "is a Parquet file cut short"),
        ("m.parquet", lambda data: data[:-1], "is a Parquet file cut short"),
        ("m.parquet", lambda _: b"PAR1", "is a Parquet file cut short"),
        ("m.parquet", lambda _: b"PAR1PAR1", "is a Parquet file cut short"),
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
    with pytest.raises(Refused, match=r"/b\.parquet: is a Parquet file cut short"):
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


def test_of_several_columns_that_a_file_lacks_the_first_is_named(tmp_path: Path) -> None:
    columns = {name: [1] for name in ("seed", "num_frames", "eta", "width", "height", "strength", "fps")}
    write(tmp_path / "a.parquet", {"prompt": ["p"], **columns})
    write(tmp_path / "b.parquet", {"prompt": ["p"]})
    with pytest.raises(Refused, match=r"b\.parquet: there is no column 'height', which"):
        open_manifest(tmp_path)


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


def test_the_index_of_pandas_is_a_column_like_others(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["p", "q"], "__index_level_0__": [7, 9]})
    index = {"index_columns": ["__index_level_0__"], "columns": [], "column_indexes": []}
    path = write(tmp_path / "m.parquet", table.replace_schema_metadata({"pandas": json.dumps(index)}))
    assert open_manifest(path).unknown_columns == ("__index_level_0__",)
    manifest = open_manifest(path, passthrough=("__index_level_0__",))
    assert [row.extra for row in rows_of(manifest)] == [{"__index_level_0__": 7}, {"__index_level_0__": 9}]
    assert manifest.extra_schema.metadata is None


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
    said = r"m\.parquet, row 0: column 'made' .* cannot be passed through"
    with pytest.raises(Refused, match=said) as refused:
        check(open_manifest(path, passthrough=("made",)))
    assert "pandas" not in str(refused.value)


def test_a_field_in_a_folders_name_alone_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "style=old" / "a.parquet", {"prompt": ["p"]})
    assert open_manifest(tmp_path).num_rows == 1
    columns = {"prompt": ["p"], "height": [480]}
    write(tmp_path / "both" / "height=480" / "a.parquet", columns)
    assert open_manifest(tmp_path / "both").num_rows == 1
    write(tmp_path / "lost" / "height=480" / "a.parquet", {"prompt": ["p"]})
    with pytest.raises(Refused, match=r"height=480/a\.parquet: 'height' is in a folder's name alone"):
        open_manifest(tmp_path / "lost")
    write(tmp_path / "first" / "priority=9" / "a.parquet", {"prompt": ["p"]})
    with pytest.raises(Refused, match=r"priority=9/a\.parquet: 'priority' is in a folder's name alone"):
        open_manifest(tmp_path / "first")


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
    columns = known_columns(FIELDS)
    assert tuple(columns) == (*FIELDS, PRIORITY)
    for column in columns.values():
        assert column.fits(column.written)


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


# --- reading -----------------------------------------------------------------------------------------


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
    manifest = open_manifest(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "_BATCH_ROWS", batch)
        patch.setattr(opening, "_COLUMN_ROWS", batch)
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
    assert "'dbfs:/a.png' is not allowed; it is no path that is there, nor a URI; write dbfs:///a.png" in str(
        problems[0]
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


# --- identity ----------------------------------------------------------------------------------------


def test_ids_are_the_column_or_a_digest(tmp_path: Path) -> None:
    manifest = open_manifest(write(tmp_path / "m.parquet", {"prompt": ["p", "q"], "id": ["one", None]}))
    named, unnamed = rows_of(manifest)
    assert named.id == "one"
    assert unnamed.id == row_digest({"prompt": "q"})
    assert request_of(unnamed).id == unnamed.id
    assert list(manifest.ids()) == ["one", unnamed.id]


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
        "m = open_manifest(sys.argv[1]); print(*m.ids())"
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
@given(st.lists(request_values, min_size=1, max_size=5), st.permutations(tuple(FIELDS)), st.booleans())
def test_digests_depend_on_the_request_alone(
    tmp_path_factory: pytest.TempPathFactory,
    rows: Sequence[dict[str, Any]],
    order: Sequence[str],
    nulls: bool,
) -> None:
    folder = tmp_path_factory.mktemp("m")
    there = {name for row in rows for name in row}
    names = [name for name in order if name in there or (nulls and name != "id")]
    plain = pa.Table.from_pylist(rows, pa.schema([(n, column_of(FIELDS[n]).written) for n in sorted(there)]))
    other = pa.Table.from_pylist(rows[::-1], pa.schema([(n, column_of(FIELDS[n]).written) for n in names]))
    other = other.append_column("note", pa.array([str(n) for n in range(len(rows))]))
    ids = [row.id for row in rows_of(open_manifest(write(folder / "a" / "m.parquet", plain)))]
    again = rows_of(open_manifest(write(folder / "b" / "n.parquet", other, row_group_size=2)))
    assert [row.id for row in again][::-1] == ids
    same = [{k: v for k, v in row.items() if v is not None} for row in rows]
    assert len(set(ids)) == len({json.dumps(row, sort_keys=True) for row in same})


ROW_DIGESTS: list[tuple[dict[str, Any], str]] = [
    ({}, "5470a2870ea0ad80c60a0343fdb7b022"),
    ({"negative_prompt": "dull"}, "49c74fa23512c401158a28897759a341"),
    ({"image": "/a.png"}, "4d7eba25ff50b38f1f442556847c74ef"),
    ({"video": "/a.mp4"}, "0e54d980db7a72bcddfdb4232cf8514b"),
    ({"height": 480}, "fc651c69fa6d4582533502b750191251"),
    ({"width": 720}, "d80a2b2510ea9b586dbd2c4e054a7a1d"),
    ({"num_frames": 49}, "29a765d39592661ae1d03182d666c6b2"),
    ({"num_inference_steps": 50}, "f64e222f06dd3cf8dad40c69ecea3fd0"),
    ({"guidance_scale": 6.5}, "5994ffff1170cebb2942556d3e6c5388"),
    ({"guidance_rescale": 0.7}, "62ba34393433eade62fcbd97d2577154"),
    ({"true_cfg_scale": 4.0}, "a0e16a96c73a3bdfd377d2104939e5a4"),
    ({"use_dynamic_cfg": True}, "1ca9f16b0c874dafd2b93519a57a7d2a"),
    ({"eta": 0.5}, "0a75a072b487742efe893d5e3c1a23bf"),
    ({"strength": 0.8}, "6de9290e432f22f6260d1b8ed611cdc6"),
    ({"max_sequence_length": 226}, "efe558837b04e471a585554e79acba22"),
    ({"frame_rate": 24.0}, "c7aeb111f6160762301ce4380fc53cc7"),
    ({"decode_timestep": 0.05}, "aac51ab3ea9cad4639951af67b532ff9"),
    ({"decode_noise_scale": 0.025}, "6939c0297342e96460c394227474a8a3"),
    ({"seed": 7}, "a3beebbef09d84a4a082052c13b8058d"),
    ({"fps": 16.0}, "bab16646b9372be581c120676e853140"),
]
"""Digests of "a fox" and one field more, under which ledgers know rows without an id."""


@pytest.mark.parametrize(("used", "digest"), ROW_DIGESTS)
def test_digests_are_written_down(used: dict[str, Any], digest: str) -> None:
    assert row_digest({"prompt": "a fox", **used}) == digest


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
    assert isinstance(row.outcome, RequestError)
    assert (row.id, str(row.outcome)) == (problem.id, problem.message)


def test_a_seed_beyond_64_bits_is_a_bad_row(tmp_path: Path) -> None:
    columns = {"prompt": ["p", "q"], "seed": pa.array([2**63, 1], pa.uint64())}
    (problem,) = check(open_manifest(write(tmp_path / "m.parquet", columns))).problems
    assert (problem.row, problem.column) == (0, "seed")


def test_a_good_manifest_has_no_problems(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": ["p", "q"], "mood": ["gay", "grim"]})
    report = check(open_manifest(path))
    assert report.ok
    assert (report.rows, report.bad_rows, report.problems, report.num_problems) == (2, 0, (), 0)
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
    assert (report.num_problems, report.bad_rows) == (109, 60)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=25), st.integers(1, 9))
def test_a_bad_row_is_counted_once(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, bool]], group: int
) -> None:
    path = tmp_path_factory.mktemp("m") / "m.parquet"
    columns = {
        "prompt": pa.array(["p"] * len(rows), pa.string()),
        "id": pa.array([number for number, _ in rows], pa.int64()),
        "num_frames": pa.array([-1 if bad else 1 for _, bad in rows], pa.int64()),
    }
    report = check(open_manifest(write(path, columns, row_group_size=group)))
    ids = [number for number, _ in rows]
    assert report.bad_rows == sum(bad or ids[row] in ids[:row] for row, (_, bad) in enumerate(rows))


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


VALUES: dict[str, list[tuple[pa.DataType, list[Any]]]] = {
    "prompt": [
        (kind, ["a", "", None, 'é"\\']) for kind in (pa.string(), pa.large_string(), pa.string_view())
    ],
    "id": [(pa.string(), ["x", "y", "", None]), (pa.int64(), [1, 2, None])],
    "seed": [
        (pa.int64(), [1, 2, None, -1]),
        (pa.uint64(), [1, None, 2**63]),
        (pa.float64(), [1.0, 2.5, None]),
    ],
    "height": [(pa.int32(), [16, 32, None, 17, -1]), (pa.float32(), [16.0, 17.0, 0.5, None])],
    "guidance_scale": [(pa.float64(), [0.0, -0.0, 1.5, None, float("nan"), float("inf")])],
    "negative_prompt": [
        (pa.string(), ["n", "", None]),
        (pa.dictionary(pa.int32(), pa.string()), ["n", None]),
    ],
    "image": [
        (pa.string(), ["a.png", "", None]),
        (pa.binary(), [b"x", b"", None]),
        (
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            [None, {"bytes": b"x"}, {"path": "p"}, {"bytes": None, "path": None}, {"path": ""}],
        ),
    ],
    "use_dynamic_cfg": [(pa.bool_(), [True, False, None]), (pa.null(), [None])],
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(0, 12))
    columns = {}
    for name, kinds in VALUES.items():
        if name == "prompt" or draw(st.booleans()):
            kind, values = draw(st.sampled_from(kinds))
            column = draw(st.lists(st.sampled_from(values), min_size=rows, max_size=rows))
            flat = kind.value_type if pa.types.is_dictionary(kind) else kind
            columns[name] = pa.array(column, flat).cast(kind)
    return pa.table(columns)


@settings(max_examples=60)
@given(table=tables(), group=st.integers(1, 12), height=st.sampled_from([None, 16, 17]))
def test_rows_looked_at_together_are_as_rows_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, table: pa.Table, group: int, height: int | None
) -> None:
    manifest = open_manifest(write(tmp_path_factory.mktemp("m") / "m.parquet", table, row_group_size=group))

    def resolve(request: RenderRequest) -> RenderRequest:
        if request.height is not None and request.height % 16:
            raise RequestError("height", request.height, "a multiple of 16")
        if request.image is not None and request.negative_prompt is not None:
            raise RequestError("negative_prompt", request.negative_prompt, "none with an image")
        return request

    given: dict[str, Any] = {"defaults": {"height": height}, "resolve": resolve, "limit": 100}
    told: list[Problem] = []
    report = check(manifest, **given, on_bad=lambda bad: told.extend(bad.problems(slice(None))))
    assert report.problems == tuple(told)
    # Whoever probes looks at every row.
    assert report == check(manifest, **given) == check(manifest, **given, probe=lambda _: None)
    rows = rows_of(manifest)
    assert list(manifest.ids()) == [row.id for row in rows]
    bare = [name for name in table.column_names if name != "id"]
    nameless = open_manifest(write(Path(manifest.files[0].uri).with_name("n.parquet"), table.select(bare)))
    digests = [digest for batch in manifest.batches() for digest in batch.digests(batch.plain | True)]
    assert digests == [row.id for row in nameless.rows()]
    taken = 0
    for batch in manifest.batches():
        for row, places in batch.groups(np.ones(len(batch), np.bool_)):
            prompts, seeds = (
                [None] * len(places) if column is None else column.to_pylist()
                for column in (batch.prompts(places), batch.seeds(places))
            )
            for place, prompt, seed in zip(places, prompts, seeds, strict=True):
                like = rows[batch.indices[place]]
                assert type(like.outcome) is type(row.outcome)
                if isinstance(row.outcome, RenderRequest):
                    own = {"id": like.id, "prompt": prompt, "seed": seed}
                    image = getattr(like.outcome, "image", None)
                    assert like.request == dataclasses.replace(row.request, image=image, **own)
                taken += 1
    assert taken <= len(rows)


def test_bad_rows_are_counted_by_column_and_reason(tmp_path: Path) -> None:
    columns = {"prompt": ["p", None, *["q"] * 98], "seed": range(100), "height": [16, *range(-98, 0), 0.5]}
    manifest = open_manifest(write(tmp_path / "m.parquet", columns, row_group_size=40))
    first, second = check(manifest).reasons
    assert str(first) == (
        f"height, 98 rows: a whole number from 1 to 2147483647; the first: {tmp_path}/m.parquet, row 2 (id "
        f"{first.first.id!r}): -97.0"
    )
    assert (second.count, second.first.row, second.first.column) == (1, 1, "prompt")
    assert str(second).endswith(": nothing")


def test_few_reasons_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a probe says of images may be another thing for each."""
    monkeypatch.setattr(checking, "MOST_REASONS", 3)
    columns = {"prompt": list("abcdefgh"), "image": list("abcdefgh")}

    def probe(request: RenderRequest) -> None:
        raise ValueError(f"{request.prompt} is broken")

    report = check(open_manifest(write(tmp_path / "m.parquet", columns)), probe=probe)
    assert [(reason.count, reason.others) for reason in report.reasons] == [
        (5, True), (1, False), (1, False), (1, False)
    ]  # fmt: skip
    assert "image, 5 rows: other reasons; the first: " in str(report.reasons[0])


def test_all_bad_rows_are_listed_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_GROUP_ROWS", 2)
    columns = {
        "prompt": ["p", None, "q", "r", "s" * 200],
        "id": ["a", "b", "c", "a", "d"],
        "height": [16, 16, -1, -1, 16],
        "image": ["s3://key:secret@bucket/x", "", "y", "z", "y"],
        "use_dynamic_cfg": pa.nulls(5),
    }
    for name in "mn":
        ids = [f"{name}{row_id}" for row_id in columns["id"]]
        write(tmp_path / "m" / f"{name}.parquet", columns | {"id": ids}, row_group_size=3)

    def resolve(request: RenderRequest) -> RenderRequest:
        if len(request.prompt or "") > 100 or "secret" in request.image:
            field = "image" if "secret" in request.image else "prompt"
            raise RequestError(field, getattr(request, field), "something else")
        return request

    place = open_storage(tmp_path / "out")
    with list_bad_rows(place, "bad.parquet") as on_bad:
        report = check(open_manifest(tmp_path / "m"), resolve=resolve, on_bad=on_bad, limit=1)
        assert not place.list()
    found = pq.read_table(tmp_path / "out" / "bad.parquet")
    assert found.schema.equals(LISTED)
    assert len(found) == report.num_problems == 12
    files = [str(tmp_path / "m" / f"{name}.parquet") for name in "mn"]
    allowed = "a whole number from 1 to 2147483647"
    again = "each row needs an id of its own (rows without one need to differ, in `seed` for example)"
    assert [tuple(row.values()) for row in found.to_pylist()] == [
        *(
            row
            for name, file in zip("mn", files, strict=True)
            for row in (
                (f"{name}a", 0, file, "image", "s3://bucket/x?***", "something else"),
                (f"{name}b", 1, file, "prompt", None, "a text"),
                (f"{name}c", 2, file, "height", "-1", allowed),
                (f"{name}a", 3, file, "height", "-1", allowed),
                (f"{name}d", 4, file, "prompt", "s" * 117 + "...", "something else"),
            )
        ),
        *(
            (f"{name}a", 3, file, "id", f"{name}a", f"the same as that of row 0 of {file}; {again}")
            for name, file in zip("mn", files, strict=True)
        ),
    ]


def test_a_list_of_no_bad_rows_has_the_columns(tmp_path: Path) -> None:
    with list_bad_rows(open_storage(tmp_path), "bad.parquet") as on_bad:
        check(open_manifest(write(tmp_path / "m.parquet", {"prompt": ["p"]})), on_bad=on_bad)
    found = pq.read_table(tmp_path / "bad.parquet")
    assert (len(found), found.schema.equals(LISTED)) == (0, True)


def test_what_is_no_utf8_is_listed_with_escapes(tmp_path: Path) -> None:
    text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xffx"]).buffers())
    manifest = open_manifest(write(tmp_path / "m.parquet", {"prompt": text, "id": ["a"]}))
    with list_bad_rows(open_storage(tmp_path), "bad.parquet") as on_bad:
        check(manifest, on_bad=on_bad)
    assert pq.read_table(tmp_path / "bad.parquet").to_pylist()[0]["value"] == "\\udcffx"


def test_a_list_that_is_cut_short_leaves_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"before")
    manifest = open_manifest(write(tmp_path / "m.parquet", {"prompt": [None, "p"]}, row_group_size=1))

    def cut_short() -> None:
        with list_bad_rows(open_storage(tmp_path), "bad.parquet") as on_bad:
            check(manifest, on_bad=on_bad)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_short()
    assert (tmp_path / "bad.parquet").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.parquet", "m.parquet"]


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
        rows = rows_of(manifest)
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


def test_a_bucket_that_is_not_there_is_refused(s3_bucket: str) -> None:
    with pytest.raises(Refused, match=f"s3://{s3_bucket}-none/m"):
        open_manifest(f"s3://{s3_bucket}-none/m.parquet")


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


@pytest.mark.parametrize(
    ("column", "hint"),
    [
        ("priorty", "did you mean 'priority'?"),
        ("num_frame", "not read (did you mean 'num_frames'?); --pass"),
        ("source", "not read; --pass"),
    ],
)
def test_unknown_column_is_told_with_the_nearest(column, hint):
    assert hint in describe_unknown(column)


def test_types_that_few_readers_know_are_passed_through_as_others() -> None:
    view, text = pa.string_view(), pa.string()
    pairs = pa.struct([("key", text), ("value", pa.list_(text))])
    for kind, stored in (
        (view, text),
        (pa.binary_view(), pa.binary()),
        (pa.dictionary(pa.int32(), view), text),
        (pa.list_(view), pa.list_(text)),
        (pa.list_(view, 2), pa.list_(text)),
        (pa.large_list_view(view), pa.large_list(text)),
        (pa.map_(text, pa.list_view(view)), pa.list_(pairs)),
        (pa.struct([pa.field("a", view, nullable=False)]), pa.struct([("a", text)])),
        (pa.list_(pa.dictionary(pa.int32(), text)), pa.list_(text)),
        (pa.list_(pa.uuid()), pa.list_(text)),
        (pa.fixed_shape_tensor(pa.float32(), [2, 3]), pa.list_(pa.list_(pa.float32()))),
        (pa.struct([("a", pa.bool8()), ("b", pa.json_())]), pa.struct([("a", pa.bool_()), ("b", text)])),
        (pa.decimal32(5, 2), pa.decimal128(5, 2)),
        (pa.timestamp("ns", "UTC"), pa.timestamp("us", "UTC")),
    ):
        assert extra_type(kind) == stored
