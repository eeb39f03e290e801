"""One worker, in this process, with the fast fake engine: videos, dead letters, refusing storage, stops."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from tests.fake_engine import FAKE_ENGINE
from tests.policies import AT_ONCE
from tests.runtime.worker.in_process import IDENTITY, PASSTHROUGH, Heard, finish, row, start_gang
from vidgen_dist.ledger import OPTIONAL_COLUMNS
from vidgen_dist.media import read_tags
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.runtime.messages import Job
from vidgen_dist.runtime.worker import worker as worker_module
from vidgen_dist.runtime.worker import write_thread
from vidgen_dist.runtime.worker.worker import Worker
from vidgen_dist.spec import ModelOptions, OutputOptions
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import Storage, open_storage


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Heard]:
    """Starts a worker whose output is `tmp_path / "out"`."""

    def begin(model: str = "fake", max_attempts: int = 3, **output: Any) -> Heard:
        job = Job(
            engine=FAKE_ENGINE,
            model=ModelOptions(id=model),
            device="cpu",
            output=open_storage(tmp_path / "out"),
            output_options=OutputOptions(**{"uri": str(tmp_path / "out"), "format": "npy", **output}),
            identity=IDENTITY,
            passthrough=PASSTHROUGH,
            max_attempts=max_attempts,
            retries=AT_ONCE,
        )
        worker = Worker(job, "w1")
        worker.start(None)
        return Heard(worker)

    return begin


def test_a_row_becomes_a_video_and_an_entry(start: Callable[..., Heard]) -> None:
    heard = start()
    heard.worker.submit([row("x", "fine")])
    heard.until("done")
    # Reported, so it is there already.
    (entry,) = heard.entries()
    frames = np.load(entry["uri"])
    assert frames.shape == (3, 16, 24, 3)
    assert frames.dtype == np.uint8
    expected = {
        "id": "x",
        "status": "done",
        "frames": 3,
        "width": 24,
        "height": 16,
        "fps": 8.0,
        "seed": 7,
        "attempt": 2,
        "worker": "w1",
        "source": "of x",
        "model": "fake",
        "bytes": Path(entry["uri"]).stat().st_size,
    }
    assert {name: entry[name] for name in expected} == expected
    assert entry["fingerprint"] == IDENTITY.fingerprint(row("x", "fine").request, {})
    assert entry["seconds_denoise"] >= 0
    assert entry["seconds_write"] > 0
    finish(heard)


def test_the_order_of_events(start: Callable[..., Heard]) -> None:
    heard = start()
    heard.worker.submit([row("x")])
    heard.until("done")
    assert [event.kind for event in heard.events] == ["ready", "started", "rendered", "done"]
    finish(heard)


def test_rows_that_are_not_begun_are_given_back(start: Callable[..., Heard], tmp_path: Path) -> None:
    heard = start()
    go = tmp_path / "go"
    heard.worker.submit([row("a", f"wait:{go}"), row("b"), row("c")])
    heard.worker.submit([row("d")])
    heard.until("started")
    heard.worker.give_back(2)
    heard.until("returned")
    assert heard.of("returned") == ["c", "d"]
    # Of what is begun nothing is given back, nor more than there is.
    heard.worker.give_back(5)
    go.touch()
    finish(heard)
    assert heard.of("returned") == ["c", "d", "b"]
    assert heard.of("done") == ["a"]
    heard.worker.give_back(1)
    assert not heard.worker.poll(0).messages


def test_bad_rows_become_dead_letters_and_the_others_go_on(
    start: Callable[..., Heard], tmp_path: Path
) -> None:
    (tmp_path / "no.png").write_bytes(b"this is no picture")
    heard = start()
    rows = [
        row("raises", "raise:oops"),
        row("broken", image=str(tmp_path / "no.png")),
        row("missing", image=str(tmp_path / "none.png")),
        row("fine"),
    ]
    heard.worker.submit(rows)
    heard.until("done")
    finish(heard)
    found = {entry["id"]: entry for entry in heard.entries()}
    assert {row_id: entry["error_class"] for row_id, entry in found.items()} == {
        "raises": "RuntimeError",
        "broken": "MediaError",
        "missing": "FileNotFoundError",
        "fine": None,
    }
    assert "oops" in found["raises"]["error_message"]
    assert "no.png: " in found["broken"]["error_message"]
    assert "does not decode as an image" in found["broken"]["error_message"]
    assert "none.png" in found["missing"]["error_message"]
    assert all(entry["source"] == f"of {row_id}" for row_id, entry in found.items())
    assert sorted(heard.of("failed")) == ["broken", "missing", "raises"]


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


def test_stop_finishes_what_is_rendered_and_starts_nothing(
    start: Callable[..., Heard], tmp_path: Path
) -> None:
    heard = start()
    go = tmp_path / "go"
    heard.worker.submit([row("x", f"wait:{go}"), row("y"), row("z")])
    heard.until("started")
    heard.worker.stop(now=False)
    go.touch()
    heard.until("stopped")
    assert heard.of("started") == ["x"]
    assert [entry["id"] for entry in heard.entries()] == ["x"]


@pytest.mark.parametrize("listens", [True, False])
def test_stop_now_gives_up_the_row_and_tells_what_is_finished(
    start: Callable[..., Heard], tmp_path: Path, listens: bool
) -> None:
    """A long step does not delay it."""
    go = tmp_path / "go"
    heard = start()
    heard.worker.submit([row("x"), row("y", f"{'' if listens else 'ignore-steps: '}wait:{go}")])
    while "y" not in heard.of("started") or "x" not in heard.of("done"):
        heard.events += heard.worker.poll(0.2).messages
    heard.worker.stop(now=True)
    heard.until("stopped")
    assert [entry["id"] for entry in heard.entries()] == ["x"]
    go.touch()


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [("refused-by-workers", "refused", "transformer.weight"), ("breaks-when-loaded", "broken", "on fire")],
)
def test_a_model_that_does_not_load_is_said(
    start: Callable[..., Heard], model: str, kind: str, message: str
) -> None:
    heard = start(model)
    heard.until("stopped", kind)
    (event,) = [event for event in heard.events if event.kind == kind]
    assert message in event.message


def test_a_render_thread_that_ends_is_said(start: Callable[..., Heard], tmp_path: Path) -> None:
    heard = start()
    heard.worker.submit([row("x", f"exit-once:{tmp_path}/left")])
    heard.until("stopped")
    (event,) = [event for event in heard.events if event.kind == "broken"]
    assert event.error == "SystemExit"
    assert "wants to leave" in event.message


def test_a_silent_model_shows(start: Callable[..., Heard], tmp_path: Path) -> None:
    go = tmp_path / "go"
    heard = start()
    heard.worker.submit([row("x", f"ignore-steps: wait:{go}")])
    heard.until("started")
    time.sleep(0.3)
    silence = heard.worker.poll(0.0).silence
    assert list(silence) == ["denoise"]
    assert silence["denoise"] >= 0.25
    go.touch()
    heard.until("done")
    assert "denoise" not in heard.worker.poll(0.0).silence
    finish(heard)


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


@pytest.mark.parametrize(("max_attempts", "status"), [(2, "failed"), (3, "done")])
def test_a_row_for_which_memory_is_short_is_tried_again(
    start: Callable[..., Heard], tmp_path: Path, max_attempts: int, status: str
) -> None:
    heard = start(max_attempts=max_attempts)
    heard.worker.submit([row("x", f"starve:{tmp_path}/x"), row("y", f"touch:{tmp_path}/y raise:oops")])
    while len(heard.of("done") + heard.of("failed")) < 2:
        heard.events += heard.worker.poll(0.2).messages
    finish(heard)
    found = {entry["id"]: entry for entry in heard.entries()}
    assert (tmp_path / "x").read_text() == "x\n" * max_attempts
    assert found["x"]["status"] == status
    # Another error is final.
    assert heard.of("started") == ["x", "y"]
    assert found["y"]["error_class"] == "RuntimeError"


# --- what files say of themselves, and whether they look right -------------------------------------------


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


# --- a gang, all of its ranks in this process -----------------------------------------------------------


def test_a_gang_renders_together_and_its_leader_alone_writes(tmp_path: Path) -> None:
    Image.new("RGB", (24, 16)).save(tmp_path / "fox.png")
    (leader, *others), followers = start_gang(tmp_path / "out", 3)
    missing = row("y", image=str(tmp_path / "none.png"))
    leader.worker.submit([row("x", image=str(tmp_path / "fox.png")), missing, row("z", "nan:oops")])
    while len(leader.of("done") + leader.of("failed")) < 3:
        leader.events += leader.worker.poll(0.2).messages
    assert (leader.of("done"), sorted(leader.of("failed"))) == (["x"], ["y", "z"])
    # The image is read once; a row whose image is missing concerns the leader alone.
    assert [told.id for told in followers.announced] == ["x", "z"]
    assert followers.announced[0].request.image == (tmp_path / "fox.png").read_bytes()
    finish(leader)
    assert {entry["worker"] for entry in leader.entries()} == {"w0"}
    for heard in others:
        heard.events += heard.worker.poll(0.0).messages
        assert [event.kind for event in heard.events] == ["seated", "ready"]


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ("raise@1:oops", "RuntimeError", "rank 1 raised RuntimeError: oops"),
        ("raise:oops", "RuntimeError", "raised RuntimeError: oops"),
        ("uncounted@1:", "GangBroken", "ranks (0, 1) are out of step: they have begun [4, 5] exchanges"),
    ],
)
def test_a_gang_that_is_out_of_step_says_so(tmp_path: Path, prompt: str, error: str, message: str) -> None:
    (leader, _), _ = start_gang(tmp_path / "out", 2)
    leader.worker.submit([row("x", prompt)])
    event = next(event for event in leader.until("broken") if event.kind == "broken")
    assert (event.error, leader.of("done"), leader.of("failed")) == (error, [], [])
    assert message in event.message


def test_a_rank_may_be_told_to_take_another_seat(tmp_path: Path) -> None:
    job = Job(
        FAKE_ENGINE,
        ModelOptions(id="fake"),
        "cpu",
        open_storage(tmp_path),
        OutputOptions(uri=str(tmp_path)),
        IDENTITY,
        PASSTHROUGH,
        Degrees(2),
    )
    heard = Heard(Worker(job, "w"))
    heard.worker.start(None, "127.0.0.1")
    (first,) = heard.until("seated")
    heard.events.clear()
    heard.worker.renew_rendezvous()
    (second,) = heard.until("seated")
    assert first.message != second.message
