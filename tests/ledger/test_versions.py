"""Ledgers with parts of the first versions, which measured nothing, beside present ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from vidgen_dist import ledger
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import LedgerEntry, LedgerWriter, compact, dead_letters, read_ledger
from vidgen_dist.output.ledger_entries import latest_entries
from vidgen_dist.storage.folder import Storage, open_storage

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MEASURED = {
    "mean_luma": 0.01,
    "motion": 0.0,
    "clipped": 0.75,
    "noisiness": 0.25,
    "flags": ["black", "frozen"],
    "loras": [{"id": "org/style", "revision": "c0ffee", "digest": "d", "scale": 0.5}],
}
NOTHING = dict.fromkeys(MEASURED)


def entry(id: str, status: str = ledger.DONE, **values: object) -> LedgerEntry:
    given: dict = {"fingerprint": "f", "attempt": 1, "finished_at": NOON, "extra": {"source": f"of {id}"}}
    given |= {"uri": f"/out/videos/{id}.mp4"} if status == ledger.DONE else {"error_class": "ValueError"}
    return LedgerEntry(id=id, status=status, **(given | values))


@pytest.fixture(params=["old first", "new first"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """The rows `a`, `b` (failed) in an old part, `c`, `d` (of one frame), `b` again in a new one."""
    output = open_storage(tmp_path / "out")
    source = pa.schema([("source", pa.string())])
    with LedgerWriter(output, "w", source, max_entries=3, max_seconds=1e9) as writer:
        writer._last_part = 0.0
        for each in (entry("a"), entry("b", ledger.FAILED)):
            writer.append(each)
        writer.flush()
        (part,) = output.list("ledger")
        for each in (entry("c", **MEASURED), entry("d", **MEASURED | {"motion": None, "flags": []})):
            writer.append(each)
        writer.append(entry("b", ledger.FAILED, attempt=2, finished_at=NOON + timedelta(hours=1)))
    old = pq.read_table(output.uri(part)).drop_columns(list(ledger.OPTIONAL_COLUMNS))
    output.delete(part)
    name = "ledger/0-old.parquet" if request.param == "old first" else "ledger/9-old.parquet"
    with output.create(name) as file:
        pq.write_table(old, file)
    return output


def test_our_reader_reads_both(output: Storage) -> None:
    state = read_ledger(output)
    assert (state.done, state.failed, state.attempts("b", "f")) == (3, 1, 2)
    assert dead_letters(output).column("id").to_pylist() == ["b"]
    found = latest_entries(output)
    measured = {
        row_id: {name: entry[name] for name in ledger.OPTIONAL_COLUMNS}
        for row_id, entry in sorted(found.items())
    }
    of_one_frame = MEASURED | {"motion": None, "flags": []}
    assert measured == {"a": NOTHING, "b": NOTHING, "c": MEASURED, "d": of_one_frame}


def test_other_tools_read_both(output: Storage) -> None:
    """Read as one table with our schema and, as pandas does, with the first part's."""
    whole = ds.dataset(output.uri("ledger"), schema=ledger.SCHEMA).to_table().sort_by("id")
    assert whole.column("flags").to_pylist() == [None, None, None, ["black", "frozen"], []]
    assert whole.column("mean_luma").to_pylist() == [None, None, None, 0.01, 0.01]
    plain = pq.read_table(output.uri("ledger")).sort_by("id")
    assert plain.column("id").to_pylist() == ["a", "b", "b", "c", "d"]


def test_compaction_makes_one_part_of_both(output: Storage) -> None:
    done = compact(output, min_age=timedelta(0))
    assert (done.before, done.after, done.entries) == (2, 1, 5)
    table = pq.read_table(output.uri("ledger")).sort_by("id")
    assert table.schema.names == [*ledger.SCHEMA.names, "source"]
    assert table.column("motion").to_pylist() == [None, None, None, 0.0, None]
    assert table.column("source").to_pylist() == ["of a", "of b", "of b", "of c", "of d"]
    assert read_ledger(output).done == 3


def test_parts_of_versions_that_measured_less(output: Storage) -> None:
    (name,) = (name for name in output.list("ledger") if not name.endswith("-old.parquet"))
    table = pq.read_table(output.uri(name)).drop_columns(["noisiness"])
    with output.create(name) as file:
        pq.write_table(table, file)
    found = latest_entries(output)
    assert {name: found["c"][name] for name in ledger.OPTIONAL_COLUMNS} == MEASURED | {"noisiness": None}
    compact(output, min_age=timedelta(0))
    assert pq.read_table(output.uri("ledger")).column("noisiness").to_pylist() == [None] * 5


def test_any_other_column_may_not_be_missing(output: Storage) -> None:
    (name,) = (name for name in output.list("ledger") if name.endswith("-old.parquet"))
    table = pq.read_table(output.uri(name)).drop_columns(["attempt"])
    with output.create(name) as file:
        pq.write_table(table, file)
    with pytest.raises(Refused, match="it has no column 'attempt'"):
        read_ledger(output)
