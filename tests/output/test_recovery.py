"""Finished videos that no ledger entry names: which are adopted, and which are rendered again."""

from __future__ import annotations

import dataclasses
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.fake_engine import FAKE_ENGINE, resolved
from tests.policies import AT_ONCE
from tests.runtime.scheduling.simulation import Actor, GangBehaviour, Simulation, rows
from tests.runtime.worker.in_process import Heard
from tests.storage.s3_traffic import Traffic
from vidgen_dist import media, quality
from vidgen_dist.families.common.rendering import ResumeState
from vidgen_dist.ledger import LedgerEntry, LedgerWriter, read_ledger
from vidgen_dist.output import recovery
from vidgen_dist.output.fingerprint import Identity
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.output.recovery import RecoveredVideo, find_recovered, mark_maybe_stored, max_unrecorded
from vidgen_dist.output.resume_states import ResumeStates, SavedState
from vidgen_dist.provenance import provenance_tags
from vidgen_dist.request import FIELDS
from vidgen_dist.runtime.messages import Job, WorkerMessage
from vidgen_dist.runtime.worker.worker import Worker
from vidgen_dist.spec import ModelOptions, OutputOptions, TopologyOptions
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import Storage, open_storage
from vidgen_dist.storage.names import safe_name
from vidgen_dist.worker_events import WorkerEvent, ignore_event

