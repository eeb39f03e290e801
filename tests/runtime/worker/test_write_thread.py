"""Videos are encoded, measured and stored; storage that refuses; what files say of themselves."""

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

from tests.runtime.worker.in_process import Heard, finish, row
from vidgen_dist.ledger import OPTIONAL_COLUMNS
from vidgen_dist.media import read_tags
from vidgen_dist.runtime.worker import worker as worker_module
from vidgen_dist.runtime.worker import write_thread
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import Storage


class Refusing:
    """Makes a method of Storage refuse, as many times as it is told, for paths that begin in some way."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, method: str, prefix: str, times: int, number: int | None = None
    ) -> None:
        self.times = times
        self.asked = 0
        real = getattr(Storage, method)

        def refuse(storage: Storage, *args: Any) -> Any:
            if any(isinstance(arg, str) and arg.startswith(prefix) for arg in args):
                self.asked += 1
                if self.asked <= self.times:
                    error = StorageError("503 slow down")
                    error.errno = number
                    raise error
            return real(storage, *args)

        monkeypatch.setattr(Storage, method, refuse)


def test_a_storage_that_refuses_for_a_while_is_asked_again(
    start: Callable[..., Heard], monkeypatch: pytest.MonkeyPatch
) -> None:
    video = Refusing(monkeypatch, "put_file", "videos/", 3)
    heard = start()
    heard.worker.submit([row("x")])
    heard.until("done", "failed", "stuck")
    finish(heard)
    assert heard.of("done") == ["x"]
    assert [entry["status"] for entry in heard.entries()] == ["done"]
    assert video.asked == 4


def test_a_video_that_cannot_be_stored_is_a_dead_letter(
    start: Callable[..., Heard], monkeypatch: pytest.MonkeyPatch
) -> None:
    Refusing(monkeypatch, "put_file", "videos/", 5)
    heard = start()
    heard.worker.submit([row("x"), row("y")])
    heard.until("done")
    finish(heard)
    found = {entry["id"]: entry for entry in heard.entries()}
    assert found["x"]["error_class"] == "StorageError"
    assert "503 slow down" in found["x"]["error_message"]
    assert found["y"]["status"] == "done"


@pytest.mark.parametrize(("before", "after"), [(0, 10), (5, 15), (15, 19)])
def test_the_write_thread_gives_way_however_nice_the_worker_is(before: int, after: int) -> None:
    """Ray's workers have a niceness of 15, and nobody but root may become less nice."""

    def niceness() -> int:
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, before)
        write_thread._lower_priority()
        return os.getpriority(os.PRIO_PROCESS, thread)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(niceness).result() == after


