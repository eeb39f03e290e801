"""One worker, in this process, with the fast fake engine: rows, dead letters, stops."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.worker.in_process import IDENTITY, Heard, finish, row


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
