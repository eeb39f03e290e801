"""The type of each column, columns passed through, and columns that are unknown, missing or there twice."""

from __future__ import annotations

import json
import uuid
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from tests.manifest.parquet import request_of, rows_of, write
from vidgen_dist.errors import Refused
from vidgen_dist.manifest import PRIORITY, check, describe_unknown, known_columns, open_manifest, row_digest
from vidgen_dist.manifest.columns import extra_type
from vidgen_dist.request import FIELDS


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
    with pytest.raises(Refused, match=r"height=480/a\.parquet: 'height' is only in a folder's name"):
        open_manifest(tmp_path / "lost")
    write(tmp_path / "first" / "priority=9" / "a.parquet", {"prompt": ["p"]})
    with pytest.raises(Refused, match=r"priority=9/a\.parquet: 'priority' is only in a folder's name"):
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


@pytest.mark.parametrize(
    ("column", "hint"),
    [
        ("priorty", "did you mean 'priority'?"),
        ("num_frame", "not read (did you mean 'num_frames'?); `vidgen render --passthrough` copies"),
        ("source", "not read; `vidgen render --passthrough` copies"),
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
