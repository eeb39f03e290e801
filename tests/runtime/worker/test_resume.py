"""A worker saves resume states, and resumes from those of another worker."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fake_engine import FakeMesh, FakePipeline
from tests.marks import STEPS, STOP, scratch_of, steps_in
from tests.runtime.worker.in_process import (
    IDENTITY,
    WorkerHarness,
    finish,
    make_job,
    row,
    start_gang,
    start_worker,
)
from tests.waiting import PATIENCE, wait_until
from vidgen_dist.media import to_uint8
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.output.resume_states import ResumeStates, SavedState, unpack
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import Storage
from vidgen_dist.worker_events import OnWorkerEvent, WorkerEvent, ignore_event


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., WorkerHarness]:
    """Starts a worker that saves every `checkpoint_every` steps, and whose output is `tmp_path / "out"`."""

    def begin(checkpoint_every: int | None, on_event: OnWorkerEvent = ignore_event) -> WorkerHarness:
        return start_worker(make_job(tmp_path / "out", checkpoint_every=checkpoint_every), on_event)

    return begin


@pytest.fixture
def long_row(tmp_path: Path, marks: Path) -> PendingRow:
    """A row of eight steps that waits after the fifth for a file named `go`."""
    return row("x", f"mark:{marks} at:{STOP} wait:{tmp_path}/go", num_inference_steps=STEPS)


def saved_step(file: Path, of: PendingRow) -> int:
    return unpack(file.read_bytes(), IDENTITY.fingerprint(of.request, {})).step


def begin_and_stop(start: Callable[..., WorkerHarness], long_row: PendingRow, marks: Path) -> None:
    """Render a row up to the step at which it waits, stop at once, and remove the marks."""
    harness = start(100)
    harness.worker.submit([long_row])
    wait_until(lambda: steps_in(marks) == [list(range(1, STOP + 1))])
    harness.worker.stop(now=True)
    harness.until("stopped")
    assert harness.of("done") == []
    for mark in marks.iterdir():
        mark.unlink()


def test_another_worker_resumes_a_row_that_was_stopped(
    start: Callable[..., WorkerHarness], long_row: PendingRow, marks: Path, tmp_path: Path
) -> None:
    begin_and_stop(start, long_row, marks)
    (file,) = scratch_of(tmp_path)
    assert saved_step(file, long_row) == STOP
    events: list[WorkerEvent] = []
    harness = start(100, events.append)
    harness.worker.submit([long_row])
    harness.until("done", "failed")
    finish(harness)
    assert steps_in(marks) == [[6, 7, 8]]
    assert [(event.row, event.step) for event in events if event.kind == "resumed"] == [("x", STOP)]
    (entry,) = harness.entries()
    (tmp_path / "go").touch()
    whole = FakePipeline(FakeMesh()).render(long_row.request)
    np.testing.assert_array_equal(np.load(entry["uri"]), to_uint8(whole.frames))
    assert scratch_of(tmp_path) == []


def test_a_gang_resumes_a_row_that_one_worker_saved(
    start: Callable[..., WorkerHarness], long_row: PendingRow, marks: Path, tmp_path: Path
) -> None:
    begin_and_stop(start, long_row, marks)
    (leader, _), followers = start_gang(tmp_path / "out", 2, checkpoint_every=100)
    leader.worker.submit([long_row])
    leader.until("done", "failed", "broken")
    finish(leader)
    assert [steps_in(marks, rank) for rank in (0, 1)] == [[[6, 7, 8]]] * 2
    (announced,) = followers.announced
    assert announced.state is not None
    assert announced.state.step == STOP
    assert scratch_of(tmp_path) == []


def test_a_row_with_restart_begins_at_step_0(
    start: Callable[..., WorkerHarness], long_row: PendingRow, marks: Path, tmp_path: Path
) -> None:
    begin_and_stop(start, long_row, marks)
    (tmp_path / "go").touch()
    harness = start(100)
    harness.worker.submit([dataclasses.replace(long_row, restart=True)])
    harness.until("done", "failed")
    finish(harness)
    assert steps_in(marks) == [list(range(1, STEPS + 1))]
    assert scratch_of(tmp_path) == []


def test_the_state_of_another_fingerprint_is_not_resumed(
    start: Callable[..., WorkerHarness], long_row: PendingRow, marks: Path, tmp_path: Path
) -> None:
    begin_and_stop(start, long_row, marks)
    (tmp_path / "go").touch()
    other = dataclasses.replace(long_row, request=dataclasses.replace(long_row.request, seed=8))
    events: list[WorkerEvent] = []
    harness = start(100, events.append)
    harness.worker.submit([other])
    harness.until("done", "failed")
    finish(harness)
    assert steps_in(marks) == [list(range(1, STEPS + 1))]
    (event,) = [event for event in events if event.kind == "resumed"]
    assert "is of another fingerprint" in event.message
    assert scratch_of(tmp_path) == []


def test_save_saves_the_latest_step_at_once_and_then_every_step(
    start: Callable[..., WorkerHarness],
    long_row: PendingRow,
    marks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved_steps: list[int] = []
    save = ResumeStates.save

    def record(files: ResumeStates, saved: SavedState) -> None:
        assert saved.state is not None
        saved_steps.append(saved.state.step)
        save(files, saved)

    monkeypatch.setattr(ResumeStates, "save", record)
    harness = start(100)
    harness.worker.submit([long_row])
    wait_until(lambda: STOP in steps_in(marks)[-1] if steps_in(marks) else False)
    assert scratch_of(tmp_path) == []
    harness.worker.save()
    wait_until(lambda: scratch_of(tmp_path))
    assert saved_steps == [STOP]
    (tmp_path / "go").touch()
    harness.until("done", "failed")
    finish(harness)
    # A newer state replaces one that waits.
    assert saved_steps == sorted(saved_steps)
    assert saved_steps[-1] == STEPS
    assert scratch_of(tmp_path) == []


def test_a_slow_storage_does_not_delay_the_steps(
    start: Callable[..., WorkerHarness],
    long_row: PendingRow,
    marks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A newer state replaces one that waits to be saved."""
    written: list[int] = []
    go_on = threading.Event()
    write = Storage.write_bytes

    def slow(storage: Storage, path: str, data: bytes) -> None:
        if path.startswith("scratch/"):
            written.append(unpack(data, IDENTITY.fingerprint(long_row.request, {})).step)
            go_on.wait(PATIENCE)
        write(storage, path, data)

    monkeypatch.setattr(Storage, "write_bytes", slow)
    (tmp_path / "go").touch()
    harness = start(1)
    harness.worker.submit([long_row])
    harness.until("rendered")
    assert steps_in(marks) == [list(range(1, STEPS + 1))]
    go_on.set()
    harness.until("done", "failed")
    finish(harness)
    assert len(written) <= 2
    assert written[-1] == STEPS
    assert scratch_of(tmp_path) == []


