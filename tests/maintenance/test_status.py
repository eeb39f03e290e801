"""Commands that need only an output: `vidgen status`, `failures` and `compact`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.commands import Vidgen, run_apart
from tests.maintenance.outputs import write_status
from vidgen_dist.ledger import DEAD_LETTERS, RECENT, LedgerEntry, LedgerWriter
from vidgen_dist.maintenance.status import read_status
from vidgen_dist.manifest import open_manifest
from vidgen_dist.output.lease import acquire
from vidgen_dist.output.status_file import (
    SlowRow,
    digest_of_counted,
    forget_counts,
)
from vidgen_dist.output_layout import LEASE_FILE, STATUS_FILE
from vidgen_dist.storage.folder import open_storage


@pytest.fixture
def output(tmp_path: Path, make_manifest: Callable[..., str]) -> Path:
    """Eight rows: two done, of which one failed before; three failed, one twice; three pending."""
    return write_output(tmp_path / "out", make_manifest(*map(str, range(8))))


def write_output(folder: Path, manifest: str, rest: timedelta = timedelta(0)) -> Path:
    """The output of a run that did nothing for so long."""
    folder.mkdir()
    run_file = f"model: {{id: m}}\nmanifest: {{uri: '{manifest}'}}\noutput: {{uri: '{folder}'}}\n"
    (folder / "run.yaml").write_text(run_file)
    now = datetime.now(UTC) - rest
    with LedgerWriter(open_storage(folder), "w", max_entries=2) as writer:
        for row, attempt, error, age in (
            ("a", 1, "OSError", 100),
            ("a", 2, None, 90),
            ("b", 1, None, 30),
            ("c", 1, "OSError", 80),
            ("c", 2, "MediaError", 70),
            ("d", 1, "OSError", 60),
            ("e", 1, "[bold]", 50),
        ):
            writer.append(
                LedgerEntry(
                    id=row,
                    status="failed" if error else "done",
                    fingerprint="f",
                    attempt=attempt,
                    finished_at=now - timedelta(seconds=age),
                    uri=None if error else "somewhere",
                    error_class=error,
                    error_message=error and f"{row} broke [red]{attempt}",
                )
            )
    return folder


def test_status_says_pace_and_time_left(output: Path, vidgen: Vidgen) -> None:
    found = read_status(str(output))
    counts = {name: found[name] for name in ("total", "done", "failed", "pending")}
    assert counts == {"total": 8, "done": 2, "failed": 3, "pending": 3}
    assert found["failures"] == {"MediaError": 1, "OSError": 1, "[bold]": 1}
    # Two videos in the 90 seconds since the first.
    assert found["videos_per_minute"] == pytest.approx(2 * 60 / 90, rel=0.2)
    assert found["seconds_left"] == pytest.approx(3 * 60 / found["videos_per_minute"])
    status, shown, _ = vidgen("status", output)
    assert status == 0
    lines = [line.split() for line in shown.splitlines()]
    assert ["1", "MediaError"] in lines
    assert ["1", "[bold]"] in lines
    assert any(line[0] == "pace" and line[2] == "videos/min" for line in lines)
    assert any(line[:2] == ["time", "left"] for line in lines)


def test_status_of_a_run_that_rests(
    tmp_path: Path, make_manifest: Callable[..., str], vidgen: Vidgen
) -> None:
    manifest = make_manifest(*map(str, range(8)))
    output = write_output(tmp_path / "out", manifest, rest=timedelta(seconds=RECENT))
    found = json.loads(vidgen("status", output, "--json")[1])
    assert (found["videos_per_minute"], found["seconds_left"], found["done"]) == (None, None, 2)
    assert "time left" not in vidgen("status", output)[1]


def test_a_run_at_work_is_asked_itself(output: Path, vidgen: Vidgen, monkeypatch: pytest.MonkeyPatch) -> None:
    write_status(output)

    def never(*_: object) -> None:
        raise AssertionError("a ledger of any size would be read")

    monkeypatch.setattr("vidgen_dist.ledger.summary", never)
    found = json.loads(vidgen("status", output, "--json")[1])
    assert [found[name] for name in ("total", "done", "failed", "pending")] == [8, 5, 1, 2]
    assert (found["failures"], found["seconds_left"]) == ({"VideoRejected": 1}, 240)
    assert (found["run"]["live"], found["run"]["slow_rows"][0]["row"]) == (True, "[x]")
    assert found["run"]["gangs"][0]["state"] == "loading"
    shown = vidgen("status", output)[1]
    assert "0:04:00" in shown
    assert "1 loading, 2 rendering" in shown
    assert "row [x] on r-1: for 10 min 00 s, usually 2 min 00 s" in shown
    assert "gang r-2: 2.5 times the usual" in shown


def test_only_the_worst_stragglers_are_shown(output: Path, vidgen: Vidgen) -> None:
    write_status(output, slow_rows=[SlowRow(f"row{n}", "r-1", 600.0, 120.0) for n in range(100)])
    shown = vidgen("status", output)[1]
    assert ("row9 " in shown, "row10 " in shown, "and 91 more" in shown) == (True, False, True)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"age": 7200.0}, "r no sign of life for 2 h 00 min"),
        ({"state": "interrupted"}, "r interrupted"),
        ({"state": "stopped", "message": "the disk is full"}, ": the disk is full"),
        ({"state": "finished"}, "r finished"),
    ],
)
def test_of_a_run_that_is_not_at_work_the_ledger_is_asked(
    output: Path, vidgen: Vidgen, fields: dict[str, Any], said: str
) -> None:
    write_status(output, **fields)
    found = json.loads(vidgen("status", output, "--json")[1])
    assert [found[name] for name in ("total", "done", "failed", "pending")] == [8, 2, 3, 3]
    assert not found["run"]["live"]
    # Though there were videos in the last ten minutes.
    assert (found["videos_per_minute"], found["seconds_left"]) == (None, None)
    shown = vidgen("status", output)[1]
    assert said in shown
    assert "usual" not in shown
    assert "videos/min" not in shown
    assert "time left" not in shown


def counted_now(output: Path) -> str:
    manifest = open_manifest(output.parent / "manifest.parquet")
    return digest_of_counted((output / "run.yaml").read_bytes(), manifest)


def test_a_run_that_ended_is_asked_while_all_is_as_it_was(
    output: Path, vidgen: Vidgen, make_manifest: Callable[..., str]
) -> None:
    """The run had other settings than the videos in the ledger, and counts none of them."""
    same = {"state": "interrupted", "age": 0.0, "done": 0, "failed": 0, "pending": 8}

    def found() -> list[Any]:
        status = json.loads(vidgen("status", output, "--json")[1])
        return [status[name] for name in ("counted", "total", "done", "failed", "pending")]

    write_status(output, **same, counted=counted_now(output))
    assert found() == ["run", 8, 0, 0, 8]
    shown = vidgen("status", output)[1]
    assert "counted" not in shown
    assert "videos/min" not in shown
    for part in (output / "ledger").iterdir():
        part.rename(part.with_name("20200101T000000000000Z" + part.name[22:]))
    assert vidgen("compact", output)[0] == 0
    assert found() == ["run", 8, 0, 0, 8]
    forget_counts(open_storage(output))
    assert found() == ["ids", 8, 2, 3, 3]
    assert re.search(r"rows are counted +in the ledger, by the manifest's ids", vidgen("status", output)[1])
    # Somebody else entered something since.
    write_status(output, **same, counted=counted_now(output))
    with LedgerWriter(open_storage(output), "w") as writer:
        now = datetime.now(UTC)
        writer.append(
            LedgerEntry(id="h", status="done", fingerprint="f", attempt=1, finished_at=now, uri="u")
        )
    assert found() == ["ids", 8, 3, 3, 2]
    # Other settings, another manifest, none.
    write_status(output, **same, counted=counted_now(output))
    (output / "run.yaml").write_text((output / "run.yaml").read_text() + "seed: 3\n")
    assert found()[0] == "ids"
    write_status(output, **same, counted=counted_now(output))
    assert found()[0] == "run"
    make_manifest({"id": "b", "prompt": "b"}, {"id": "c", "prompt": "c"}, {"id": "new", "prompt": "n"})
    assert found() == ["ids", 3, 1, 1, 1]
    (output.parent / "manifest.parquet").unlink()
    assert found() == ["ledger", None, 3, 3, None]


def test_a_run_of_this_machine_that_was_killed_is_at_once_known_to_be_dead(
    output: Path, vidgen: Vidgen
) -> None:
    write_status(output)
    storage = open_storage(output)
    with acquire(storage, "r", print_line=print):
        left = storage.read_bytes(LEASE_FILE)
        assert json.loads(vidgen("status", output, "--json")[1])["run"]["live"]
        assert "at work since" in (shown := vidgen("status", output)[1])
        assert "last heard of " in shown
    storage.write_bytes(LEASE_FILE, left)
    found = json.loads(vidgen("status", output, "--json")[1])
    assert (found["run"]["live"], found["run"]["died"], found["done"]) == (False, True, 2)
    assert "r died; last heard of" in vidgen("status", output)[1]


def test_a_status_file_of_another_kind_is_left_aside(output: Path, vidgen: Vidgen) -> None:
    (output / STATUS_FILE).write_text('{"run": "r", "state": "runn')
    status, shown, _ = vidgen("status", output, "--json")
    assert (status, json.loads(shown)["done"], json.loads(shown)["run"]) == (0, 2, None)


def test_failures_are_those_not_done_since(output: Path, vidgen: Vidgen) -> None:
    status, shown, _ = vidgen("failures", output, "--json")
    assert status == 0
    rows = json.loads(shown)
    assert [(row["id"], row["error_class"], row["attempts"]) for row in rows] == [
        ("c", "MediaError", 2),
        ("d", "OSError", 1),
        ("e", "[bold]", 1),
    ]
    assert rows[0]["error_message"] == "c broke [red]2"
    assert datetime.now(UTC) - datetime.fromisoformat(rows[0]["finished_at"]) < timedelta(minutes=5)
    shown = vidgen("failures", output)[1]
    assert "c broke [red]2" in shown
    assert "[bold]" in shown
    assert "broke [red]1" in shown
    assert "OSError" in shown


def test_only_the_last_failures_are_shown(output: Path, vidgen: Vidgen) -> None:
    with LedgerWriter(open_storage(output), "w") as writer:
        for number in range(98):
            writer.append(
                LedgerEntry(
                    id=f"late {number}",
                    status="failed",
                    fingerprint="f",
                    attempt=1,
                    finished_at=datetime.now(UTC),
                    error_class="OSError",
                )
            )
    _, shown, said = vidgen("failures", output)
    assert "MediaError" not in shown
    assert "[bold]" in shown
    assert "the last 100 of 101" in said


def test_failures_as_a_file(
    output: Path, vidgen: Vidgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("letters.parquet", str(tmp_path / "sub" / "letters.parquet")):
        status, shown, _ = vidgen("failures", output, "--export", name)
        assert (status, "3 rows" in shown) == (0, True)
        found = pq.read_table(name)
        assert found.schema.equals(DEAD_LETTERS)
        assert found["id"].to_pylist() == ["c", "d", "e"]
    status, _, said = vidgen("failures", output, "--export", "letters.csv")
    assert (status, "allowed: *.parquet" in said) == (2, True)
    (tmp_path / "file").write_bytes(b"")
    assert vidgen("failures", output, "--export", "file/letters.parquet")[0] == 2
    for scheme, why in (("memory", "its own memory"), ("b", "Protocol not known: b")):
        status, shown, said = vidgen("failures", output, "--export", f"{scheme}://a/letters.parquet")
        assert (status, shown) == (2, "")
        assert why in said
        assert not Path(f"{scheme}:").exists()


def test_compact_changes_no_answer(output: Path, vidgen: Vidgen) -> None:
    before = json.loads(vidgen("failures", output, "--json")[1])
    parts = len(list((output / "ledger").iterdir()))
    assert f"{parts} parts are now {parts}; 0 entries" in vidgen("compact", output)[1]
    for part in (output / "ledger").iterdir():
        part.rename(part.with_name("20200101T000000000000Z" + part.name[22:]))
    assert f"{parts} parts are now 1; 7 entries were moved" in vidgen("compact", output)[1]
    assert "1 part is now 1; 0 entries were moved" in vidgen("compact", output)[1]
    assert json.loads(vidgen("failures", output, "--json")[1]) == before


@pytest.mark.parametrize("command", ["status", "failures", "compact"])
def test_what_is_no_output(vidgen: Vidgen, tmp_path: Path, command: str) -> None:
    status, _, said = vidgen(command, tmp_path)
    assert (status, "no run.yaml" in said) == (2, True)


@pytest.mark.parametrize("command", ["failures", "compact"])
def test_neither_mindspore_nor_ray_is_loaded(output: Path, command: str) -> None:
    assert run_apart(command, output)[1] == "[]"
