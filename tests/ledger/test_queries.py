"""The summary and the dead letters."""

from __future__ import annotations

import dataclasses

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ledger.parts import attempts, entry, write
from vidgen_dist import ledger
from vidgen_dist.ledger import LedgerEntry, read_ledger, summary
from vidgen_dist.storage.folder import Storage, open_storage


def test_summary(output: Storage) -> None:
    assert summary(output, 5) == ledger.Summary(5, 0, 0, 5, {})
    failures = [entry(f"f{index}", "failed", error_class=name) for index, name in enumerate(("A", "B", "B"))]
    write(output, entry("a"), entry("a"), *failures)
    ids = pa.array(["a", *(f"f{index}" for index in range(9))])
    counted = summary(output, 10, [ids[:4], ids[4:]])
    assert (counted.total, counted.done, counted.failed, counted.pending) == (10, 1, 3, 6)
    assert list(counted.failures.items()) == [("B", 2), ("A", 1)]
    assert summary(output) == dataclasses.replace(counted, total=None, pending=None)
    # Of rows that the manifest has no more, nothing is counted.
    fewer = summary(output, 3, [pa.array(["f0", "f1", "new"])])
    assert fewer == ledger.Summary(3, 0, 2, 1, {"A": 1, "B": 1})


@given(entries=st.lists(attempts, max_size=12), cut=st.integers(0, 12))
def test_dead_letters_are_the_rows_that_count_as_failed(
    tmp_path_factory: pytest.TempPathFactory, entries: list[LedgerEntry], cut: int
) -> None:
    output = open_storage(tmp_path_factory.mktemp("out"))
    for part in (entries[:cut], entries[cut:], entries[:3]):
        write(output, *part)
    state, letters = read_ledger(output), ledger.dead_letters(output)
    assert letters.schema.equals(ledger.DEAD_LETTERS)
    rows = letters.to_pylist()
    assert len({row["id"] for row in rows}) == len(rows) == state.failed
    classes = [row["error_class"] for row in rows]
    assert {name: classes.count(name) for name in classes} == state.failures
    assert [row["finished_at"] for row in rows] == sorted(row["finished_at"] for row in rows)
    for row in rows:
        alike = [e for e in entries if e.id == row["id"]]
        assert not any(e.status == "done" and e.finished_at > row["finished_at"] for e in alike), "done since"
        own = [
            e for e in alike if e.finished_at == row["finished_at"] and e.error_class == row["error_class"]
        ]
        assert row["attempts"] in {
            max(e.attempt for e in alike if e.fingerprint == letter.fingerprint) for letter in own
        }


@given(entries=st.lists(attempts, max_size=12), cut=st.integers(0, 12))
def test_the_latest_entries_are_one_for_each_id_and_agree_with_the_counts(
    tmp_path_factory: pytest.TempPathFactory, entries: list[LedgerEntry], cut: int
) -> None:
    output = open_storage(tmp_path_factory.mktemp("out"))
    for part in (entries[:cut], entries[cut:], entries[:3]):
        write(output, *part)
    state, latest = read_ledger(output), ledger.latest(output)
    assert latest.schema.equals(ledger.SCHEMA)
    rows = latest.to_pylist()
    by_id = {row["id"]: row["status"] for row in rows}
    assert len(by_id) == len(rows)
    assert by_id.keys() == {each.id for each in entries}
    statuses = list(by_id.values())
    assert (statuses.count("done"), statuses.count("failed")) == (state.done, state.failed)
    dead = (row for row in rows if row["status"] == "failed")
    failed = {row["id"]: (row["error_class"], row["finished_at"]) for row in dead}
    letters = ledger.dead_letters(output).to_pylist()
    assert failed == {row["id"]: (row["error_class"], row["finished_at"]) for row in letters}
    for row in rows:
        assert any(each.status == row["status"] and each.id == row["id"] for each in entries)


def test_the_latest_entries_with_some_columns(output: Storage) -> None:
    write(output, entry("a", "done", 0), entry("b", "failed", 1), entry("a", "failed", 2, fingerprint="g"))
    whole = ledger.latest(output)
    for columns in (("status", "id"), ("uri",), tuple(ledger.SCHEMA.names)):
        assert ledger.latest(output, columns).equals(whole.select(columns))
