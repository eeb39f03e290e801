"""Columns of every type go through the ledger and the exports."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.maintenance.exports import put_manifest, samples
from tests.maintenance.outputs import put_run, put_video
from tests.manifest.test_arrow_types import readers_take
from vidgen_dist.ledger import LedgerWriter, compact
from vidgen_dist.maintenance.export import export
from vidgen_dist.manifest import check, open_manifest

EXTRAS: dict[str, tuple[pa.DataType, Any, Any]] = {
    "nothing": (pa.null(), None, None),
    "bool": (pa.bool_(), True, True),
    "int8": (pa.int8(), -1, -1),
    "uint64": (pa.uint64(), 2**64 - 1, 2**64 - 1),
    "float16": (pa.float16(), np.float16(1.5), 1.5),
    "double": (pa.float64(), 0.25, 0.25),
    "decimal": (pa.decimal128(9, 2), Decimal("1.50"), "1.50"),
    "decimal256": (pa.decimal256(50, 2), Decimal("1.50"), "1.50"),
    "string": (pa.string(), "熊", "熊"),
    "large_string": (pa.large_string(), "a", "a"),
    "string_view": (pa.string_view(), "longer than twelve bytes", "longer than twelve bytes"),
    "binary": (pa.binary(), b"a", "YQ=="),
    "large_binary": (pa.large_binary(), b"a", "YQ=="),
    "binary_view": (pa.binary_view(), b"a", "YQ=="),
    "fixed": (pa.binary(3), b"abc", "YWJj"),
    "date": (pa.date32(), date(2020, 1, 2), "2020-01-02"),
    "date64": (pa.date64(), date(2020, 1, 2), "2020-01-02"),
    "time": (pa.time32("ms"), time(1, 2), "01:02:00"),
    "time64": (pa.time64("us"), time(1, 2), "01:02:00"),
    "timestamp": (pa.timestamp("us"), datetime(2020, 1, 2), "2020-01-02T00:00:00"),
    "nanoseconds": (pa.timestamp("ns"), datetime(2020, 1, 2), "2020-01-02T00:00:00"),
    "duration": (pa.duration("us"), timedelta(seconds=1), "0:00:01"),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), "a", "a"),
    "list": (pa.list_(pa.string_view()), ["a", None], ["a", None]),
    "large_list": (pa.large_list(pa.string_view()), ["a"], ["a"]),
    "list_view": (pa.list_view(pa.string()), ["a"], ["a"]),
    "large_list_view": (pa.large_list_view(pa.binary_view()), [b"a"], ["YQ=="]),
    "struct": (
        pa.struct([("text", pa.string_view()), ("list", pa.list_(pa.binary_view()))]),
        {"text": "a", "list": [b"a"]},
        {"text": "a", "list": ["YQ=="]},
    ),
    "json": (pa.json_(), "[1]", "[1]"),
}
"""The Arrow types that Parquet files hold: a value, and its form in a JSON object."""


_PAIRS = [{"key": "a", "value": "b"}]
_HASHES = pa.list_(pa.struct([("h", pa.uint64())]))
_UUID = uuid.UUID(int=7)
CHANGED: dict[str, tuple[pa.Array, Any]] = {
    "map": (pa.array([[("a", "b")], None], pa.map_(pa.string(), pa.string_view())), _PAIRS),
    "uuid": (pa.array([_UUID.bytes, None], pa.uuid()), str(_UUID)),
    "hashes": (pa.array([[{"h": 2**64 - 1}], None], _HASHES), [{"h": 2**64 - 1}]),
    "uuids": (
        pa.StructArray.from_arrays(
            [pa.array([_UUID.bytes] * 2, pa.uuid())], ["u"], mask=pa.array([False, True])
        ),
        {"u": str(_UUID)},
    ),
}
"""Columns of two rows, the second one null, that `datasets` cannot read, and what is stored instead."""


def test_columns_of_every_type_go_through_ledger_and_exports(tmp_path: Path, place: str) -> None:
    ids = ("a", "b")
    columns = {name: pa.array([value, None], kind) for name, (kind, value, _) in EXTRAS.items()}
    columns |= {name: column for name, (column, _) in CHANGED.items()}
    changed = {name: value for name, (_, value) in CHANGED.items()}
    manifest = put_manifest(tmp_path / "m.parquet", ids, **columns)
    output = put_run(str(tmp_path / "out"), ids=(), manifest=manifest)
    run = output.read_bytes("run.yaml")
    output.write_bytes("run.yaml", run.replace(b"[source]", f"[{', '.join(columns)}]".encode()))
    opened = open_manifest(manifest, passthrough=tuple(columns))
    assert check(opened).ok
    with LedgerWriter(output, "w", opened.extra_schema, max_entries=1) as writer:
        for number, row in enumerate(opened.rows()):
            writer.append(replace(put_video(output, row.id, number), extra=row.extra))
    parts = pq.read_table(Path(output.root, "ledger")).select(list(columns)).sort_by("string").to_pylist()
    assert compact(output, min_age=timedelta()).after == 1
    (whole,) = Path(output.root, "ledger").iterdir()
    stored = pq.read_table(whole).select(list(columns)).sort_by("string").to_pylist()
    values = {name: value for name, (_, value, _) in EXTRAS.items()} | changed
    assert stored == parts == [values, dict.fromkeys(columns)]

    export(output.root, "hf", f"{place}-hf")
    metadata = pq.read_table(f"{place}-hf/metadata.parquet").select(list(columns))
    assert metadata.to_pylist() == stored
    assert all(readers_take(kind) for kind in metadata.schema.types)
    # `videofolder` breaks at the higher half of their values.
    assert pa.uint64() not in metadata.schema.types
    export(output.root, "webdataset", place)
    first, second = (json.loads(files["json"]) for files in samples(place).values())
    plain = {name: value for name, (_, _, value) in EXTRAS.items()} | changed
    assert {name: first[name] for name in columns} == plain
    assert {name: second[name] for name in columns} == dict.fromkeys(columns)
