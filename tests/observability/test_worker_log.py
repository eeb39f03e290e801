"""A worker's log: a JSON object for every event, and no harm if it cannot be written."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.worker.in_process import (
    WorkerHarness,
    finish,
    make_job,
    row,
    start_worker,
)
from tests.waiting import PATIENCE, wait_until
from vidgen_dist.observability import worker_log
from vidgen_dist.observability.worker_log import log_file, open_log
from vidgen_dist.runtime.messages import WorkerMessage
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import Storage
from vidgen_dist.worker_events import WorkerEvent


def lines_of(file: Path, until: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """The lines of a log, once there is one for which `until` holds: another thread writes them."""
    end = time.monotonic() + PATIENCE
    while True:
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        if any(map(until, lines)):
            return lines
        assert time.monotonic() < end, lines
        time.sleep(0.01)


def is_event(kind: str) -> Callable[[dict[str, Any]], bool]:
    return lambda line: line["event"] == kind


def start(tmp_path: Path, file: Path) -> WorkerHarness:
    return start_worker(make_job(tmp_path / "out"), open_log(str(file), "w1", replica=3, host="10.0.0.1"))


def test_the_events_of_a_worker_are_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []
    put_file = Storage.put_file

    def refuse_once(self: Storage, local: str, path: str) -> None:
        if not refused:
            refused.append(path)
            raise StorageError("s3://key:hidden-secret@bucket/x is out of order")
        put_file(self, local, path)

    monkeypatch.setattr(Storage, "put_file", refuse_once)
    file = tmp_path / "logs" / "w1.jsonl"
    harness = start(tmp_path, file)
    harness.worker.submit([row("x"), row("y", "raise:oops")])
    harness.until("failed")
    finish(harness)
    lines = lines_of(file, is_event("stopped"))
    events = [(line["event"], line.get("row")) for line in lines]
    assert events[:3] == [("born", None), ("ready", None), ("started", "x")]
    for earlier, later in (("started", "rendered"), ("rendered", "committed"), ("committed", "done")):
        assert events.index((earlier, "x")) < events.index((later, "x"))
    assert ("retried", None) in events
    assert events[-1] == ("stopped", None)
    by_event = {line["event"]: line for line in lines}
    assert {line["worker"] for line in lines} == {"w1"}
    assert (by_event["born"]["replica"], by_event["born"]["host"]) == (3, "10.0.0.1")
    committed = by_event["committed"]
    assert set(committed["seconds"]) == {"encode", "denoise", "decode", "write"}
    (video,) = (tmp_path / "out" / "videos").rglob("*.npy")
    assert (committed["bytes"], committed["frames"]) == (video.stat().st_size, 3)
    assert (by_event["failed"]["error"], by_event["failed"]["level"]) == ("RuntimeError", "warning")
    assert by_event["failed"]["message"].startswith("oops")
    assert by_event["retried"]["message"] == "s3://bucket/x is out of order"
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)


def test_any_text_can_be_logged_and_secrets_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "0123456789abcdef")
    record = open_log(str(tmp_path / "w.jsonl"), "w")
    record(WorkerMessage("failed", "a\nb 雪 \udcff %s", "E", "token 0123456789abcdef").worker_event)
    _, line = lines_of(tmp_path / "w.jsonl", is_event("failed"))
    assert (line["row"], line["message"]) == ("a\nb 雪 \udcff %s", "token ***")


def test_log_files_are_rotated(tmp_path: Path) -> None:
    record = open_log(str(tmp_path / "w.jsonl"), "w", max_bytes=2000)
    for number in range(200):
        record(WorkerEvent("started", str(number)))
    lines_of(tmp_path / "w.jsonl", lambda line: line.get("row") == "199")
    files = list(tmp_path.iterdir())
    assert len(files) == 1 + worker_log.OLD_FILES
    assert all(file.stat().st_size <= 2000 for file in files)


def test_a_log_that_cannot_be_written_does_no_harm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    harness = start(tmp_path, tmp_path / "file" / "w1.jsonl")
    harness.worker.submit([row("x")])
    harness.until("done")
    finish(harness)
    assert harness.of("done") == ["x"]
    errors = wait_until(lambda: capsys.readouterr().err)
    # Reported once, not with every line.
    assert errors.count("Logging error") == errors.count("\nFileExistsError") == 1


def test_a_folder_that_hangs_does_not_delay_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, called = threading.Event(), threading.Event()

    def hang(*_: object, **__: object) -> None:
        called.set()
        go.wait()

    monkeypatch.setattr("vidgen_dist.observability.worker_log.os.makedirs", hang)
    record = open_log(str(tmp_path / "logs" / "w.jsonl"), "w")
    assert called.wait(PATIENCE)
    record(WorkerEvent("started", "x"))
    monkeypatch.undo()
    (tmp_path / "logs").mkdir()
    go.set()
    lines = lines_of(tmp_path / "logs" / "w.jsonl", is_event("started"))
    assert [line["event"] for line in lines] == ["born", "started"]


def test_the_log_of_a_process_that_dies_shows_what_it_died_of(tmp_path: Path) -> None:
    log = tmp_path / "w1.jsonl"
    code = f"""
from pathlib import Path
from tests.observability.test_worker_log import start
from tests.runtime.worker.in_process import row
start(Path({str(tmp_path)!r}), Path({str(log)!r})).worker.submit([row("fine"), row("x", "die:")])
import time; time.sleep(60)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE).returncode == 1
    last = json.loads(log.read_text().splitlines()[-1])
    assert (last["event"], last["row"]) == ("started", "x")


def test_the_log_is_in_a_local_output_or_among_rays_logs() -> None:
    assert log_file(Storage("/data/out"), "w", "/ray/logs") == "/data/out/logs/w.jsonl"
    assert log_file(Storage("s3://bucket/out"), "w", "/ray/logs") == "/ray/logs/vidgen-w.jsonl"
