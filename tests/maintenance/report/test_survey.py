"""What is counted of a ledger: each row once, by its latest outcome."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.maintenance.report.outputs import failure, put_entries, video
from vidgen_dist import ledger
from vidgen_dist.ledger import read_ledger
from vidgen_dist.maintenance.report.sample import Group
from vidgen_dist.maintenance.report.survey import Survey, entries_of, survey_ledger
from vidgen_dist.storage.folder import Storage, open_storage


def survey_of(output: Storage, rows: int = 100) -> Survey:
    return survey_ledger(output, read_ledger(output), rows)


@pytest.fixture
def output(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


def test_figures(output: Storage) -> None:
    put_entries(
        output,
        video(output, "a", 0),
        video(output, "b", 1),
        video(output, "c", 2, seconds_encode=None),
        failure("d", 0),
        failure("e", 1),
        failure("f", 3),
    )
    found = survey_of(output)
    assert (found.videos, found.failed, found.lost, found.rows) == (3, 3, 0, 6)
    assert found.failures == {"MediaError": 2, "NumericalError": 1}
    assert (found.flagged, found.flags) == (1, {"black": 1})
    # Three clips of three frames at 8 per second.
    assert found.footage == pytest.approx(9 / 8)
    assert found.bytes == sum(output.sizes("videos").values())
    assert found.stages["encode"].count == 2
    assert found.stages["denoise"].seconds == pytest.approx(63)
    assert found.render_seconds.seconds == pytest.approx(63 + 0.2 + 9 + 1.5)
    assert found.figures["mean_luma"].quantile(0.5) == pytest.approx(0.31, abs=1e-3)
    assert found.done_at.series(10)[1].sum() == 3


def test_a_row_counts_by_its_latest_outcome(output: Storage) -> None:
    put_entries(output, failure("a", 0, error_class="OSError"), failure("b", 0), video(output, "c", 0))
    put_entries(output, video(output, "a", 3, fingerprint="f", attempt=2), failure("b", 1, attempt=2))
    there = video(output, "d", 6)
    put_entries(output, there)
    lost = {"error_class": "VideoMissing", "error_message": "there is no such file"}
    same = {"fingerprint": there.fingerprint, "finished_at": there.finished_at, "attempt": there.attempt}
    put_entries(output, ledger.LedgerEntry(id="d", status="lost", uri=there.uri, **same, **lost))
    found = survey_of(output)
    assert (found.videos, found.failed, found.lost) == (2, 1, 1)
    assert found.failures == {"MediaError": 1, "VideoMissing": 1}
    rows = {row["id"]: row for rows in found.sample.values() for row in rows}
    assert [rows[name]["status"] for name in "abcd"] == ["done", "failed", "done", "lost"]
    assert (rows["a"]["attempt"], rows["b"]["attempt"]) == (2, 2)


def test_what_is_entered_twice_counts_once(output: Storage) -> None:
    entries = [video(output, "a", 1), failure("b")]
    for _ in range(3):
        put_entries(output, *entries)
    found = survey_of(output)
    assert (found.videos, found.failed) == (1, 1)
    assert sum(map(len, found.sample.values())) == 2


def test_what_is_entered_meanwhile_is_left_out(output: Storage) -> None:
    put_entries(output, failure("a", 0), video(output, "b", 1))
    state = read_ledger(output)
    put_entries(output, video(output, "a", 5, fingerprint="f", attempt=2), video(output, "new", 6))
    found = survey_ledger(output, state, 10)
    assert (found.videos, found.failed) == (1, 1)


def test_groups(output: Storage) -> None:
    put_entries(
        output,
        video(output, "a", 1),
        video(output, "b", 2, flags=["frozen", "noise"]),
        # A flag of another release.
        video(output, "c", 3, flags=["upside-down"]),
        video(output, "d", 4, flags=None),
        failure("e"),
    )
    groups = {group: [row["id"] for row in rows] for group, rows in survey_of(output).sample.items()}
    assert groups[Group(0, "NumericalError")] == ["e"]
    assert (groups[Group(1, "frozen")], groups[Group(1, "upside-down")]) == (["b"], ["c"])
    assert sorted(groups[Group(2, "")]) == ["a", "d"]


def test_nothing(output: Storage) -> None:
    found = survey_of(output)
    assert (found.rows, found.sample, found.failures) == (0, {}, {})


def test_whose_machine_it_was_is_not_read(output: Storage) -> None:
    put_entries(output, video(output, "a", 1))
    ((row,),) = survey_of(output).sample.values()
    assert "worker" not in row


def test_entries_of_some_rows(output: Storage) -> None:
    put_entries(output, failure("a", 0), video(output, "b", 0), video(output, "c", 1))
    put_entries(output, video(output, "a", 3, fingerprint="f", attempt=2))
    found = entries_of(output, {"a", "c", "d"})
    assert {name: (row["id"], row["status"], row["attempt"]) for name, row in found.items()} == {
        "a": ("a", "done", 2),
        "c": ("c", "done", 1),
    }
    assert "worker" not in found["a"]
