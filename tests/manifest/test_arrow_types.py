"""Columns of every type: ledger and readers hold the same values for whatever the check accepts."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vidgen_dist.errors import Refused
from vidgen_dist.ledger import LedgerEntry, LedgerWriter, compact
from vidgen_dist.manifest import open_manifest
from vidgen_dist.manifest.arrow_types import plain_array, plain_type
from vidgen_dist.manifest.columns import extra_type
from vidgen_dist.preflight.manifest_check import check_manifest
from vidgen_dist.storage.folder import open_storage


class Pair(pa.ExtensionType):
    """An extension type that the package does not know."""

    def __init__(self) -> None:
        super().__init__(pa.list_(pa.int16(), 2), "tests.pair")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Pair:
        return cls()


@pytest.fixture(autouse=True, scope="module")
def known_pair() -> Iterator[None]:
    pa.register_extension_type(Pair())
    yield
    pa.unregister_extension_type("tests.pair")


LEAVES = [
    pa.null(),
    pa.bool_(),
    *(pa.int8(), pa.int64(), pa.uint8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64()),
    *(pa.decimal32(5, 2), pa.decimal64(12, 0), pa.decimal128(20, 3), pa.decimal256(50, 2)),
    *(pa.string(), pa.large_string(), pa.string_view(), pa.json_()),
    *(pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3), pa.uuid()),
    *(pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")),
    *(pa.timestamp("s"), pa.timestamp("ms", "UTC"), pa.timestamp("us", "+02:00"), pa.timestamp("ns")),
    *(pa.duration("s"), pa.duration("us"), pa.duration("ns"), pa.month_day_nano_interval()),
    pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.int16(), pa.int64()),
    *(pa.bool8(), pa.opaque(pa.string(), "geometry", "someone"), Pair()),
    pa.fixed_shape_tensor(pa.float32(), [2]),
    pa.fixed_shape_tensor(pa.int8(), [2, 1, 3]),
]


def _nested(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    names = st.sampled_from(["a", "b", "a.b", "key"])
    return st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.map(pa.list_view),
        inner.map(pa.large_list_view),
        inner.map(lambda kind: pa.list_(kind, 2)),
        st.builds(pa.map_, st.sampled_from([pa.string(), pa.int32()]), inner),
        st.lists(st.tuples(names, inner), min_size=1, max_size=3).map(pa.struct),
    )


TYPES = st.recursive(st.sampled_from(LEAVES), _nested, max_leaves=4)


def make(kind: pa.DataType, count: int, chance: Random, nulls: bool = True) -> pa.Array:
    """Some values of a type; `pa.array` takes few extension types within others."""
    missing = np.array([nulls and chance.random() < 0.25 for _ in range(count)], np.bool_)
    mask = pa.array(missing)
    lengths = [0 if absent else chance.randrange(3) for absent in missing.tolist()]
    offsets = pa.array(np.append(0, np.cumsum(lengths)).astype(np.int32))
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, make(kind.storage_type, count, chance, nulls))
    if pa.types.is_struct(kind):
        members = [make(field.type, count, chance) for field in kind]
        return pa.StructArray.from_arrays(members, fields=list(kind), mask=mask)
    if pa.types.is_map(kind):
        keys = pa.array(range(sum(lengths)), pa.int32()).cast(kind.key_type)
        return pa.MapArray.from_arrays(
            offsets, keys, make(kind.item_type, sum(lengths), chance), kind, mask=mask
        )
    if pa.types.is_fixed_size_list(kind):
        # What Arrow itself cannot read again, no manifest has.
        values = make(kind.value_type, count * kind.list_size, chance)
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        build: Any = pa.ListArray if pa.types.is_list(kind) else pa.LargeListArray
        wide = offsets.cast(pa.int32() if pa.types.is_list(kind) else pa.int64())
        return build.from_arrays(wide, make(kind.value_type, sum(lengths), chance), kind, mask=mask)
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        build = pa.ListViewArray if pa.types.is_list_view(kind) else pa.LargeListViewArray
        wide = pa.int32() if pa.types.is_list_view(kind) else pa.int64()
        values = make(kind.value_type, sum(lengths), chance)
        # The last list first, as views may have it.
        starts, sizes = offsets[:-1].cast(wide), pa.array(lengths, wide)
        return build.from_arrays(starts, sizes, values, kind, mask=mask)
    if pa.types.is_dictionary(kind):
        return make(kind.value_type, count, chance).dictionary_encode().cast(kind)
    return _leaves(kind, missing, chance)


def _leaves(kind: pa.DataType, missing: np.ndarray, chance: Random) -> pa.Array:
    texts = ["", "a", "熊", "longer than twelve bytes"]
    choices: list[Any] = [0, 1, 100]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        choices = texts
    elif pa.types.is_fixed_size_binary(kind):
        choices = [bytes(kind.byte_width), bytes(range(kind.byte_width))]
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        choices = [text.encode() for text in texts]
    elif pa.types.is_boolean(kind):
        choices = [True, False]
    elif pa.types.is_interval(kind):
        choices = [pa.MonthDayNano([1, 2, 3])]
    elif pa.types.is_null(kind):
        choices = [None]
    elif pa.types.is_temporal(kind):
        raw = pa.int32() if kind.bit_width == 32 else pa.int64()
        days = 86_400_000 if pa.types.is_date64(kind) else 1
        choices = [0, 1, 1000, 86_000] + ([] if pa.types.is_time(kind) else [10**8, 2**30])
        numbers = [days * chance.choice(choices) for _ in missing.tolist()]
        return pa.array(numbers, pa.int64(), mask=missing).cast(raw).view(kind)
    values = [None if absent else chance.choice(choices) for absent in missing.tolist()]
    if pa.types.is_decimal(kind):
        return pa.array(values, pa.int64()).cast(pa.decimal128(38, 0)).cast(kind)
    return pa.array(values, kind)


def expected_value(kind: pa.DataType, value: Any) -> Any:
    """The expected value for one that Arrow gives to Python."""
    if value is None:
        return None
    if isinstance(kind, pa.UuidType):
        return str(value)
    if isinstance(kind, pa.FixedShapeTensorType):
        return np.array(value, object).reshape(kind.shape).tolist()
    if isinstance(kind, pa.Bool8Type):
        return bool(value)
    if isinstance(kind, pa.BaseExtensionType):
        return expected_value(kind.storage_type, value)
    if pa.types.is_struct(kind):
        return {field.name: expected_value(field.type, value[field.name]) for field in kind}
    if pa.types.is_map(kind):
        pairs = (
            (expected_value(kind.key_type, key), expected_value(kind.item_type, item)) for key, item in value
        )
        return [{"key": key, "value": item} for key, item in pairs]
    if hasattr(kind, "value_type") and not pa.types.is_dictionary(kind):
        return [expected_value(kind.value_type, each) for each in value]
    return value


def expected(column: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(extra_type(column.type), safe=False)
    return [expected_value(column.type, value) for value in column.to_pylist()]


def readers_take(kind: pa.DataType) -> bool:
    """Whether Hugging Face `datasets` (5.2, `generate_from_arrow_type`) has a feature for a type."""
    if pa.types.is_struct(kind):
        return all(readers_take(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return readers_take(kind.value_type)
    known: list[Callable[[pa.DataType], bool]] = [
        *(pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating),
        *(pa.types.is_time, pa.types.is_timestamp, pa.types.is_date, pa.types.is_duration),
        *(pa.types.is_decimal128, pa.types.is_decimal256, pa.types.is_binary, pa.types.is_large_binary),
        *(pa.types.is_string, pa.types.is_large_string, pa.types.is_fixed_size_binary),
    ]
    return any(fits(kind) for fits in known)


@settings(max_examples=40)
@given(kind=TYPES, seed=st.integers(0, 2**32))
@example(kind=pa.struct([("u", pa.uuid()), ("t", pa.fixed_shape_tensor(pa.int8(), [2]))]), seed=1)
@example(kind=pa.list_(pa.bool8()), seed=1)
@example(kind=pa.map_(pa.string(), pa.json_()), seed=1)
@example(kind=pa.struct([("a", pa.int8()), ("a", pa.string())]), seed=1)
def test_what_the_check_lets_through_the_ledger_holds(kind: pa.DataType, seed: int) -> None:
    column = make(kind, 6, Random(seed))
    table = pa.table({"prompt": ["p"] * 6, "id": list("abcdef"), "x": column})
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/m.parquet"
        try:
            pq.write_table(table, path)
        except (pa.ArrowException, OSError):
            # No file has such a column.
            return
        if said := refusal(path):
            assert re.search(r"column 'x' (has type [a-z]|\([a-z])", said), said
            return
        manifest = open_manifest(path, passthrough=("x",))
        stored = store(folder, manifest)
    assert stored.column("x").to_pylist() == expected(column)
    assert readers_take(stored.schema.field("x").type)


def refusal(path: str) -> str:
    """The check's message for a manifest that it refuses."""
    try:
        assert check_manifest(path, {"manifest.passthrough": ["x"]}).ok
    except Refused as refused:
        return str(refused)
    return ""


def store(folder: str, manifest: Any) -> pa.Table:
    """A manifest's rows, in order, as a ledger holds them after its parts were merged."""
    output = open_storage(f"{folder}/out")
    with LedgerWriter(output, "w", manifest.extra_schema, max_entries=4) as writer:
        for row in manifest.rows():
            entry = LedgerEntry(
                id=row.id,
                status="failed",
                fingerprint="f",
                attempt=1,
                finished_at=datetime.now(UTC),
                error_class="OSError",
                extra=row.extra,
            )
            writer.append(entry)
    assert compact(output, min_age=timedelta()).after == 1
    return pq.read_table(f"{folder}/out/ledger").sort_by("id")


@given(kind=TYPES, seed=st.integers(0, 2**32), start=st.integers(0, 4), length=st.integers(0, 4))
def test_slices_are_read_as_the_whole(kind: pa.DataType, seed: int, start: int, length: int) -> None:
    whole = make(kind, 8, Random(seed))
    part = plain_array(whole.slice(start, length))
    part.validate(full=True)
    assert part.type == plain_type(kind)
    assert part.equals(plain_array(whole).slice(start, length))
