"""The ledger: parts, the merge, resume, dead letters."""

from __future__ import annotations

import dataclasses
import pickle
import random
import threading
import uuid
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidgen_dist import ledger, media
from vidgen_dist.digests import text_hashes
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import LedgerEntry, LedgerWriter, merging, read_ledger, summary, writing
from vidgen_dist.ledger import attempts as attempts_module
from vidgen_dist.ledger import state as state_module
from vidgen_dist.ledger.entries import entry_rows
from vidgen_dist.ledger.merging import Merge
from vidgen_dist.storage.faults import StorageError
from vidgen_dist.storage.folder import Storage, open_storage

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def entry(id: str = "row", status: str = "done", at: float = 0, **values: object) -> LedgerEntry:
    given: dict = {"fingerprint": "f", "attempt": 1, "finished_at": NOON + timedelta(seconds=at)}
    given |= {"uri": "/out/videos/aa/row.mp4"} if status == "done" else {"error_class": "ValueError"}
    return LedgerEntry(id=id, status=status, **(given | values))


@pytest.fixture
def output(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "out")


@pytest.fixture(params=["local", "s3"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(tmp_path / "out")
    return open_storage(f"s3://{request.getfixturevalue('s3_bucket')}/run")


def write(
    output: Storage, *entries: LedgerEntry, writer: str = "w", passthrough: pa.Schema | None = None
) -> None:
    """One part."""
    with LedgerWriter(
        output, writer, passthrough, max_entries=10**9, max_seconds=float("inf")
    ) as ledger_writer:
        # The very first entry is due at once; here all are to share a part.
        ledger_writer._last_part = 0.0
        for each in entries:
            ledger_writer.append(each)


def table(output: Storage) -> pa.Table:
    parts = [pq.read_table(pa.BufferReader(output.read_bytes(name))) for name in output.list("ledger")]
    return pa.concat_tables(parts)


# --- entries and schema ------------------------------------------------------------------------------


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
    assert ledger.with_types_before(output, now) == now
    write(output, entry("a", extra={"m": [("x", 1)], "u": str(row_id)}), passthrough=before)
    same = ledger.with_types_before(output, now)
    assert same.types == [pa.uuid(), maps, pa.string(), pa.list_(pa.string())]
    extra = {"m": [{"key": "x", "value": 1}], "u": str(row_id), "new": ["y"]}
    write(output, entry("b", extra=extra), entry("c"), passthrough=same)
    read = pq.read_table(output.uri("ledger")).sort_by("id").select(["m", "u"]).to_pylist()
    assert read == [{"m": [("x", 1)], "u": row_id}] * 2 + [{"m": None, "u": None}]
    # Whoever stored another type under this name goes on with the manifest's.
    other = pa.schema([("u", pa.int64()), ("m", pa.list_(pa.string()))])
    assert ledger.with_types_before(output, other) == other


def test_all_parts_open_as_one_table(output: Storage) -> None:
    passthrough = pa.schema([("caption", pa.string())])
    write(output, entry("a"), writer="w0", passthrough=passthrough)
    write(output, entry("b", "failed"), writer="w1", passthrough=passthrough)
    files = [Path(output.uri(name)) for name in output.list("ledger")]
    schemas = {pq.read_schema(file).to_string() for file in files}
    assert len(schemas) == 1
    assert ds.dataset(output.uri("ledger")).to_table().num_rows == 2
    assert {pq.ParquetFile(file).metadata.row_group(0).column(0).compression for file in files} == {"ZSTD"}


# --- writing -----------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(writing.time, "monotonic", lambda: now[0])
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


# --- the merge ---------------------------------------------------------------------------------------


def test_no_ledger_is_an_empty_state(anywhere: Storage) -> None:
    state = read_ledger(anywhere)
    assert (state.done, state.failed, state.failures, state.parts) == (0, 0, {}, ())
    assert not state.is_done("a", "f")
    assert state.attempts("a", "f") == 0


def test_done_and_failed(anywhere: Storage) -> None:
    write(anywhere, entry("a"), entry("b", "failed", error_class="MediaError", attempt=2), writer="w0")
    write(anywhere, entry("c", "failed"), entry("d", "failed"), writer="w1")
    write(anywhere, entry("d", at=5, attempt=2), writer="w1")
    state = read_ledger(anywhere)
    assert [state.is_done(id, "f") for id in "abcde"] == [True, False, False, True, False]
    assert [state.attempts(id, "f") for id in "abcde"] == [1, 2, 1, 2, 0]
    assert not state.is_done("a", "g")
    assert state.attempts("a", "g") == 0
    assert (state.done, state.failed, state.failures) == (2, 2, {"MediaError": 1, "ValueError": 1})


def test_a_failure_after_a_video_leaves_the_video(output: Storage) -> None:
    write(output, entry("a", at=0), entry("a", "failed", at=9, attempt=2))
    state = read_ledger(output)
    assert state.is_done("a", "f")
    assert (state.done, state.failed) == (1, 0)
    assert state.attempts("a", "f") == 2


def test_another_fingerprint_takes_the_videos_place(output: Storage) -> None:
    write(output, entry("a", at=0, fingerprint="old"))
    write(output, entry("a", "failed", at=1, fingerprint="new"))
    state = read_ledger(output)
    assert state.is_done("a", "old"), "a failure replaces no file"
    assert not state.is_done("a", "new")
    assert (state.done, state.failed) == (0, 1)
    write(output, entry("a", at=2, fingerprint="new", attempt=2))
    state = read_ledger(output)
    assert state.is_done("a", "new")
    assert not state.is_done("a", "old"), "its file is gone"
    assert (state.done, state.failed) == (1, 0)
    write(output, entry("a", at=3, fingerprint="old", attempt=2))
    state = read_ledger(output)
    assert state.is_done("a", "old")
    assert not state.is_done("a", "new")
    assert state.done == 1


def test_the_latest_failure_is_the_dead_letter(output: Storage) -> None:
    classes = ["TimeoutError", "ValueError", "MemoryError"]
    for index, name in enumerate(classes):
        write(output, entry("a", "failed", at=index, attempt=index + 1, error_class=name))
    state = read_ledger(output)
    assert state.failures == {"MemoryError": 1}
    assert state.attempts("a", "f") == 3


def test_a_lost_video_is_rendered_again(anywhere: Storage) -> None:
    write(
        anywhere,
        entry("a", at=5, uri="there"),
        entry("b", at=5),
        entry("c", at=5),
        entry("c", "failed", at=0),
    )
    lost = [entry(id, "lost", at=5, error_class="VideoMissing") for id in "ac"]
    write(anywhere, *lost)
    state = read_ledger(anywhere)
    assert [state.is_done(id, "f") for id in "abc"] == [False, True, False]
    assert [state.attempts(id, "f") for id in "abc"] == [1, 1, 1]
    assert (state.done, state.failed, dict(state.failures)) == (1, 0, {})
    assert state.dead_letters(pa.array(["a", "b", "c"])).tolist() == [-1, -1, -1]
    assert summary(anywhere, 3, [pa.array(["a", "b"]), pa.array(["c"])]).pending == 2
    assert not len(ledger.dead_letters(anywhere))
    write(anywhere, entry("a", at=6, attempt=2), entry("c", "failed", at=7, attempt=2), *lost)
    state = read_ledger(anywhere)
    assert [state.is_done(id, "f") for id in "abc"] == [True, True, False]
    assert (state.done, state.failed, dict(state.failures)) == (2, 1, {"ValueError": 1})
    assert ledger.dead_letters(anywhere)["id"].to_pylist() == ["c"]


def test_what_a_lost_video_replaced_is_not_there_either(output: Storage) -> None:
    write(output, entry("a", at=0, fingerprint="old"), entry("a", at=1, fingerprint="new"))
    write(output, entry("a", "lost", at=1, fingerprint="new"))
    state = read_ledger(output)
    assert not state.is_done("a", "new")
    assert not state.is_done("a", "old")
    assert (state.done, state.failed) == (0, 0)


def test_a_failure_counts_once_another_fingerprint_has_taken_the_videos_place(output: Storage) -> None:
    for at, (status, fingerprint) in enumerate([("done", "old"), ("done", "new"), ("failed", "old")]):
        write(output, entry("a", status, at=at, fingerprint=fingerprint))
    state = read_ledger(output)
    assert state.is_done("a", "new")
    assert (state.done, state.failed) == (0, 1)


attempts = st.builds(
    entry,
    id=st.sampled_from(["a", "b", "c"]),
    status=st.sampled_from(["done", "failed", "lost"]),
    at=st.integers(0, 3),
    fingerprint=st.sampled_from(["f", "g"]),
    attempt=st.integers(1, 3),
    error_class=st.sampled_from(["ValueError", "OSError", "MediaError"]),
)


def of_row(entries: list[LedgerEntry], id: str, fingerprint: str) -> list[LedgerEntry]:
    return [each for each in entries if (each.id, each.fingerprint) == (id, fingerprint)]


def video(entries: list[LedgerEntry]) -> LedgerEntry | None:
    """Of entries of one id and fingerprint the last word about the video, done or lost."""
    settled = [each for each in entries if each.status != "failed"]
    return max(settled, key=lambda e: (e.finished_at, e.attempt, e.status == "lost"), default=None)


def counting(entries: list[LedgerEntry], in_place: set[str]) -> LedgerEntry | None:
    """Of entries of one id and fingerprint the one that counts; videos in place are these fingerprints'."""
    failures = [each for each in entries if each.status == "failed"]
    failure = max(failures, key=lambda e: (e.finished_at, e.attempt, e.error_class), default=None)
    last = video(entries)
    gone = last is None or last.fingerprint not in in_place
    if last is None or (gone and failure and failure.finished_at > last.finished_at):
        return failure
    return last


def expected(entries: list[LedgerEntry], state: ledger.LedgerState) -> dict:
    """The rules of the module's docstring, one entry at a time; of videos that tie, the state says which."""
    live, verdicts = {}, {}
    for id in {each.id for each in entries}:
        rows = [rows for f in "fg" if (rows := of_row(entries, id, f))]
        videos = [last for last in map(video, rows) if last]
        # What is lost was in place: an older video, of another fingerprint, is long gone.
        order = [(each.finished_at, each.status == "lost", each.attempt) for each in videos]
        last = [each for each, rank in zip(videos, order, strict=True) if rank == max(order)]
        live[id] = {each.fingerprint for each in last if each.status == "done"}
        there = {fingerprint for fingerprint in live[id] if state.is_done(id, fingerprint)}
        latest = max(
            filter(None, (counting(each, there) for each in rows)),
            key=lambda e: (e.finished_at, e.status != "failed", e.status == "lost", e.attempt),
        )
        verdicts[id] = latest.status
    return {"live": live, "verdicts": verdicts}


def found(entries: list[list[LedgerEntry]]) -> ledger.LedgerState:
    """The state of a ledger of these parts, without storage."""
    merge = Merge()
    for group in entries:
        batches = [entry_rows([each], ledger.SCHEMA) for each in group]
        merge.add(pa.Table.from_batches(batches, ledger.SCHEMA), "x.parquet")
    return merge.state(())


def verdicts(state: ledger.LedgerState) -> tuple:
    keys = [(id, fingerprint) for id in "abc" for fingerprint in "fg"]
    return (
        [state.is_done(*key) for key in keys],
        [state.attempts(*key) for key in keys],
        (state.done, state.failed, state.failures),
        state.newest,
    )


@settings(deadline=None)
@given(
    entries=st.lists(attempts, max_size=12),
    seed=st.integers(0, 2**32),
    cuts=st.lists(st.integers(0, 30), max_size=4),
)
def test_merging_is_independent_of_order_and_repetition(
    entries: list[LedgerEntry], seed: int, cuts: list[int]
) -> None:
    state = found([entries])
    truth = expected(entries, state)
    for id in "abc":
        in_place = {fingerprint for fingerprint in "fg" if state.is_done(id, fingerprint)}
        live = truth["live"].get(id, set())
        assert in_place <= live
        assert len(in_place) == bool(live)
        for fingerprint in "fg":
            tried = [each.attempt for each in of_row(entries, id, fingerprint)]
            assert state.attempts(id, fingerprint) == max(tried, default=0)
    verdict = list(truth["verdicts"].values())
    assert (state.done, state.failed) == (verdict.count("done"), verdict.count("failed"))
    assert sum(state.failures.values()) == state.failed

    shuffled = random.Random(seed)
    again = entries + shuffled.choices(entries, k=5) if entries else []
    shuffled.shuffle(again)
    bounds = [0, *sorted(cuts), len(again)]
    parts = [again[start:end] for start, end in pairwise(bounds)]
    assert verdicts(found(parts)) == verdicts(state)


@given(entries=st.lists(attempts, max_size=8), later=st.lists(attempts, max_size=8))
def test_failures_undo_nothing_and_done_is_done_however_often(
    entries: list[LedgerEntry], later: list[LedgerEntry]
) -> None:
    before = found([entries])
    failures = [each for each in later if each.status == "failed"]
    after = found([failures, entries, entries])
    for id in "abc":
        for fingerprint in "fg":
            assert after.is_done(id, fingerprint) == before.is_done(id, fingerprint)
            assert after.attempts(id, fingerprint) >= before.attempts(id, fingerprint)


@given(entries=st.lists(attempts, max_size=12))
def test_many_are_looked_up_as_one_by_one(entries: list[LedgerEntry]) -> None:
    state = found([entries])
    keys = [(id, fingerprint) for id in "abcd" for fingerprint in "fgh"]
    outcomes = state.look_up(*(pa.array(column) for column in zip(*keys, strict=True)))
    for (id, fingerprint), done, tried in zip(keys, outcomes.done, outcomes.attempts, strict=True):
        alike = of_row(entries, id, fingerprint)
        assert done == state.is_done(id, fingerprint)
        assert tried == max((e.attempt for e in alike), default=0)
    ids = pa.array(list("abcd"))
    letters = state.dead_letters(ids)
    verdicts = expected(entries, state)["verdicts"]
    assert (letters >= 0).tolist() == [verdicts.get(id) == "failed" for id in "abcd"]
    by_class = [state.dead_letters(ids, name) for name in ("ValueError", "OSError", "MediaError", "KeyError")]
    assert np.array_equal(np.max(by_class, axis=0), letters)
    assert sum(np.count_nonzero(each >= 0) for each in by_class) == state.failed
    counts = state.count([ids[:1], ids[1:]])
    assert (counts.done, counts.failed, counts.failures) == (state.done, state.failed, state.failures)
    assert state.count([ids[:1]]).done == (verdicts.get("a") == "done")
    assert state.knows(pa.array(list("abcd"))).tolist() == [any(e.id == id for e in entries) for id in "abcd"]


def test_ids_whose_digests_begin_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    def alike(ids: pa.Array) -> np.ndarray:
        return text_hashes(ids) * np.array([0, 1], np.uint64)

    for module in (attempts_module, state_module):
        monkeypatch.setattr(module, "id_hashes", alike)
    state = found([[entry("b"), entry("a", "failed")], [entry("c", fingerprint="g"), entry("a", at=1)]])
    assert [state.is_done(id, "f") for id in "abcd"] == [True, True, False, False]
    assert state.is_done("c", "g")
    assert state.done == 3


def test_more_attempts_than_are_merged_at_once(output: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (attempts_module, merging):
        monkeypatch.setattr(module, "BATCH", 3)
    sizes = []
    merge = merging._best
    monkeypatch.setattr(
        merging, "_best", lambda rows, classes: sizes.append(len(rows)) or merge(rows, classes)
    )
    monkeypatch.setattr(merging, "_MERGE", 4)
    for at in range(4):
        failures = [
            entry(str(id), "failed", at=at, attempt=at + 1, error_class=f"E{at}") for id in range(4, 8)
        ]
        write(output, *(entry(str(id), at=at) for id in range(4)), *failures, writer=f"w{at}")
    state = read_ledger(output)
    assert len(sizes) > 2
    assert max(sizes) < 32
    assert (state.done, state.failed, state.failures) == (4, 4, {"E3": 4})
    assert [state.attempts(str(id), "f") for id in range(4, 8)] == [4] * 4


def test_a_state_travels(output: Storage) -> None:
    write(output, entry("a"), entry("b", "failed"))
    state = pickle.loads(pickle.dumps(read_ledger(output)))
    assert (state.is_done("a", "f"), state.is_done("b", "f"), state.failed) == (True, False, 1)


# --- parts that are none -----------------------------------------------------------------------------


def put_torn(output: Storage) -> str:
    write(output, *(entry(f"row-{index}") for index in range(200)))
    (whole,) = output.list("ledger")
    data = output.read_bytes(whole)
    output.write_bytes("ledger/x.parquet", data[: len(data) * 2 // 3])
    return "magic bytes"


def put_flipped(output: Storage) -> str:
    write(output, *(entry(f"row-{index}.{random.Random(index).random()}") for index in range(200)))
    (whole,) = output.list("ledger")
    data = bytearray(output.read_bytes(whole))
    ids = pq.read_metadata(pa.BufferReader(bytes(data))).row_group(0).column(0)
    data[(ids.dictionary_page_offset + ids.data_page_offset) // 2] ^= 1
    output.delete(whole)
    output.write_bytes("ledger/x.parquet", bytes(data))
    return ""


def put_table(output: Storage, changed: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(changed, sink)
    output.write_bytes("ledger/x.parquet", sink.getvalue().to_pybytes())


def one_row(**columns: pa.Array) -> pa.Table:
    whole = pa.Table.from_batches([entry_rows([entry()], ledger.SCHEMA)])
    for name, values in columns.items():
        whole = whole.set_column(whole.column_names.index(name), name, values)
    return whole


BAD = {
    "empty": lambda output: output.write_bytes("ledger/x.parquet", b""),
    "text": lambda output: output.write_bytes("ledger/x.parquet", b"id,status\n" * 10),
    "torn": put_torn,
    "flipped": put_flipped,
    "foreign": lambda output: put_table(output, pa.table({"prompt": ["a panda"]})),
    "missing column": lambda output: put_table(output, one_row().drop_columns(["finished_at"])),
    "null id": lambda output: put_table(output, one_row(id=pa.array([None], pa.string()))),
    "type": lambda output: put_table(output, one_row(attempt=pa.array(["first"]))),
    "status": lambda output: put_table(output, one_row(status=pa.array(["skipped"]))),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_part_that_is_none_is_named_never_skipped(kind: str, output: Storage) -> None:
    BAD[kind](output)
    for read in (read_ledger, summary):
        with pytest.raises(Refused, match=f"{output.uri('ledger')}/x.parquet: "):
            read(output)


def test_messages_say_what_is_wrong(output: Storage) -> None:
    for kind, message in {
        "foreign": "has no column 'id'",
        "null id": "column 'id' has 1 missing values",
        "type": "column 'attempt' is string, not int32",
        "status": "row 0: status: 'skipped' is not allowed; allowed: done, failed, lost",
    }.items():
        BAD[kind](output)
        with pytest.raises(Refused, match=message):
            read_ledger(output)


def test_other_files_in_the_folder(output: Storage) -> None:
    write(output, entry("a"))
    output.write_bytes("ledger/.hidden", b"")
    output.write_bytes("ledger/_SUCCESS", b"")
    assert read_ledger(output).done == 1
    output.write_bytes("ledger/part.parquet.gz", b"")
    with pytest.raises(Refused, match=r"part.parquet.gz: is no ledger part; allowed in ledger/: \*.parquet"):
        read_ledger(output)


def test_parts_merged_by_another_tool_are_read(output: Storage) -> None:
    write(output, entry("a"), entry("b", "failed"))
    write(output, entry("c"))
    widened = table(output)
    for name, type in {
        "attempt": pa.int64(),
        "id": pa.large_string(),
        "status": pa.dictionary(pa.int32(), pa.string()),
    }.items():
        widened = widened.set_column(widened.column_names.index(name), name, widened[name].cast(type))
    for name in output.list("ledger"):
        output.delete(name)
    put_table(output, widened)
    state = read_ledger(output)
    assert (state.done, state.failed) == (2, 1)
    assert state.is_done("c", "f")


def test_a_storage_that_fails_is_no_bad_part(output: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3):
        write(output, entry(str(index)))

    def refuse(_: Storage, path: str) -> bytes:
        raise StorageError(f"cannot read {path}: 503")

    monkeypatch.setattr(Storage, "read_bytes", refuse)
    with pytest.raises(StorageError, match="503"):
        read_ledger(output)


# --- summary, commit ---------------------------------------------------------------------------------


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


def test_killed_between_video_and_entry(anywhere: Storage, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    local = media.write_video(frames, tmp_path / "clip.mp4", format="mp4", fps=8, crf=18)
    writer = LedgerWriter(anywhere, "w0", max_seconds=float("inf"))
    writer._last_part = 0.0
    uri = media.commit_video(anywhere, local, "row")
    writer.append(entry("row", uri=uri))
    # Killed here: the video is there, its entry nowhere.
    del writer
    assert len(anywhere.list("videos")) == 1
    assert not read_ledger(anywhere).is_done("row", "f")

    assert media.commit_video(anywhere, local, "row") == uri
    write(anywhere, entry("row", uri=uri, sha256=local.sha256, bytes=local.bytes), writer="w1")
    assert read_ledger(anywhere).is_done("row", "f")
    (video,) = anywhere.list("videos")
    assert anywhere.uri(video) == uri == table(anywhere)["uri"].to_pylist()[0]
    assert anywhere.read_bytes(video) == local.path.read_bytes()
