"""One worker in this process with the fast fake engine: rows, dead letters, stops."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.worker.in_process import IDENTITY, WorkerHarness, finish, row


def test_a_row_becomes_a_video_and_an_entry(start: Callable[..., WorkerHarness]) -> None:
    harness = start()
    harness.worker.submit([row("x", "fine")])
    harness.until("done")
    # The video is stored when it is reported.
    (entry,) = harness.entries()
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
    finish(harness)


def test_the_order_of_messages(start: Callable[..., WorkerHarness]) -> None:
    harness = start()
    harness.worker.submit([row("x")])
    harness.until("done")
    assert [message.kind for message in harness.messages] == ["ready", "started", "rendered", "done"]
    finish(harness)


def test_rows_that_have_not_begun_are_given_back(start: Callable[..., WorkerHarness], tmp_path: Path) -> None:
    harness = start()
    go = tmp_path / "go"
    harness.worker.submit([row("a", f"wait:{go}"), row("b"), row("c")])
    harness.worker.submit([row("d")])
    harness.until("started")
    harness.worker.give_back(2)
    harness.until("returned")
    assert harness.of("returned") == ["c", "d"]
    # A row that has begun is not given back, and no more rows than there are.
    harness.worker.give_back(5)
    go.touch()
    finish(harness)
    assert harness.of("returned") == ["c", "d", "b"]
    assert harness.of("done") == ["a"]
    harness.worker.give_back(1)
    assert not harness.worker.poll(0).messages


def test_bad_rows_become_dead_letters_and_the_others_go_on(
    start: Callable[..., WorkerHarness], tmp_path: Path
) -> None:
    (tmp_path / "no.png").write_bytes(b"this is no picture")
    harness = start()
    rows = [
        row("raises", "raise:oops"),
        row("broken", image=str(tmp_path / "no.png")),
        row("missing", image=str(tmp_path / "none.png")),
        row("fine"),
    ]
    harness.worker.submit(rows)
    harness.until("done")
    finish(harness)
    found = {entry["id"]: entry for entry in harness.entries()}
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
    assert sorted(harness.of("failed")) == ["broken", "missing", "raises"]


def test_stop_finishes_the_row_in_the_model_and_begins_none(
    start: Callable[..., WorkerHarness], tmp_path: Path
) -> None:
    harness = start()
    go = tmp_path / "go"
    harness.worker.submit([row("x", f"wait:{go}"), row("y"), row("z")])
    harness.until("started")
    harness.worker.stop(now=False)
    go.touch()
    harness.until("stopped")
    assert harness.of("started") == ["x"]
    assert [entry["id"] for entry in harness.entries()] == ["x"]


@pytest.mark.parametrize("listens", [True, False])
def test_stop_now_gives_up_the_row_and_reports_finished_ones(
    start: Callable[..., WorkerHarness], tmp_path: Path, listens: bool
) -> None:
    """A long step does not delay the stop."""
    go = tmp_path / "go"
    harness = start()
    harness.worker.submit([row("x"), row("y", f"{'' if listens else 'ignore-steps: '}wait:{go}")])
    while "y" not in harness.of("started") or "x" not in harness.of("done"):
        harness.messages += harness.worker.poll(0.2).messages
    harness.worker.stop(now=True)
    harness.until("stopped")
    assert [entry["id"] for entry in harness.entries()] == ["x"]
    go.touch()


@pytest.mark.parametrize(
    ("model", "kind", "reason"),
    [("refused-by-workers", "refused", "transformer.weight"), ("breaks-when-loaded", "broken", "on fire")],
)
def test_a_model_that_does_not_load_is_reported(
    start: Callable[..., WorkerHarness], model: str, kind: str, reason: str
) -> None:
    harness = start(model)
    harness.until("stopped", kind)
    (message,) = [message for message in harness.messages if message.kind == kind]
    assert reason in message.message


def test_a_render_thread_that_ends_is_reported(start: Callable[..., WorkerHarness], tmp_path: Path) -> None:
    harness = start()
    harness.worker.submit([row("x", f"exit-once:{tmp_path}/left")])
    harness.until("stopped")
    (message,) = [message for message in harness.messages if message.kind == "broken"]
    assert message.error == "SystemExit"
    assert "wants to leave" in message.message


def test_the_silence_of_a_model_is_reported(start: Callable[..., WorkerHarness], tmp_path: Path) -> None:
    go = tmp_path / "go"
    harness = start()
    harness.worker.submit([row("x", f"ignore-steps: wait:{go}")])
    harness.until("started")
    time.sleep(0.3)
    silence = harness.worker.poll(0.0).silence
    assert list(silence) == ["denoise"]
    assert silence["denoise"] >= 0.25
    go.touch()
    harness.until("done")
    assert "denoise" not in harness.worker.poll(0.0).silence
    finish(harness)


@pytest.mark.parametrize(("max_attempts", "status"), [(2, "failed"), (3, "done")])
def test_a_row_for_which_memory_is_too_short_is_tried_again(
    start: Callable[..., WorkerHarness], tmp_path: Path, max_attempts: int, status: str
) -> None:
    harness = start(max_attempts=max_attempts)
    harness.worker.submit([row("x", f"starve:{tmp_path}/x"), row("y", f"touch:{tmp_path}/y raise:oops")])
    while len(harness.of("done") + harness.of("failed")) < 2:
        harness.messages += harness.worker.poll(0.2).messages
    finish(harness)
    found = {entry["id"]: entry for entry in harness.entries()}
    assert (tmp_path / "x").read_text() == "x\n" * max_attempts
    assert found["x"]["status"] == status
    # Other errors are final.
    assert harness.of("started") == ["x", "y"]
    assert found["y"]["error_class"] == "RuntimeError"
