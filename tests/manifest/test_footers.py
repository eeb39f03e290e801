"""Footers: encrypted columns, types that Arrow does not read, and damaged files."""

from __future__ import annotations

import base64
import contextlib
import io
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidgen_dist.errors import Refused
from vidgen_dist.manifest import check, open_manifest, thrift
from vidgen_dist.manifest.thrift import BINARY, I32, LIST, STRUCT, Struct
from vidgen_dist.request import FIELDS
from vidgen_dist.storage.failures import StorageError

# --- encryption --------------------------------------------------------------------------------------


class Keys(encryption.KmsClient):
    """Stands for a key service; it encrypts nothing."""

    def __init__(self, _config: encryption.KmsConnectionConfig) -> None:
        super().__init__()

    def wrap_key(self, key_bytes: bytes, _master_key: str) -> bytes:
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key: bytes, _master_key: str) -> bytes:
        return base64.b64decode(wrapped_key)


def write_encrypted(path: Path, **settings: Any) -> str:
    """A file of two row groups."""
    table = pa.table(
        {
            "prompt": ["a cat", "a dog"],
            "secret": ["x" * 5000, None],
            "image": ["a.png", "b.png"],
            "person": [{"name": "n", "age": 1}, None],
            "plain": [1, 2],
        }
    )
    settings = {"footer_key": "f", "plaintext_footer": True} | settings
    factory = encryption.CryptoFactory(Keys)
    configuration = encryption.EncryptionConfiguration(**settings)
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), configuration)
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
        writer.write_table(table)
    return str(path)


READING = """
import sys
from vidgen_dist.manifest import check, open_manifest, ordered_rows

manifest = open_manifest(sys.argv[1], passthrough=("plain",))
assert check(manifest).ok is False, "two rows ask for the same"
print([(row.request.prompt, row.extra["plain"]) for row in manifest.rows()], manifest.unknown_columns)
"""


@pytest.mark.parametrize(("column", "encrypted"), [("secret", "'person'"), ("person.name", "'secret'")])
def test_an_encrypted_column_that_nobody_reads(tmp_path: Path, column: str, encrypted: str) -> None:
    path = write_encrypted(tmp_path / "m.parquet", column_keys={"k": [column]})
    # What Arrow does of a wrong question ends the process.
    read = subprocess.run([sys.executable, "-c", READING, path], capture_output=True, text=True, check=False)
    assert (read.returncode, read.stderr) == (0, "")
    assert read.stdout == f"{[('a cat', 1), ('a dog', 2)] * 2} ({encrypted},)\n"


@pytest.mark.parametrize("column", ["prompt", "image"])
def test_an_encrypted_column_that_is_needed(tmp_path: Path, column: str) -> None:
    path = write_encrypted(tmp_path / "m.parquet", column_keys={"k": ["secret", column]})
    with pytest.raises(Refused) as refused:
        open_manifest(path)
    assert str(refused.value) == (
        f"{path}: column {column!r} is encrypted; columns that are read must not be: write the file without "
        "encryption"
    )


@pytest.mark.parametrize("column", ["secret", "person.age"])
def test_an_encrypted_column_is_not_passed_through(tmp_path: Path, column: str) -> None:
    path = write_encrypted(tmp_path / "m.parquet", column_keys={"k": [column]})
    name = column.partition(".")[0]
    with pytest.raises(Refused, match=f"m.parquet: column '{name}' is encrypted"):
        open_manifest(path, passthrough=(name,))


def test_an_encrypted_column_that_is_ignored_is_left_out(tmp_path: Path) -> None:
    path = write_encrypted(tmp_path / "m.parquet", column_keys={"k": ["image"]})
    manifest = open_manifest(path, ignored=("image",))
    assert manifest.columns == ("prompt",)
    assert [row.request.prompt for row in manifest.rows()] == ["a cat", "a dog"] * 2


def test_a_footer_that_is_encrypted(tmp_path: Path) -> None:
    for settings in ({"column_keys": {"k": ["secret"]}}, {"uniform_encryption": True}):
        path = write_encrypted(tmp_path / "m.parquet", **settings, plaintext_footer=False)
        with pytest.raises(Refused, match=r"m\.parquet: is encrypted Parquet; allowed: a plain footer"):
            open_manifest(path)


# --- types that Arrow does not read ------------------------------------------------------------------


