"""Workers in this process, alone or as a gang, with the fast fake engine; and rows for them."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.fake_engine import FAKE_ENGINE, resolved
from tests.waiting import PATIENCE
from vidgen_dist.output.fingerprint import Identity
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.runtime.messages import Job, WorkerMessage
from vidgen_dist.runtime.worker.row_consensus import RankResult
from vidgen_dist.runtime.worker.worker import Worker
from vidgen_dist.spec import ModelOptions, OutputOptions
from vidgen_dist.storage.folder import open_storage

IDENTITY = Identity(model="m", task="text-to-video", dtype="float32", format="npy", crf=None)
PASSTHROUGH = pa.schema([("source", pa.string())])


class Heard:
    """Collects a worker's events."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.events: list[WorkerMessage] = []

    def until(self, *wanted: str) -> list[WorkerMessage]:
        """Wait until an event of one of these kinds has come."""
        end = time.monotonic() + PATIENCE
        while not any(event.kind in wanted for event in self.events):
            assert time.monotonic() < end, f"no {wanted} in {self.events}"
            self.events += self.worker.poll(0.2).messages
        return self.events

    def of(self, kind: str) -> list[str | None]:
        return [event.id for event in self.events if event.kind == kind]

    def entries(self) -> list[dict[str, Any]]:
        """What the ledger is to say, by column."""
        entries = [event.entry for event in self.events if event.entry is not None]
        return [{**vars(entry), **entry.extra} for entry in entries]


class Announcing:
    """The followers of a gang whose ranks are all in this process; remembers what was announced."""

    def __init__(self, followers: list[Worker]) -> None:
        self.followers = followers
        self.announced: list[PendingRow] = []
        self.pool = ThreadPoolExecutor(len(followers))

    def announce(self, row: PendingRow) -> list[Future[RankResult]]:
        self.announced.append(row)
        return [self.pool.submit(follower.follow, row) for follower in self.followers]


def start_gang(
    output: Path, ranks: int, checkpoint_every: int | None = None
) -> tuple[list[Heard], Announcing]:
    """Workers that are a gang, the leader first, their models loaded."""
    degrees = Degrees(ulysses=ranks)
    job = Job(
        FAKE_ENGINE,
        ModelOptions(id="fake"),
        "cpu",
        open_storage(output),
        OutputOptions(uri=str(output), format="npy", checkpoint_every=checkpoint_every),
        IDENTITY,
        PASSTHROUGH,
        degrees,
    )
    gang = [Heard(Worker(job, f"w{rank}")) for rank in range(ranks)]
    for heard in gang:
        heard.worker.start(None, "127.0.0.1")
    addresses = [heard.until("seated")[0].message for heard in gang]
    followers = Announcing([heard.worker for heard in gang[1:]])
    for rank, heard in enumerate(gang):
        heard.worker.join(addresses, rank, None if rank else followers)
    for heard in gang:
        heard.until("ready")
    return gang, followers


def row(row_id: str, prompt: str = "a fox", **fields: Any) -> PendingRow:
    defaults = {"height": 16, "width": 24, "num_frames": 3, "seed": 7, "fps": 8.0}
    request = resolved(**{"prompt": prompt, "id": row_id, **defaults, **fields})
    return PendingRow(request=request, attempt=2, passthrough={"source": f"of {row_id}"})


def finish(heard: Heard) -> None:
    heard.worker.stop(now=False)
    heard.until("stopped")
