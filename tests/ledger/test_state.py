"""Which rows are done, failed or lost, and how often they were tried."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tests.ledger.parts import attempts, entry, expected, found, of_row, table, write
from vidgen_dist import ledger, media
from vidgen_dist.ledger import LedgerEntry, LedgerWriter, read_ledger, summary
from vidgen_dist.ledger.entries import entry_rows
from vidgen_dist.storage.folder import Storage


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
    assert state.has_entries(pa.array(list("abcd"))).tolist() == [
        any(e.id == id for e in entries) for id in "abcd"
    ]


def test_a_state_travels(output: Storage) -> None:
    write(output, entry("a"), entry("b", "failed"))
    state = pickle.loads(pickle.dumps(read_ledger(output)))
    assert (state.is_done("a", "f"), state.is_done("b", "f"), state.failed) == (True, False, 1)


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


@given(parts=st.lists(st.lists(attempts, max_size=4), max_size=4))
def test_the_latest_outcome_of_each_id_is_found(parts: list[list[LedgerEntry]]) -> None:
    entries = [each for part in parts for each in part]
    state = found(parts)
    rows = pa.Table.from_batches([entry_rows([each], ledger.SCHEMA) for each in entries], ledger.SCHEMA)
    places = state.latest_outcomes(rows.select(ledger.OUTCOME_COLUMNS))
    latest = {(each.id, place) for each, place in zip(entries, places.tolist(), strict=True) if place >= 0}
    assert len(latest) == len({place for _, place in latest}) == len({each.id for each in entries})
    assert all(place < state.size for _, place in latest)
    statuses = [(each.id, each.status) for each, place in zip(entries, places, strict=True) if place >= 0]
    assert dict(statuses) == expected(entries, state)["verdicts"]
    assert len(set(statuses)) == len(latest)
