"""Files of saved renderings: what goes in comes out, and what cannot be gone on from is as good as none."""

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


def test_what_goes_in_comes_out() -> None:
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
    ("change", "told"),
    [
        (lambda file: file[:-1], "is torn, or of another format"),
        (lambda _: b"", "is torn, or of another format"),
        (lambda _: pack(state(), "g"), "is of another fingerprint"),
        (lambda _: file_with({"format": 7}), "has format 7, and this release reads format 1"),
    ],
)
def test_what_cannot_be_gone_on_from_is_told_and_removed_in_the_end(
    tmp_path: Path, change: Callable[[bytes], bytes], told: str
) -> None:
    events: list[WorkerEvent] = []
    files = ResumeStates(open_storage(tmp_path), ignore_event)
    files.keep(SavedState("a row / 1", "f", state()))
    (path,) = (tmp_path / "scratch").iterdir()
    assert files.load("a row / 1", "f") is not None
    path.write_bytes(change(path.read_bytes()))
    later = ResumeStates(open_storage(tmp_path), events.append)
    assert later.load("a row / 1", "f") is None
    (event,) = events
    assert (event.kind, event.row, event.error) == ("resumed", "a row / 1", "ValueError")
    assert event.message == f"{path} {told}; the rendering begins at step 0"
    later.leave("a row / 1")
    assert not path.exists()


def file_with(head: Mapping[str, object]) -> bytes:
    """A file whose line of JSON has other keys; those that are None are left out."""
    _, line, arrays = pack(state(), "f").split(b"\n", 2)
    kept = {key: value for key, value in {**json.loads(line), **head}.items() if value is not None}
    content = json.dumps(kept).encode() + b"\n" + arrays
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def test_a_new_release_goes_on_with_the_files_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    file = pack(state(), "f")
    monkeypatch.setattr(resume_states, "__version__", "9.0.0")
    assert unpack(file, "f").step == 3
    # Written before files had a format.
    assert unpack(file_with({"format": None}), "f").step == 3


def test_a_file_of_another_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^has format 2, and this release reads format 1$"):
        unpack(file_with({"format": 2}), "f")
    monkeypatch.setattr(resume_states, "FORMAT", 2)
    with pytest.raises(ValueError, match=r"^has format 1, and this release reads format 2$"):
        unpack(file_with({"format": None}), "f")


def test_a_storage_that_refuses_is_told_of_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise StorageError("503 slow down")

    events: list[WorkerEvent] = []
    files = ResumeStates(open_storage(tmp_path), events.append)
    for method in ("read_bytes", "write_bytes", "delete"):
        monkeypatch.setattr(Storage, method, refuse)
    assert files.load("x", "f") is None
    files.keep(SavedState("x", "f", state()))
    files.leave("x")
    assert [(event.kind, event.row, event.message) for event in events] == [
        ("resumed", "x", "503 slow down"),
        ("saved", "x", "503 slow down"),
        ("saved", "x", "503 slow down"),
    ]


def test_only_what_was_seen_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, asked = ResumeStates(open_storage(tmp_path), ignore_event), []
    monkeypatch.setattr(Storage, "delete", lambda _, path: asked.append(path))
    assert files.load("x", "f") is None
    files.leave("x")
    assert asked == []
    files.keep(SavedState("x", "f", state()))
    files.leave("x")
    files.leave("x")
    assert asked == ["scratch/x.state"]


def test_on_an_object_store(s3_bucket: str) -> None:
    events: list[WorkerEvent] = []
    output = open_storage(f"s3://{s3_bucket}/out")
    files = ResumeStates(output, events.append)
    assert files.load("x", "f") is None
    for step in (1, 2):
        files.keep(SavedState("x", "f", state(step)))
    after = ResumeStates(output, events.append).load("x", "f")
    assert after is not None
    assert after.step == 2
    files.leave("x")
    assert output.list("scratch") == []
    assert [(event.kind, event.step, event.error) for event in events] == [
        ("saved", 1, None),
        ("saved", 2, None),
    ]


def test_clear(tmp_path: Path) -> None:
    clear(open_storage(tmp_path))
    for row_id in "abc":
        ResumeStates(open_storage(tmp_path), ignore_event).keep(SavedState(row_id, "f", state()))
    # Of a worker that was killed while it wrote.
    (tmp_path / "scratch" / f".{'0' * 32}.tmp").write_bytes(b"half")
    (tmp_path / "run.yaml").touch()
    clear(open_storage(tmp_path))
    assert list((tmp_path / "scratch").iterdir()) == []
    assert (tmp_path / "run.yaml").exists()


# --- which states are saved ------------------------------------------------------------------------------


def run(saving: StateSaver, *steps: int) -> None:
    listener = saving.listener("x", "f")
    assert listener is not None
    for step in steps:
        listener(state(step))


def step_of(saved: SavedState) -> int | None:
    return None if saved.state is None else saved.state.step


def test_every_kth_is_saved_and_on_demand_the_latest_and_all_after() -> None:
    saved: list[SavedState] = []
    saving = StateSaver(3, saved.append)
    run(saving, *range(1, 8))
    assert [step_of(each) for each in saved] == [3, 6]
    saving.save_latest(and_all_after=True)
    saving.save_latest()
    assert [step_of(each) for each in saved] == [3, 6, 7]
    run(saving, 8, 9)
    assert [step_of(each) for each in saved] == [3, 6, 7, 8, 9]
    assert {(each.row_id, each.fingerprint) for each in saved} == {("x", "f")}


def test_what_is_rendered_is_not_saved() -> None:
    saved: list[SavedState] = []
    saving = StateSaver(3, saved.append)
    run(saving, 1)
    saving.forget()
    saving.save_latest()
    assert saved == []


def test_what_is_not_trusted_is_replaced_by_nothing() -> None:
    saved: list[SavedState] = []
    saving = StateSaver(3, saved.append)
    run(saving, 1)
    saving.distrust("x", "f")
    saving.save_latest()
    assert [step_of(each) for each in saved] == [None]


def test_nothing_is_saved_where_nobody_asked_for_it() -> None:
    saved: list[SavedState] = []
    saving = StateSaver(None, saved.append)
    assert saving.listener("x", "f") is None
    saving.save_latest(and_all_after=True)
    saving.distrust("x", "f")
    assert saved == []
