"""Entries: their columns, and the types of passthrough columns."""

from __future__ import annotations

import dataclasses
import uuid
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.ledger.parts import entry, table, write
from vidgen_dist import ledger
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import LedgerEntry, LedgerWriter
from vidgen_dist.storage.folder import Storage


def test_entries_have_the_columns_of_the_schema() -> None:
    fields = {field.name for field in dataclasses.fields(LedgerEntry)} - {"extra"}
    assert fields == set(ledger.SCHEMA.names)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"status": "skipped"}, "allowed: done, failed, lost"),
        ({"status": "lost", "error_class": None}, "error_class: may not be missing"),
        ({"uri": None}, "uri: may not be missing"),
        ({"status": "failed", "error_class": None}, "error_class: may not be missing"),
        ({"finished_at": datetime(2026, 1, 1)}, "no time zone"),
    ],
)
def test_impossible_entries(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        entry(**values)


def test_a_full_entry_comes_back(anywhere: Storage) -> None:
    full = entry(
        "å/ø 熊猫",
        uri="s3://bucket/run/videos/0f/x.mp4", bytes=2**40, sha256="ab" * 32,
        frames=49, fps=23.976, width=720, height=480, seed=2**63 - 1, fingerprint="cd" * 32,
        model="zai-org/CogVideoX-2b", revision="1137dac", attempt=3, worker="node-1/0",
        seconds_encode=0.5, seconds_denoise=61.25, seconds_decode=7.0, seconds_write=0.125,
        finished_at=datetime(2026, 1, 1, 14, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2))),
        extra={"caption": "x"},
    )  # fmt: skip
    write(anywhere, full, passthrough=pa.schema([("caption", pa.string())]))
    (row,) = table(anywhere).to_pylist()
    expected = dataclasses.asdict(full)
    assert row == expected.pop("extra") | expected
    assert row["finished_at"].utcoffset() == timedelta(0)


def test_passthrough_keeps_the_manifests_types(output: Storage) -> None:
    manifest = pa.schema(
        [
            pa.field("tags", pa.list_(pa.string())),
            pa.field("split", pa.dictionary(pa.int8(), pa.string())),
            pa.field("price", pa.decimal128(9, 2), nullable=False),
            pa.field("made", pa.timestamp("ns")),
            pa.field("box", pa.struct([("x", pa.float32()), ("y", pa.float32())])),
            pa.field("nothing", pa.null()),
        ],
        metadata={"pandas": "{}"},
    )
    nanoseconds = pa.scalar(1_700_000_000_123_456_789, pa.timestamp("ns"))
    first = {"tags": ["a", "b"], "split": "train", "made": nanoseconds, "box": {"x": 1.5, "y": 2.0}}
    write(
        output, entry("a", extra=first), entry("b", "failed", extra={"split": "test"}), passthrough=manifest
    )
    write(output, entry("c"), passthrough=manifest)
    read = table(output)
    assert read.schema.names == ledger.SCHEMA.names + manifest.names
    assert [read.schema.field(name).type for name in manifest.names] == list(manifest.types)
    rows = {row["id"]: row for row in read.drop_columns(["made"]).to_pylist()}
    assert (rows["a"]["tags"], rows["a"]["split"], rows["a"]["box"]) == (
        ["a", "b"],
        "train",
        {"x": 1.5, "y": 2.0},
    )
    assert (rows["b"]["split"], rows["c"]["split"], rows["c"]["price"]) == ("test", None, None)
    assert pc.cast(read["made"], pa.int64()).to_pylist()[0] == nanoseconds.value


def test_passthrough_may_not_take_the_ledgers_names(output: Storage) -> None:
    with pytest.raises(Refused, match=r"passthrough: column 'seed' .* rename it in the manifest"):
        LedgerWriter(output, "w", pa.schema([("prompt", pa.string()), ("seed", pa.int64())]))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (pa.struct([("a", pa.int8()), ("a", pa.string())]), "it has two members 'a'"),
        (pa.list_(pa.struct([("b", pa.struct([("a", pa.int8()), ("a", pa.int8())]))])), "two members 'a'"),
        (pa.month_day_nano_interval(), "Unhandled type"),
        (pa.list_(pa.month_day_nano_interval()), "Unhandled type"),
        (pa.struct([]), "no child field"),
        (pa.binary(0), "length: 0"),
        (pa.sparse_union([pa.field("a", pa.int8())]), "sparse_union"),
    ],
)
def test_types_that_no_ledger_can_hold_are_refused(kind: pa.DataType, said: str) -> None:
    fine = ("fine", pa.list_(pa.struct([("a", pa.null())])))
    ledger.check_passthrough(pa.schema([fine]))
    with pytest.raises(Refused) as refused:
        ledger.check_passthrough(pa.schema([fine, ("odd", kind)]))
    assert f"passthrough: column 'odd' has type {kind}, which the ledger cannot hold (" in str(refused.value)
    assert said in str(refused.value)


def test_maps_and_uuids_of_earlier_versions_go_on_as_such(output: Storage) -> None:
    maps, row_id = pa.map_(pa.string(), pa.int64()), uuid.UUID(int=7)
    before = pa.schema([("m", maps), ("u", pa.uuid()), ("text", pa.string())])
    now = pa.schema(
        [
            ("u", pa.string()),
            ("m", pa.list_(pa.struct([("key", pa.string()), ("value", pa.int64())]))),
            ("text", pa.string()),
            ("new", pa.list_(pa.string())),
        ]
    )
    assert ledger.with_earlier_types(output, now) == now
    write(output, entry("a", extra={"m": [("x", 1)], "u": str(row_id)}), passthrough=before)
    same = ledger.with_earlier_types(output, now)
    assert same.types == [pa.uuid(), maps, pa.string(), pa.list_(pa.string())]
    extra = {"m": [{"key": "x", "value": 1}], "u": str(row_id), "new": ["y"]}
    write(output, entry("b", extra=extra), entry("c"), passthrough=same)
    read = pq.read_table(output.uri("ledger")).sort_by("id").select(["m", "u"]).to_pylist()
    assert read == [{"m": [("x", 1)], "u": row_id}] * 2 + [{"m": None, "u": None}]
    # Whoever stored another type under this name goes on with the manifest's.
    other = pa.schema([("u", pa.int64()), ("m", pa.list_(pa.string()))])
    assert ledger.with_earlier_types(output, other) == other