_SLOPE = np.add.outer(np.arange(16), np.arange(24)) * 5 + np.arange(3)[:, None, None] * 10
FRAMES = np.repeat(_SLOPE[..., None], 3, axis=-1).astype(np.uint8)
FINGERPRINT = "ab" * 32
ODD_ID = "A row / 1 = 50%"


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an output may be."""
    if request.param == "folder":
        return str(tmp_path / "out")
    return f"s3://{request.getfixturevalue('s3_bucket')}/out"


def job(root: str, format: str, **output: Any) -> Job:
    identity = Identity(model="m", task="text-to-video", dtype="float32", format=format, crf=None)
    return Job(
        FAKE_ENGINE,
        ModelOptions(id="fake"),
        "cpu",
        open_storage(root),
        OutputOptions(uri=root, format=format, **output),
        identity,
        pa.schema([]),
        retries=AT_ONCE,
    )


def row(row_id: str = ODD_ID, height: int = 16, fps: float = 60.0) -> PendingRow:
    request = resolved(prompt="a fox", id=row_id, height=height, width=24, num_frames=3, seed=7, fps=fps)
    return PendingRow(request, maybe_stored=True)


def store(
    job: Job,
    folder: Path,
    tagged: str = ODD_ID,
    frames: media.Frames = FRAMES,
    fingerprint: str = FINGERPRINT,
) -> media.EncodedVideo:
    """Store a video as a worker does, under the name of `row()`."""
    format = job.output_options.format
    video = media.write_video(
        frames,
        folder / ("video" if format == "png" else f"video.{format}"),
        format=format,
        fps=60.0,
        crf=18,
        tags=provenance_tags(id=tagged, model="fake", revision=None, seed=7, fingerprint=fingerprint),
    )
    media.commit_video(job.output, video, safe_name(ODD_ID))
    return video


def look(job: Job, wanted: PendingRow | None = None) -> RecoveredVideo | None:
    return find_recovered(
        job.output,
        job.output_options,
        wanted or row(),
        FINGERPRINT,
        threading.Event(),
        ignore_event,
        job.retries,
    )


@pytest.mark.parametrize("format", ["mp4", "gif", "png"])
def test_a_finished_video_is_found(root: str, format: str, tmp_path: Path) -> None:
    """All that its entry would have said is known of it."""
    there = job(root, format)
    assert look(there) is None
    video = store(there, tmp_path)
    found = look(there)
    assert found is not None
    for name in ("bytes", "sha256", "frames", "fps", "width", "height"):
        assert getattr(found.video, name) == getattr(video, name)
    assert found.video.fps == (50.0 if format == "gif" else 60.0)
    (file, *_) = open_storage(root).list("videos")
    assert found.uri == open_storage(root).uri(file.rpartition("/")[0] if format == "png" else file)
    exact, measured = quality.measure(FRAMES), found.quality
    if format == "png":
        assert measured == exact
    for name in ("mean_luma", "motion", "clipped", "noisiness"):
        assert getattr(measured, name) == pytest.approx(getattr(exact, name), abs=0.01)


@pytest.mark.parametrize(("format", "requests"), [("mp4", 1), ("png", 3), ("npy", 0)])
def test_what_it_costs_to_find_nothing(
    format: str, requests: int, s3_bucket: str, s3_traffic: Traffic
) -> None:
    assert look(job(f"s3://{s3_bucket}/out", format)) is None
    assert s3_traffic.counts.total() == requests


@pytest.mark.parametrize("format", ["mp4", "gif", "png"])
def test_of_another_row_or_other_pixels_it_is_none(format: str, tmp_path: Path) -> None:
    there = job(str(tmp_path / "out"), format)
    store(there, tmp_path, tagged="another")
    assert look(there) is None
    store(there, tmp_path, fingerprint="cd" * 32)
    assert look(there) is None
    store(there, tmp_path)
    assert look(there) is not None
    assert look(there, row(height=32)) is None


def test_an_odd_size_is_that_of_the_file(tmp_path: Path) -> None:
    there = job(str(tmp_path / "out"), "mp4")
    store(there, tmp_path, frames=FRAMES[:, :15])
    found = look(there, row(height=15))
    assert found is not None
    assert found.video.height == 16


@pytest.mark.parametrize("format", ["mp4", "gif"])
def test_a_torn_one_is_none(format: str, tmp_path: Path) -> None:
    """Wherever it was cut, also between two frames."""
    there = job(str(tmp_path / "out"), format)
    store(there, tmp_path)
    (path,) = (tmp_path / "out").glob("videos/*/*")
    whole = path.read_bytes()
    cuts = [0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 40, len(whole) - 2, len(whole) - 1]
    if format == "gif":
        # Each frame begins with a graphic control extension.
        cuts += [place for place in range(len(whole)) if whole.startswith(b"!\xf9\x04", place)]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        assert look(there) is None, cut
    path.write_bytes(whole)
    assert look(there) is not None


def test_of_folders_of_frames_the_whole_one_is_found(tmp_path: Path) -> None:
    there = job(str(tmp_path / "out"), "png")
    store(there, tmp_path, frames=FRAMES[::-1], fingerprint="cd" * 32)
    video = store(there, tmp_path)
    (folder,) = (tmp_path / "out").glob(f"videos/*/*/{video.sha256[:16]}")
    (folder / f".{'0' * 32}.tmp").touch()
    found = look(there)
    assert found is not None
    assert found.uri == str(folder)
    (folder / "000002.png").rename(tmp_path / "last")
    assert look(there) is None


def test_one_that_the_run_rejects_is_none(tmp_path: Path) -> None:
    store(job(str(tmp_path / "out"), "mp4"), tmp_path, frames=np.zeros_like(FRAMES))
    assert look(job(str(tmp_path / "out"), "mp4")) is not None
    assert look(job(str(tmp_path / "out"), "mp4", reject=("frozen",))) is None


def test_without_tags_it_is_none(tmp_path: Path) -> None:
    there = job(str(tmp_path / "out"), "npy")
    store(there, tmp_path)
    assert look(there) is None


def test_a_storage_that_fails_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = job(str(tmp_path / "out"), "png")
    store(there, tmp_path)
    sizes, asked = Storage.sizes, 0

    def refuse(*arguments: Any) -> dict[str, int]:
        nonlocal asked
        asked += 1
        if asked < 4:
            raise StorageError("503 slow down")
        return sizes(*arguments)

    monkeypatch.setattr(Storage, "sizes", refuse)
    assert look(there) is not None
    asked = -100
    with pytest.raises(StorageError):
        look(there)


def test_first_rows_of_each_shape_are_sought() -> None:
    large = [PendingRow(resolved(id=f"l{i}", height=64)) for i in range(4)]
    small = rows(4)
    given = [row for pair in zip(large, small, strict=True) for row in pair]
    assert [row.id for row in mark_maybe_stored(iter(given), 2, FIELDS) if row.maybe_stored] == [
        "l0",
        "0",
        "l1",
        "1",
    ]
    assert [row.id for row in mark_maybe_stored(iter(given), 2, FIELDS)] == [row.id for row in given]
    few, many = (max_unrecorded(TopologyOptions(replicas=replicas, shard_size=8)) for replicas in (1, 100))
    assert many - few == 99 * 12
    assert max_unrecorded(TopologyOptions(replicas="auto")) < max_unrecorded(
        TopologyOptions(replicas="auto", npus=1000)
    )


class Seeking(Simulation):
    """Notes which rows were in the hand of a gang that died, and which are sought when they go out."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.held: set[str] = set()
        self.maybe_stored: set[str] = set()

    def _end(self, actor: Actor, at: float) -> None:
        if not actor.stopping:
            self.held |= set(actor.held)
        super()._end(actor, at)

    def _submit(self, actor: Actor, at: float, shard: list[PendingRow]) -> None:
        self.maybe_stored |= {row.id for row in shard if row.maybe_stored}
        super()._submit(actor, at, shard)