def with_footer(change: Callable[[Struct], None], **columns: Any) -> bytes:
    """A file with these columns and a changed footer."""
    sink = io.BytesIO()
    rows = max(map(len, columns.values()), default=1)
    table = pa.table({"prompt": ["a cat"] * rows, **columns, "last": [1] * rows})
    pq.write_table(table, sink, store_schema=False)
    data = sink.getvalue()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    footer = thrift.decode(data[start:-8])
    change(footer)
    encoded = thrift.encode(footer)
    return data[:start] + encoded + len(encoded).to_bytes(4, "little") + b"PAR1"


def element(footer: Struct, name: str) -> Struct:
    """An element of the schema."""
    return next(each for each in footer[2][1][1] if each[4][1] == name.encode())


def odd_uuid(number: int, value: Any) -> Callable[[Struct], None]:
    """Change a field of the element `odd`, and remove its other types."""

    def change(footer: Struct) -> None:
        odd = element(footer, "odd")
        for other in (6, 10):
            odd.pop(other, None)
        odd[number] = value

    return change


def logical(number: int) -> tuple[int, Any]:
    return STRUCT, {number: (STRUCT, {})}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (odd_uuid(10, logical(17)), "FIXED_LEN_BYTE_ARRAY(16) as GEOMETRY"),
        (odd_uuid(10, logical(18)), "FIXED_LEN_BYTE_ARRAY(16) as GEOGRAPHY"),
        (odd_uuid(10, logical(16)), "FIXED_LEN_BYTE_ARRAY(16) as VARIANT"),
        (odd_uuid(10, logical(15)), "FIXED_LEN_BYTE_ARRAY(16) as FLOAT16"),
        (odd_uuid(6, (I32, 5)), "FIXED_LEN_BYTE_ARRAY(16) as DECIMAL"),
        (odd_uuid(6, (I32, 21)), "FIXED_LEN_BYTE_ARRAY(16) as INTERVAL"),
        (odd_uuid(6, (I32, 77)), "FIXED_LEN_BYTE_ARRAY(16) as number 77"),
        (odd_uuid(1, (I32, 9)), "number 9(16)"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_type_that_arrow_does_not_read_is_named(
    tmp_path: Path, change: Callable[[Struct], None], said: str, nested: bool
) -> None:
    odd = pa.array([uuid.UUID(int=7).bytes], pa.uuid())
    columns = {"deep": pa.StructArray.from_arrays([odd], ["odd"])} if nested else {"odd": odd}
    (tmp_path / "m.parquet").write_bytes(with_footer(change, **columns))
    with pytest.raises(Refused) as refused:
        open_manifest(tmp_path / "m.parquet")
    (name,) = columns
    kind = f"group, {said}" if nested else said
    start = f"{tmp_path}/m.parquet: column {name!r} has the type {kind}, which pyarrow {pa.__version__} "
    assert str(refused.value).startswith(f"{start}cannot read (")
    assert "damaged" not in str(refused.value)


def _as_enums(footer: Struct) -> None:
    for name in ("odd", "id"):
        element(footer, name).pop(6, None)
        element(footer, name)[10] = logical(4)


def test_an_enum_is_a_text(tmp_path: Path) -> None:
    columns = {"odd": ["b", None], "id": ["x", "y"]}
    (tmp_path / "m.parquet").write_bytes(with_footer(_as_enums, **columns))
    manifest = open_manifest(tmp_path / "m.parquet", passthrough=("odd",))
    assert manifest.extra_schema == pa.schema([("odd", pa.string())])
    assert [(row.id, row.extra["odd"]) for row in manifest.rows()] == [("x", "b"), ("y", None)]
    assert check(manifest).ok


def test_times_of_96_bits_may_be_long_ago(tmp_path: Path) -> None:
    # As nanoseconds, which Arrow makes of them, they would be of another century.
    times = pa.array([datetime(1020, 1, 2), datetime(9020, 1, 2, 3, 4, 5, 6)], pa.timestamp("us"))
    table = pa.table({"prompt": ["a", "b"], "made": times})
    pq.write_table(table, tmp_path / "m.parquet", use_deprecated_int96_timestamps=True)
    manifest = open_manifest(tmp_path / "m.parquet", passthrough=("made",))
    assert [row.extra["made"] for row in manifest.rows()] == times.to_pylist()


@pytest.mark.parametrize("codec", [3, 9])
def test_a_codec_that_arrow_does_not_have_is_named(tmp_path: Path, codec: int) -> None:
    def change(footer: Struct) -> None:
        for group in footer[4][1][1]:
            group[1][1][1][1][3][1][4] = I32, codec

    path = tmp_path / "m.parquet"
    path.write_bytes(with_footer(change, odd=["x"]))
    with pytest.raises(Refused) as refused:
        check(open_manifest(path, passthrough=("odd", "last")))
    assert str(refused.value).startswith(f"cannot read {path}, row group 0, column 'odd' (string): ")
    assert check(open_manifest(path, passthrough=("last",))).ok


def test_pages_of_one_column_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    lists = pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))
    # Arrow writes nulls among lists of a fixed size, and cannot read them.
    pq.write_table(pa.table({"prompt": ["a", "b"], "odd": lists}), path)
    with pytest.raises(
        Refused, match=r"row group 0, column 'odd' \(fixed_size_list<.*\): Expected all lists"
    ):
        check(open_manifest(path, passthrough=("odd",)))
    assert check(open_manifest(path)).ok


