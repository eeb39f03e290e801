"""The write thread: videos are encoded, measured and stored; failing storage; tags of files."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest

from tests.runtime.worker.in_process import WorkerHarness, finish, row
from vidgen_dist.ledger import OPTIONAL_COLUMNS
from vidgen_dist.media import read_tags
from vidgen_dist.runtime.worker import worker as worker_module
from vidgen_dist.runtime.worker import write_thread
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import Storage


class Refusing:
    """Makes a method of Storage fail a number of times, for paths with a prefix."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, method: str, prefix: str, times: int, number: int | None = None
    ) -> None:
        self.times = times
        self.calls = 0
        real = getattr(Storage, method)

        def refuse(storage: Storage, *args: Any) -> Any:
            if any(isinstance(arg, str) and arg.startswith(prefix) for arg in args):
                self.calls += 1
                if self.calls <= self.times:
                    error = StorageError("503 slow down")
                    error.errno = number
                    raise error
            return real(storage, *args)

        monkeypatch.setattr(Storage, method, refuse)


def test_requests_that_the_storage_refuses_are_repeated(
    start: Callable[..., WorkerHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    video = Refusing(monkeypatch, "put_file", "videos/", 3)
    harness = start()
    harness.worker.submit([row("x")])
    harness.until("done", "failed", "stuck")
    finish(harness)
    assert harness.of("done") == ["x"]
    assert [entry["status"] for entry in harness.entries()] == ["done"]
    assert video.calls == 4


def test_a_video_that_cannot_be_stored_is_a_dead_letter(
    start: Callable[..., WorkerHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    Refusing(monkeypatch, "put_file", "videos/", 5)
    harness = start()
    harness.worker.submit([row("x"), row("y")])
    harness.until("done")
    finish(harness)
    found = {entry["id"]: entry for entry in harness.entries()}
    assert found["x"]["error_class"] == "StorageError"
    assert "503 slow down" in found["x"]["error_message"]
    assert found["y"]["status"] == "done"


@pytest.mark.parametrize(("before", "after"), [(0, 10), (5, 15), (15, 19)])
def test_the_write_thread_has_a_lower_priority_than_the_worker(before: int, after: int) -> None:
    """Ray's workers have a niceness of 15, and only root may lower it."""

    def niceness() -> int:
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, before)
        write_thread._lower_priority()
        return os.getpriority(os.PRIO_PROCESS, thread)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(niceness).result() == after


def test_an_encoder_that_is_killed_is_started_again(
    start: Callable[..., WorkerHarness], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ffmpeg, killed = tmp_path / "ffmpeg", tmp_path / "killed"
    ffmpeg.write_text(
        f"#!/bin/sh\n[ -e {killed} ] || {{ touch {killed}; kill -9 $$; }}\n"
        f'exec {imageio_ffmpeg.get_ffmpeg_exe()} "$@"\n'
    )
    ffmpeg.chmod(0o700)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(ffmpeg))
    harness = start(format="mp4")
    harness.worker.submit([row("a")])
    harness.until("done", "failed")
    finish(harness)
    assert killed.exists()
    assert harness.of("done") == ["a"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_if_nothing_can_be_written_no_row_is_at_fault(
    start: Callable[..., WorkerHarness], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """No message is about the row, and its resume state stays."""
    # A lack of permission may be due to credentials that are about to be renewed.
    attempts = 5 if number == errno.EACCES else 1
    video = Refusing(monkeypatch, "put_file", "videos/", attempts, number)
    removed: list[str] = []
    monkeypatch.setattr(write_thread.ResumeStates, "remove_if_used", lambda _, row_id: removed.append(row_id))
    harness = start()
    harness.worker.submit([row("x"), row("y")])
    harness.until("done")
    finish(harness)
    assert video.calls == attempts + 1
    assert [message.message for message in harness.messages if message.kind == "stuck"] == [
        "the output cannot be written: 503 slow down"
    ]
    assert [(entry["id"], entry["status"]) for entry in harness.entries()] == [("y", "done")]
    assert removed == ["y"]


@pytest.mark.parametrize("at", ["encode", "fetch"])
def test_a_full_temporary_folder_is_not_the_rows_fault(
    start: Callable[..., WorkerHarness], monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("ffmpeg: Error writing trailer: No space left on device")

    monkeypatch.setattr(
        *((write_thread.media, "write_video") if at == "encode" else (worker_module, "find_recovered")),
        refuse,
    )
    harness = start()
    harness.worker.submit([replace(row("x"), maybe_stored=True)])
    harness.until("stuck")
    finish(harness)
    stuck = next(message for message in harness.messages if message.kind == "stuck")
    assert stuck.message.startswith(
        "the temporary folder of a worker (TMPDIR names another) cannot be written: ffmpeg"
    )
    assert harness.entries() == []


@pytest.mark.parametrize("format", ["mp4", "gif", "png"])
def test_a_video_is_stored_in_every_format(start: Callable[..., WorkerHarness], format: str) -> None:
    harness = start(format=format)
    harness.worker.submit([row("x")])
    harness.until("done", "failed")
    finish(harness)
    (entry,) = harness.entries()
    assert entry["status"] == "done"
    path = Path(entry["uri"])
    if format == "png":
        assert len(list(path.iterdir())) == 3
    else:
        assert path.suffix == f".{format}"
        assert path.stat().st_size == entry["bytes"]


@pytest.mark.parametrize("format", ["mp4", "gif", "png"])
def test_a_stored_file_has_tags(start: Callable[..., WorkerHarness], format: str) -> None:
    harness = start(format=format)
    harness.worker.submit([row("A row / 1")])
    harness.until("done", "failed")
    finish(harness)
    (entry,) = harness.entries()
    expected = {"id": "A row / 1", "model": "fake", "seed": "7", "fingerprint": entry["fingerprint"]}
    assert read_tags(Path(entry["uri"]), format) == expected


def test_the_producer_is_named_in_the_file(start: Callable[..., WorkerHarness]) -> None:
    harness = start(format="mp4", aigc_producer="ACME & Söhne")
    harness.worker.submit([row("x")])
    harness.until("done", "failed")
    finish(harness)
    (entry,) = harness.entries()
    label = json.loads(read_tags(Path(entry["uri"]), "mp4")["AIGC"])
    assert (label["Label"], label["ContentProducer"]) == ("1", "ACME & Söhne")
    assert label["ProduceID"] == f"x/{entry['fingerprint']}"


def test_the_ledger_has_figures_and_flags_of_videos(start: Callable[..., WorkerHarness]) -> None:
    harness = start()
    harness.worker.submit(
        [row("noise"), row("dark", "black:"), row("one", num_frames=1), row("bad", "raise:x")]
    )
    harness.until("failed")
    finish(harness)
    found = {entry["id"]: entry for entry in harness.entries()}
    assert found["noise"]["flags"] == ()
    assert found["noise"]["mean_luma"] == pytest.approx(0.5, abs=0.03)
    assert found["noise"]["motion"] == pytest.approx(1 / 3, abs=0.03)
    dark = {name: found["dark"][name] for name in ("status", *OPTIONAL_COLUMNS)}
    assert dark == {
        "status": "done",
        "mean_luma": 0.0,
        "motion": 0.0,
        "clipped": 1.0,
        "noisiness": None,
        "flags": ("black", "frozen"),
        "loras": None,
    }
    assert found["one"]["motion"] is None
    assert [found["bad"][name] for name in OPTIONAL_COLUMNS] == [None] * len(OPTIONAL_COLUMNS)


def test_rejected_videos_are_dead_letters_and_not_stored(
    start: Callable[..., WorkerHarness], tmp_path: Path
) -> None:
    harness = start(reject=("black",))
    harness.worker.submit([row("dark", "black:"), row("still", "frozen:")])
    harness.until("done")
    finish(harness)
    found = {entry["id"]: entry for entry in harness.entries()}
    dark, still = found["dark"], found["still"]
    assert (dark["status"], dark["error_class"], dark["uri"]) == ("failed", "VideoRejected", None)
    assert dark["error_message"] == "the video is black: mean luma 0, motion 0, clipped 1, noisiness none"
    assert (dark["mean_luma"], dark["flags"]) == (0.0, ("black", "frozen"))
    assert (still["status"], still["flags"]) == ("done", ("frozen",))
    stored = [file for file in (tmp_path / "out" / "videos").rglob("*") if file.is_file()]
    assert stored == [Path(still["uri"])]


def test_messages_contain_no_secrets(
    start: Callable[..., WorkerHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_SECRET", "sesame-open-42")
    harness = start()
    harness.worker.submit([row("x", "raise:sesame-open-42,https://anna:pw@host/clip?signature=abc")])
    (failed,) = [message for message in harness.until("failed") if message.kind == "failed"]
    finish(harness)
    (entry,) = harness.entries()
    assert entry["error_message"] == failed.message
    assert failed.message.startswith("***,https://host/clip (fake_engine.py, line ")