def test_an_encoder_that_is_killed_is_started_again(
    start: Callable[..., Heard], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ffmpeg, killed = tmp_path / "ffmpeg", tmp_path / "killed"
    ffmpeg.write_text(
        f"#!/bin/sh\n[ -e {killed} ] || {{ touch {killed}; kill -9 $$; }}\n"
        f'exec {imageio_ffmpeg.get_ffmpeg_exe()} "$@"\n'
    )
    ffmpeg.chmod(0o700)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(ffmpeg))
    heard = start(format="mp4")
    heard.worker.submit([row("a")])
    heard.until("done", "failed")
    finish(heard)
    assert killed.exists()
    assert heard.of("done") == ["a"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_where_nothing_can_be_written_no_row_is_at_fault(
    start: Callable[..., Heard], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Nothing is said of the row, and what was saved of its rendering stays."""
    # Lacking permission may be a matter of credentials that are renewed.
    attempts = 5 if number == errno.EACCES else 1
    video = Refusing(monkeypatch, "put_file", "videos/", attempts, number)
    forgotten: list[str] = []
    monkeypatch.setattr(
        write_thread.ResumeStates, "remove_if_used", lambda _, row_id: forgotten.append(row_id)
    )
    heard = start()
    heard.worker.submit([row("x"), row("y")])
    heard.until("done")
    finish(heard)
    assert video.asked == attempts + 1
    assert [event.message for event in heard.events if event.kind == "stuck"] == [
        "the output cannot be written: 503 slow down"
    ]
    assert [(entry["id"], entry["status"]) for entry in heard.entries()] == [("y", "done")]
    assert forgotten == ["y"]


@pytest.mark.parametrize("at", ["encode", "fetch"])
def test_a_full_temporary_folder_is_no_row_s_fault_either(
    start: Callable[..., Heard], monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("ffmpeg: Error writing trailer: No space left on device")

    monkeypatch.setattr(
        *((write_thread.media, "write_video") if at == "encode" else (worker_module, "find_recovered")),
        refuse,
    )
    heard = start()
    heard.worker.submit([replace(row("x"), maybe_stored=True)])
    heard.until("stuck")
    finish(heard)
    told = next(event.message for event in heard.events if event.kind == "stuck")
    assert told.startswith(
        "the temporary folder of a worker (TMPDIR names another) cannot be written: ffmpeg"
    )
    assert heard.entries() == []


@pytest.mark.parametrize("format", ["mp4", "gif", "png"])
def test_formats(start: Callable[..., Heard], format: str) -> None:
    heard = start(format=format)
    heard.worker.submit([row("x")])
    heard.until("done", "failed")
    finish(heard)
    (entry,) = heard.entries()
    assert entry["status"] == "done"
    path = Path(entry["uri"])
    if format == "png":
        assert len(list(path.iterdir())) == 3
    else:
        assert path.suffix == f".{format}"
        assert path.stat().st_size == entry["bytes"]


@pytest.mark.parametrize("format", ["mp4", "gif", "png"])
def test_a_stored_file_says_what_it_is(start: Callable[..., Heard], format: str) -> None:
    heard = start(format=format)
    heard.worker.submit([row("A row / 1")])
    heard.until("done", "failed")
    finish(heard)
    (entry,) = heard.entries()
    expected = {"id": "A row / 1", "model": "fake", "seed": "7", "fingerprint": entry["fingerprint"]}
    assert read_tags(Path(entry["uri"]), format) == expected


def test_a_producer_is_named_in_the_file(start: Callable[..., Heard]) -> None:
    heard = start(format="mp4", aigc_producer="ACME & Söhne")
    heard.worker.submit([row("x")])
    heard.until("done", "failed")
    finish(heard)
    (entry,) = heard.entries()
    label = json.loads(read_tags(Path(entry["uri"]), "mp4")["AIGC"])
    assert (label["Label"], label["ContentProducer"]) == ("1", "ACME & Söhne")
    assert label["ProduceID"] == f"x/{entry['fingerprint']}"


def test_the_ledger_tells_what_videos_look_like(start: Callable[..., Heard]) -> None:
    heard = start()
    heard.worker.submit(
        [row("noise"), row("dark", "black:"), row("one", num_frames=1), row("bad", "raise:x")]
    )
    heard.until("failed")
    finish(heard)
    found = {entry["id"]: entry for entry in heard.entries()}
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
    }
    assert found["one"]["motion"] is None
    assert [found["bad"][name] for name in OPTIONAL_COLUMNS] == [None] * len(OPTIONAL_COLUMNS)


def test_rejected_videos_are_dead_letters_and_not_stored(start: Callable[..., Heard], tmp_path: Path) -> None:
    heard = start(reject=("black",))
    heard.worker.submit([row("dark", "black:"), row("still", "frozen:")])
    heard.until("done")
    finish(heard)
    found = {entry["id"]: entry for entry in heard.entries()}
    dark, still = found["dark"], found["still"]
    assert (dark["status"], dark["error_class"], dark["uri"]) == ("failed", "VideoRejected", None)
    assert dark["error_message"] == "the video is black: mean luma 0, motion 0, clipped 1, noisiness none"
    assert (dark["mean_luma"], dark["flags"]) == (0.0, ("black", "frozen"))
    assert (still["status"], still["flags"]) == ("done", ("frozen",))
    stored = [file for file in (tmp_path / "out" / "videos").rglob("*") if file.is_file()]
    assert stored == [Path(still["uri"])]


def test_messages_hold_no_secrets(start: Callable[..., Heard], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SECRET", "sesame-open-42")
    heard = start()
    heard.worker.submit([row("x", "raise:sesame-open-42,https://anna:pw@host/clip?signature=abc")])
    (event,) = [event for event in heard.until("failed") if event.kind == "failed"]
    finish(heard)
    (entry,) = heard.entries()
    assert entry["error_message"] == event.message
    assert event.message.startswith("***,https://host/clip (fake_engine.py, line ")