def test_a_row_that_cannot_be_saved_is_rendered(
    start: Callable[..., WorkerHarness], long_row: PendingRow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Storage.write_bytes

    def refuse(storage: Storage, path: str, data: bytes) -> None:
        if path.startswith("scratch/"):
            raise StorageError("503 slow down")
        write(storage, path, data)

    monkeypatch.setattr(Storage, "write_bytes", refuse)
    (tmp_path / "go").touch()
    harness = start(1)
    harness.worker.submit([long_row])
    harness.until("done", "failed")
    finish(harness)
    assert harness.of("done") == ["x"]


@pytest.mark.parametrize(("checkpoint_every", "requests"), [(None, []), (100, ["read_bytes"])])
def test_requests_to_the_storage(
    start: Callable[..., WorkerHarness],
    long_row: PendingRow,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpoint_every: int | None,
    requests: list[str],
) -> None:
    """None without resume states; with them one read per video, if nothing was or is saved."""
    found: list[str] = []

    def watch(method: str) -> None:
        real = getattr(Storage, method)

        def watched(storage: Storage, path: str = "", *args: Any) -> Any:
            if path.startswith("scratch"):
                found.append(method)
            return real(storage, path, *args)

        monkeypatch.setattr(Storage, method, watched)

    for method in ("read_bytes", "write_bytes", "delete", "list", "exists"):
        watch(method)
    (tmp_path / "go").touch()
    harness = start(checkpoint_every)
    harness.worker.submit([long_row])
    harness.until("rendered")
    if checkpoint_every is None:
        harness.worker.save()
    harness.until("done", "failed")
    finish(harness)
    assert found == requests


def test_states_of_ranks_that_were_out_of_step_are_removed(tmp_path: Path) -> None:
    (leader, _), _ = start_gang(tmp_path / "out", 2, checkpoint_every=1)
    # The row waits until the state is written: one still waiting might be dropped when the gang breaks.
    leader.worker.submit([row("x", f"uncounted@1: at:1 wait:{tmp_path}/out/scratch/x.state")])
    leader.until("stopped")
    assert (tmp_path / "out" / "scratch").exists()
    assert scratch_of(tmp_path) == []