def test_what_a_lost_gang_had_in_hand_is_sought() -> None:
    behaviour = GangBehaviour(render=lambda *_: 60.0, life=lambda name: 200.0 if name == "run-0001" else 1e9)
    cluster = Seeking(behaviour, {"n": 2})
    cluster.supervisor(40, 2).work()
    assert cluster.held
    assert cluster.held == cluster.maybe_stored
    assert len(cluster.done_at) == 40


def worked(job: Job, *wanted: PendingRow) -> tuple[list[WorkerMessage], list[WorkerEvent]]:
    """What a worker says of rows, and what it notes."""
    events: list[WorkerEvent] = []
    heard = Heard(Worker(job, "w1", events.append))
    heard.worker.start(None)
    heard.worker.submit(wanted)
    heard.until("done", "failed")
    heard.worker.stop(False)
    return [event for event in heard.until("stopped") if event.id is not None], events


def test_a_worker_enters_what_is_there(tmp_path: Path) -> None:
    there = job(str(tmp_path / "out"), "mp4", checkpoint_every=1)
    rendered, _ = worked(there, row())
    # As a worker leaves it that dies between the two.
    ResumeStates(there.output, ignore_event).save(SavedState(ODD_ID, FINGERPRINT, ResumeState(1, {}, {})))
    assert open_storage(there.output.root).list("scratch")
    recovered, events = worked(there, row())
    assert not open_storage(there.output.root).list("scratch")
    assert [event.kind for event in recovered] == [event.kind for event in rendered]
    assert (rendered[-1].recovered, recovered[-1].recovered) == (False, True)
    whats = [event.kind for event in events]
    assert ("committed" in whats, "adopted" in whats) == (False, True)
    before, after = rendered[-1].entry, recovered[-1].entry
    assert before is not None
    assert after is not None
    seconds = {name for name in vars(before) if name.startswith("seconds_")}
    assert all(getattr(after, name) is None for name in seconds)
    measured = {"mean_luma", "motion", "clipped", "noisiness"}
    for name in vars(before).keys() - seconds - measured - {"finished_at"}:
        assert getattr(after, name) == getattr(before, name), name


@pytest.mark.parametrize("change", [{"maybe_stored": False}, {"invalidated": True}])
def test_a_row_that_is_not_looked_for_or_whose_video_was_lost_is_rendered(
    tmp_path: Path, change: dict[str, bool]
) -> None:
    there = job(str(tmp_path / "out"), "mp4")
    worked(there, row())
    events, _ = worked(there, dataclasses.replace(row(), **change))
    assert (events[-1].kind, events[-1].recovered) == ("done", False)


def test_where_the_storage_does_not_say_it_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("503 slow down")

    monkeypatch.setattr(recovery, "fetch_video", refuse)
    messages, events = worked(job(str(tmp_path / "out"), "mp4"), row())
    assert (messages[-1].kind, messages[-1].recovered) == ("done", False)
    assert [event.message for event in events if event.kind == "adopted"] == ["503 slow down"]


def test_a_ledger_knows_what_was_lost(tmp_path: Path) -> None:
    """Also if it failed since; not if it was done since."""
    output, begun = open_storage(tmp_path), datetime(2026, 1, 1, tzinfo=UTC)
    histories = {
        "done": ["done"],
        "failed": ["failed"],
        "lost": ["done", "lost"],
        "lost-failed": ["done", "lost", "failed"],
        "lost-done": ["done", "lost", "done"],
    }
    with LedgerWriter(output, "run") as writer:
        for row_id, statuses in histories.items():
            for number, status in enumerate(statuses):
                told: Any = {"error_class": None if status == "done" else "X", "uri": "u"}
                # A lost entry has attempt and time of the one that it takes back.
                attempt = number if status == "lost" else number + 1
                at = begun + timedelta(minutes=attempt)
                told |= {"id": row_id, "status": status, "fingerprint": "f"}
                writer.append(LedgerEntry(attempt=attempt, finished_at=at, **told))
    ids = [*histories, "unknown"]
    lost = read_ledger(output).look_up(pa.array(ids), pa.array(["f"] * len(ids))).lost
    assert [row_id for row_id, is_lost in zip(ids, lost, strict=True) if is_lost] == ["lost", "lost-failed"]