def _no_schema(footer: Struct) -> None:
    del footer[2]


def _a_child_too_many(footer: Struct) -> None:
    footer[2][1][1][0][5] = I32, 9


def _a_child_too_few(footer: Struct) -> None:
    footer[2][1][1][0][5] = I32, 1


def _a_name_that_is_a_number(footer: Struct) -> None:
    footer[2][1][1][1][4] = I32, 7


@pytest.mark.parametrize(
    "change", [_no_schema, _a_child_too_many, _a_child_too_few, _a_name_that_is_a_number]
)
def test_a_footer_that_is_damaged_is_called_so(tmp_path: Path, change: Callable[[Struct], None]) -> None:
    (tmp_path / "m.parquet").write_bytes(with_footer(change))
    with pytest.raises(
        Refused, match=r"m\.parquet: its Parquet footer is damaged \(.*\); write the file again"
    ):
        open_manifest(tmp_path / "m.parquet")


# --- Thrift ------------------------------------------------------------------------------------------


def _footer(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    data = sink.getvalue()
    return data[len(data) - 8 - int.from_bytes(data[-8:-4], "little") : -8]


TABLE = pa.table({name: pa.array([None, 1.5]) for name in FIELDS} | {"x": [[{"a": "b"}], None]})
FOOTERS = [_footer(TABLE), _footer(TABLE, row_group_size=1, write_statistics=False, compression="none")]


@pytest.mark.parametrize("footer", FOOTERS)
def test_what_was_decoded_encodes_to_the_same(footer: bytes) -> None:
    assert thrift.encode(thrift.decode(footer)) == footer


def test_every_kind_of_value() -> None:
    value: Struct = {
        1: (thrift.TRUE, None),
        2: (thrift.FALSE, None),
        3: (thrift.BYTE, 200),
        4: (thrift.I16, -1),
        40: (thrift.I64, -(2**62)),
        41: (thrift.DOUBLE, 0.25),
        42: (LIST, (thrift.TRUE, [1, 2] * 10)),
        43: (thrift.SET, (BINARY, [b"a", b""])),
        44: (thrift.MAP, (BINARY << 4 | I32, [(b"a", 1)])),
        45: (thrift.MAP, (0, [])),
        300: (STRUCT, {1: (LIST, (LIST, [(I32, [-5])]))}),
    }
    assert thrift.decode(thrift.encode(value) + b"rest") == value


@given(st.one_of(st.binary(), st.tuples(st.sampled_from(FOOTERS), st.integers(0), st.binary(max_size=3))))
def test_bytes_of_any_kind_are_decoded_or_refused(drawn: bytes | tuple[bytes, int, bytes]) -> None:
    if isinstance(drawn, tuple):
        footer, place, other = drawn
        place %= len(footer)
        drawn = footer[:place] + other + footer[place + len(other) :]
    with contextlib.suppress(ValueError):
        assert isinstance(thrift.decode(drawn), dict)


@pytest.mark.parametrize("level", [b"\x1c", b"\x19\x19" + b"\x19" * 7])
def test_levels_without_end_are_refused(level: bytes) -> None:
    with pytest.raises(ValueError, match="more than 100 levels"):
        thrift.decode(level * 10_000)


def test_a_file_that_goes_while_it_is_read_is_no_columns_fault(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"prompt": ["a"], "seed": [1]}), path)
    manifest = open_manifest(path)
    path.unlink()
    with pytest.raises((FileNotFoundError, StorageError)) as caught:
        list(manifest.rows())
    assert "column" not in str(caught.value)
