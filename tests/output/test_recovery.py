"""Finished videos that no ledger entry names: which are recovered, and which rows are rendered again."""

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
from tests.runtime.worker.in_process import WorkerHarness
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
    """The root of an output, in a folder or on S3."""
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
    """All values of its ledger entry are known."""
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
def test_requests_if_there_is_no_video(
    format: str, requests: int, s3_bucket: str, s3_traffic: Traffic
) -> None:
    assert look(job(f"s3://{s3_bucket}/out", format)) is None
    assert s3_traffic.counts.total() == requests


@pytest.mark.parametrize("format", ["mp4", "gif", "png"])
def test_a_video_of_another_row_or_fingerprint_does_not_count(format: str, tmp_path: Path) -> None:
    there = job(str(tmp_path / "out"), format)
    store(there, tmp_path, tagged="another")
    assert look(there) is None
    store(there, tmp_path, fingerprint="cd" * 32)
    assert look(there) is None
    store(there, tmp_path)
    assert look(there) is not None
    assert look(there, row(height=32)) is None


def test_the_size_of_the_file_may_be_rounded_up(tmp_path: Path) -> None:
    there = job(str(tmp_path / "out"), "mp4")
    store(there, tmp_path, frames=FRAMES[:, :15])
    found = look(there, row(height=15))
    assert found is not None
    assert found.video.height == 16


@pytest.mark.parametrize("format", ["mp4", "gif"])
def test_a_torn_video_does_not_count(format: str, tmp_path: Path) -> None:
    """Wherever it was cut, even between two frames."""
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


def test_the_complete_folder_of_frames_is_found(tmp_path: Path) -> None:
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


def test_a_video_that_the_run_rejects_does_not_count(tmp_path: Path) -> None:
    store(job(str(tmp_path / "out"), "mp4"), tmp_path, frames=np.zeros_like(FRAMES))
    assert look(job(str(tmp_path / "out"), "mp4")) is not None
    assert look(job(str(tmp_path / "out"), "mp4", reject=("frozen",))) is None


def test_a_video_without_tags_does_not_count(tmp_path: Path) -> None:
    there = job(str(tmp_path / "out"), "npy")
    store(there, tmp_path)
    assert look(there) is None


def test_failed_requests_are_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = job(str(tmp_path / "out"), "png")
    store(there, tmp_path)
    sizes, calls = Storage.sizes, 0

    def refuse(*arguments: Any) -> dict[str, int]:
        nonlocal calls
        calls += 1
        if calls < 4:
            raise StorageError("503 slow down")
        return sizes(*arguments)

    monkeypatch.setattr(Storage, "sizes", refuse)
    assert look(there) is not None
    calls = -100
    with pytest.raises(StorageError):
        look(there)


def test_the_first_rows_of_each_shape_are_looked_for() -> None:
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
    with_loras = [
        PendingRow(resolved(id=f"{name}{i}", lora=(name,), lora_scale=(1.0,)))
        for name in "ab"
        for i in range(3)
    ]
    marked = [row.id for row in mark_maybe_stored(iter(with_loras), 2, FIELDS) if row.maybe_stored]
    assert marked == ["a0", "a1", "b0", "b1"]
    few, many = (max_unrecorded(TopologyOptions(replicas=replicas, shard_size=8)) for replicas in (1, 100))
    assert many - few == 99 * 12
    assert max_unrecorded(TopologyOptions(replicas="auto")) < max_unrecorded(
        TopologyOptions(replicas="auto", npus=1000)
    )


class RecordingSimulation(Simulation):
    """Records which rows a gang had that died, and which rows are `maybe_stored` when they are handed out."""

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


def test_the_rows_of_a_lost_gang_are_looked_for() -> None:
    behaviour = GangBehaviour(render=lambda *_: 60.0, life=lambda name: 200.0 if name == "run-0001" else 1e9)
    cluster = RecordingSimulation(behaviour, {"n": 2})
    cluster.supervisor(40, 2).work()
    assert cluster.held
    assert cluster.held == cluster.maybe_stored
    assert len(cluster.done_at) == 40


def run_worker(job: Job, *wanted: PendingRow) -> tuple[list[WorkerMessage], list[WorkerEvent]]:
    """Let a worker render rows; returns its messages about them, and all of its events."""
    events: list[WorkerEvent] = []
    harness = WorkerHarness(Worker(job, "w1", events.append))
    harness.worker.start(None)
    harness.worker.submit(wanted)
    harness.until("done", "failed")
    harness.worker.stop(False)
    return [message for message in harness.until("stopped") if message.id is not None], events


def test_a_worker_reports_a_stored_video(tmp_path: Path) -> None:
    there = job(str(tmp_path / "out"), "mp4", checkpoint_every=1)
    rendered, _ = run_worker(there, row())
    # A worker that dies after storing the video leaves its resume state.
    ResumeStates(there.output, ignore_event).save(SavedState(ODD_ID, FINGERPRINT, ResumeState(1, {}, {})))
    assert open_storage(there.output.root).list("scratch")
    recovered, events = run_worker(there, row())
    assert not open_storage(there.output.root).list("scratch")
    assert [message.kind for message in recovered] == [message.kind for message in rendered]
    assert (rendered[-1].recovered, recovered[-1].recovered) == (False, True)
    kinds = [event.kind for event in events]
    assert ("committed" in kinds, "adopted" in kinds) == (False, True)
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
    run_worker(there, row())
    messages, _ = run_worker(there, dataclasses.replace(row(), **change))
    assert (messages[-1].kind, messages[-1].recovered) == ("done", False)


def test_if_the_storage_does_not_answer_the_row_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("503 slow down")

    monkeypatch.setattr(recovery, "fetch_video", refuse)
    messages, events = run_worker(job(str(tmp_path / "out"), "mp4"), row())
    assert (messages[-1].kind, messages[-1].recovered) == ("done", False)
    assert [event.message for event in events if event.kind == "adopted"] == ["503 slow down"]


def test_the_ledger_knows_which_videos_were_lost(tmp_path: Path) -> None:
    """Even if the row has failed since; not if it was done since."""
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
                values: Any = {"error_class": None if status == "done" else "X", "uri": "u"}
                # A lost entry has the attempt and time of the entry that it invalidates.
                attempt = number if status == "lost" else number + 1
                at = begun + timedelta(minutes=attempt)
                values |= {"id": row_id, "status": status, "fingerprint": "f"}
                writer.append(LedgerEntry(attempt=attempt, finished_at=at, **values))
    ids = [*histories, "unknown"]
    lost = read_ledger(output).look_up(pa.array(ids), pa.array(["f"] * len(ids))).lost
    assert [row_id for row_id, is_lost in zip(ids, lost, strict=True) if is_lost] == ["lost", "lost-failed"]
