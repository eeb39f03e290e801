"""Workers in this process, alone or as a gang, with the fast fake engine; and rows for them."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.fake_engine import FAKE_ENGINE, resolved
from tests.policies import AT_ONCE
from tests.waiting import PATIENCE
from vidgen_dist.output.fingerprint import Identity
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.runtime.messages import Job, WorkerMessage
from vidgen_dist.runtime.worker.row_consensus import RankResult
from vidgen_dist.runtime.worker.worker import Worker
from vidgen_dist.spec import ModelOptions, OutputOptions
from vidgen_dist.storage.folder import open_storage
from vidgen_dist.worker_events import OnWorkerEvent, ignore_event

IDENTITY = Identity(model="m", task="text-to-video", dtype="float32", format="npy", crf=None)
PASSTHROUGH = pa.schema([("source", pa.string())])
ALONE = Degrees()


class WorkerHarness:
    """Runs a worker, and collects its messages."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.messages: list[WorkerMessage] = []

    def until(self, *wanted: str) -> list[WorkerMessage]:
        """Wait for a message of one of these kinds; returns all messages so far."""
        end = time.monotonic() + PATIENCE
        while not any(message.kind in wanted for message in self.messages):
            assert time.monotonic() < end, f"no {wanted} in {self.messages}"
            self.messages += self.worker.poll(0.2).messages
        return self.messages

    def of(self, kind: str) -> list[str | None]:
        return [message.id for message in self.messages if message.kind == kind]

    def entries(self) -> list[dict[str, Any]]:
        """The ledger entries, by column."""
        entries = [message.entry for message in self.messages if message.entry is not None]
        return [{**vars(entry), **entry.extra} for entry in entries]


class LocalFollowers:
    """The followers of a gang whose ranks are all in this process; records what was announced."""

    def __init__(self, followers: list[Worker]) -> None:
        self.followers = followers
        self.announced: list[PendingRow] = []
        self.pool = ThreadPoolExecutor(len(followers))

    def announce(self, row: PendingRow) -> list[Future[RankResult]]:
        self.announced.append(row)
        return [self.pool.submit(follower.follow, row) for follower in self.followers]


def make_job(
    output: Path, model: str = "fake", max_attempts: int = 3, degrees: Degrees = ALONE, **options: Any
) -> Job:
    """The job of workers whose output is a folder; `options` are `OutputOptions`."""
    return Job(
        engine=FAKE_ENGINE,
        model=ModelOptions(id=model),
        device="cpu",
        output=open_storage(output),
        output_options=OutputOptions(**{"uri": str(output), "format": "npy", **options}),
        identity=IDENTITY,
        passthrough=PASSTHROUGH,
        degrees=degrees,
        max_attempts=max_attempts,
        retries=AT_ONCE,
    )


def start_worker(job: Job, on_event: OnWorkerEvent = ignore_event) -> WorkerHarness:
    worker = Worker(job, "w1", on_event)
    worker.start(None)
    return WorkerHarness(worker)


def start_gang(
    output: Path, ranks: int, checkpoint_every: int | None = None
) -> tuple[list[WorkerHarness], LocalFollowers]:
    """The workers of a gang, the leader first, with their models loaded; and the followers."""
    job = make_job(output, degrees=Degrees(ulysses=ranks), checkpoint_every=checkpoint_every)
    gang = [WorkerHarness(Worker(job, f"w{rank}")) for rank in range(ranks)]
    for harness in gang:
        harness.worker.start(None, "127.0.0.1")
    addresses = [harness.until("seated")[0].message for harness in gang]
    followers = LocalFollowers([harness.worker for harness in gang[1:]])
    for rank, harness in enumerate(gang):
        harness.worker.join(addresses, rank, None if rank else followers)
    for harness in gang:
        harness.until("ready")
    return gang, followers


def row(row_id: str, prompt: str = "a fox", **fields: Any) -> PendingRow:
    defaults = {"height": 16, "width": 24, "num_frames": 3, "seed": 7, "fps": 8.0}
    request = resolved(**{"prompt": prompt, "id": row_id, **defaults, **fields})
    return PendingRow(request=request, attempt=2, passthrough={"source": f"of {row_id}"})


def finish(harness: WorkerHarness) -> None:
    harness.worker.stop(now=False)
    harness.until("stopped")
