"""Files of resume states: what is written is read back, and a file that cannot be used counts as none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidgen_dist.families.common.rendering import ResumeState, seeded
from vidgen_dist.output import resume_states
from vidgen_dist.output.resume_states import ResumeStates, SavedState, StateSaver, clear, pack, unpack
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import Storage, open_storage
from vidgen_dist.worker_events import WorkerEvent, ignore_event


def state(step: int = 3) -> ResumeState:
    rng = seeded(step)
    latents = rng.standard_normal((2, 3, 4)).astype(np.float32)
    return ResumeState(step, {"latents": latents, "previous": latents.T}, rng.bit_generator.state)


def test_what_is_packed_is_unpacked() -> None:
    before = state()
    after = unpack(pack(before, "f"), "f")
    assert after.step == 3
    assert after.rng == before.rng
    assert after.arrays.keys() == before.arrays.keys()
    for name, array in before.arrays.items():
        assert after.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(after.arrays[name], array)


@given(st.data())
def test_a_file_with_a_fault_is_refused(data: st.DataObject) -> None:
    file = bytearray(pack(state(), "f"))
    at = data.draw(st.integers(0, len(file) - 1))
    if data.draw(st.booleans()):
        del file[at:]
    else:
        file[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="is torn"):
        unpack(bytes(file), "f")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file[:-1], "is torn, or of another format"),
        (lambda _: b"", "is torn, or of another format"),
        (lambda _: pack(state(), "g"), "is of another fingerprint"),
        (lambda _: file_with({"format": 7}), "has format 7, and this release reads format 1"),
    ],
)
def test_a_file_that_cannot_be_used_is_reported_and_removed_in_the_end(
    tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    events: list[WorkerEvent] = []
    files = ResumeStates(open_storage(tmp_path), ignore_event)
    files.save(SavedState("a row / 1", "f", state()))
    (path,) = (tmp_path / "scratch").iterdir()
    assert files.load("a row / 1", "f") is not None
    path.write_bytes(change(path.read_bytes()))
    later = ResumeStates(open_storage(tmp_path), events.append)
    assert later.load("a row / 1", "f") is None
    (event,) = events
    assert (event.kind, event.row, event.error) == ("resumed", "a row / 1", "ValueError")
    assert event.message == f"{path} {message}; the rendering begins at step 0"
    later.remove_if_used("a row / 1")
    assert not path.exists()


def file_with(head: Mapping[str, object]) -> bytes:
    """A file whose line of JSON has other values; keys with None are omitted."""
    _, line, arrays = pack(state(), "f").split(b"\n", 2)
    kept = {key: value for key, value in {**json.loads(line), **head}.items() if value is not None}
    content = json.dumps(kept).encode() + b"\n" + arrays
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def test_a_new_release_reads_the_files_of_the_release_before(monkeypatch: pytest.MonkeyPatch) -> None:
    file = pack(state(), "f")
    monkeypatch.setattr(resume_states, "VERSION", "9.0.0")
    assert unpack(file, "f").step == 3
    # From before files had a format.
    assert unpack(file_with({"format": None}), "f").step == 3


def test_a_file_of_another_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^has format 2, and this release reads format 1$"):
        unpack(file_with({"format": 2}), "f")
    monkeypatch.setattr(resume_states, "FORMAT", 2)
    with pytest.raises(ValueError, match=r"^has format 1, and this release reads format 2$"):
        unpack(file_with({"format": None}), "f")


def test_errors_of_the_storage_are_reported_and_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise StorageError("503 slow down")

    events: list[WorkerEvent] = []
    files = ResumeStates(open_storage(tmp_path), events.append)
    for method in ("read_bytes", "write_bytes", "delete"):
        monkeypatch.setattr(Storage, method, refuse)
    assert files.load("x", "f") is None
    files.save(SavedState("x", "f", state()))
    files.remove_if_used("x")
    assert [(event.kind, event.row, event.message) for event in events] == [
        ("resumed", "x", "503 slow down"),
        ("saved", "x", "503 slow down"),
        ("saved", "x", "503 slow down"),
    ]


def test_only_files_that_were_read_or_written_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, asked = ResumeStates(open_storage(tmp_path), ignore_event), []
    monkeypatch.setattr(Storage, "delete", lambda _, path: asked.append(path))
    assert files.load("x", "f") is None
    files.remove_if_used("x")
    assert asked == []
    files.save(SavedState("x", "f", state()))
    files.remove_if_used("x")
    files.remove_if_used("x")
    assert asked == ["scratch/x.state"]


def test_files_on_an_object_store(s3_bucket: str) -> None:
    events: list[WorkerEvent] = []
    output = open_storage(f"s3://{s3_bucket}/out")
    files = ResumeStates(output, events.append)
    assert files.load("x", "f") is None
    for step in (1, 2):
        files.save(SavedState("x", "f", state(step)))
    after = ResumeStates(output, events.append).load("x", "f")
    assert after is not None
    assert after.step == 2
    files.remove_if_used("x")
    assert output.list("scratch") == []
    assert [(event.kind, event.step, event.error) for event in events] == [
        ("saved", 1, None),
        ("saved", 2, None),
    ]


def test_clear_removes_all_files_and_incomplete_ones(tmp_path: Path) -> None:
    clear(open_storage(tmp_path))
    for row_id in "abc":
        ResumeStates(open_storage(tmp_path), ignore_event).save(SavedState(row_id, "f", state()))
    # A worker that was killed while it wrote leaves this.
    (tmp_path / "scratch" / f".{'0' * 32}.tmp").write_bytes(b"half")
    (tmp_path / "run.yaml").touch()
    clear(open_storage(tmp_path))
    assert list((tmp_path / "scratch").iterdir()) == []
    assert (tmp_path / "run.yaml").exists()


# --- which states are saved ------------------------------------------------------------------------------


def run(saver: StateSaver, *steps: int) -> None:
    listener = saver.listener("x", "f")
    assert listener is not None
    for step in steps:
        listener(state(step))


def step_of(saved: SavedState) -> int | None:
    return None if saved.state is None else saved.state.step


def test_every_kth_state_is_saved_and_on_request_the_latest_and_all_after() -> None:
    saved: list[SavedState] = []
    saver = StateSaver(3, saved.append)
    run(saver, *range(1, 8))
    assert [step_of(each) for each in saved] == [3, 6]
    saver.save_latest(and_all_after=True)
    saver.save_latest()
    assert [step_of(each) for each in saved] == [3, 6, 7]
    run(saver, 8, 9)
    assert [step_of(each) for each in saved] == [3, 6, 7, 8, 9]
    assert {(each.row_id, each.fingerprint) for each in saved} == {("x", "f")}


def test_no_state_is_saved_of_a_rendering_that_has_ended() -> None:
    saved: list[SavedState] = []
    saver = StateSaver(3, saved.append)
    run(saver, 1)
    saver.forget()
    saver.save_latest()
    assert saved == []


def test_a_state_that_is_discarded_is_removed() -> None:
    saved: list[SavedState] = []
    saver = StateSaver(3, saved.append)
    run(saver, 1)
    saver.discard("x", "f")
    saver.save_latest()
    assert [step_of(each) for each in saved] == [None]


def test_nothing_is_saved_without_an_interval() -> None:
    saved: list[SavedState] = []
    saver = StateSaver(None, saved.append)
    assert saver.listener("x", "f") is None
    saver.save_latest(and_all_after=True)
    saver.discard("x", "f")
    assert saved == []
