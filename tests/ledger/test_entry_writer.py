"""The writer: when a part is due, its name, and entries that are refused."""

from __future__ import annotations

import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.ledger.parts import entry, table, write
from vidgen_dist import ledger
from vidgen_dist.ledger import LedgerWriter, entry_writer, read_ledger
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import Storage


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(entry_writer.time, "monotonic", lambda: now[0])
    return now


def test_parts_are_due_by_count_and_by_seconds(output: Storage, clock: list[float]) -> None:
    writer = LedgerWriter(output, "w", max_entries=3, max_seconds=10)

    def parts() -> list[int]:
        return [pq.read_metadata(output.uri(name)).num_rows for name in output.list("ledger")]

    assert parts() == []
    writer.append(entry("0"))
    assert parts() == [1], "the first entry waits for nothing"
    writer.append(entry("1"))
    assert parts() == [1]
    clock[0] += 9
    writer.append(entry("2"))
    assert parts() == [1]
    writer.append(entry("3"))
    assert parts() == [1, 3], "three wait"
    clock[0] += 100
    writer.flush_due()
    assert parts() == [1, 3], "none wait"
    writer.append(entry("4"))
    assert parts() == [1, 3, 1], "entries that come rarely wait for nothing"
    writer.append(entry("5"))
    clock[0] += 10
    writer.flush_due()
    assert parts() == [1, 3, 1, 1]
    writer.append(entry("6"))
    assert writer.waiting == 1
    writer.flush()
    writer.flush()
    assert parts() == [1, 3, 1, 1, 1]
    assert writer.waiting == 0


def test_a_part_is_named_by_time_writer_and_number(output: Storage) -> None:
    with LedgerWriter(output, "node-1.2_a") as writer:
        for index in range(3):
            writer.append(entry(str(index)))
            writer.flush()
    names = output.list("ledger")
    assert [name.split("-node-1.2_a-")[1][:6] for name in names] == ["000000", "000001", "000002"]
    assert all(name.startswith("ledger/20") and name.endswith(".parquet") for name in names)
    with pytest.raises(ValueError, match="writer_id"):
        LedgerWriter(output, "../w")


def test_a_block_that_raises_keeps_its_entries(output: Storage) -> None:
    def interrupted() -> None:
        with LedgerWriter(output, "w") as writer:
            writer.append(entry("a"))
            writer.append(entry("b"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_ledger(output).done == 2


def test_a_refused_flush_keeps_the_entries(output: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LedgerWriter(output, "w", max_seconds=0)

    def refuse(*_: object) -> None:
        raise StorageError("cannot write: 503")

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write_bytes", refuse)
        for id in ("a", "b"):
            with pytest.raises(StorageError, match="503"):
                writer.append(entry(id))
        with pytest.raises(StorageError, match="503"):
            writer.flush()
        assert writer.waiting == 2
    writer.flush()
    assert writer.waiting == 0
    assert sorted(table(output)["id"].to_pylist()) == ["a", "b"]


def test_a_bad_entry_does_not_hold_up_the_others(output: Storage) -> None:
    writer = LedgerWriter(output, "w", pa.schema([("score", pa.float32())]), max_seconds=float("inf"))
    writer.append(entry("good"))
    bad = {
        "extra column": {"extra": {"colour": 1}},
        "own column": {"extra": {"seed": 1}},
        "type": {"extra": {"score": "high"}},
        "range": {"seed": 2**63},
        "text": {"uri": "\ud800"},
        "missing": {"fingerprint": None},
    }
    for values in bad.values():
        with pytest.raises(ValueError, match=r"ledger entry 'bad': .*(seed|score|colour|uri|fingerprint)"):
            writer.append(entry("bad", **values))  # type: ignore[arg-type]
    writer.append(entry("better"))
    # Nor those that come together with it.
    with pytest.raises(ValueError, match="ledger entry 'bad': seed: "):
        writer.take([entry("best"), entry("bad", seed=2**63), entry("last")])
    assert writer.waiting == 3
    writer.flush()
    assert sorted(table(output)["id"].to_pylist()) == ["best", "better", "good", "last"]


def test_error_messages_fit(output: Storage) -> None:
    write(
        output, entry("a", "failed", error_message="x" * 10_000), entry("b", "failed", error_message="\ud800")
    )
    messages = table(output)["error_message"].to_pylist()
    assert messages[0] == "x" * (ledger.MAX_MESSAGE - 3) + "..."
    assert messages[1] == "\\ud800"


def test_many_threads_one_writer(output: Storage) -> None:
    writer = LedgerWriter(output, "w", max_entries=7)

    def work(name: int) -> None:
        for index in range(40):
            writer.append(entry(f"{name}-{index}"))
            if index % 11 == 0:
                writer.flush()

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.flush()
    ids = table(output)["id"].to_pylist()
    assert len(ids) == 160
    assert len(set(ids)) == 160
