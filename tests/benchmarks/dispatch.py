"""How fast rows are handed out to gangs, and how busy gangs are kept.

    python -m tests.benchmarks.dispatch [--gangs 64] [--rows 50_000] [--without-ray]

Three measurements of the supervisor that `vidgen render` runs:

- rows per second with gangs of one whose rows take no time, in this process, without Ray;
- the same with Ray actors on this machine: real messages, and workers that make entries at once, without a
  model, a storage or a log, from when all have started. Processor seconds of the driver and of the workers
  are printed, too: on a cluster each worker has cores of its own, here all share a few;
- a thousand simulated gangs: rows of a minute (log-normal, sigma 0.3), three gangs in a hundred three times
  slower, and a life of a week each. The simulated clock also counts the supervisor's own processor time, and
  `CALL_SECONDS` for each message. `busy` is the share of time that gangs with a loaded model rendered, until
  99 % of the rows were done; `tail` is the time of the last 1 %.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray

from tests.runtime.scheduling.simulation import GangBehaviour, Simulation, rows
from vidgen_dist.media import EncodedVideo
from vidgen_dist.output.fingerprint import Identity
from vidgen_dist.output.ledger_entries import RowAttempt, done_entry
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.quality import Quality
from vidgen_dist.runtime.connection import connected
from vidgen_dist.runtime.interrupts import Interrupts
from vidgen_dist.runtime.messages import Job, WorkerMessage
from vidgen_dist.runtime.scheduling.gang import Gang
from vidgen_dist.runtime.scheduling.launcher import Launcher
from vidgen_dist.runtime.scheduling.policy import SupervisorPolicy
from vidgen_dist.runtime.scheduling.supervisor import Supervisor
from vidgen_dist.runtime.watchdog import LIMITS
from vidgen_dist.runtime.worker.actor import WorkerActor
from vidgen_dist.runtime.worker.worker import Worker
from vidgen_dist.spec import ModelOptions, OutputOptions, TopologyOptions
from vidgen_dist.storage.folder import open_storage

ROWS_PER_SECOND = 2_000
"""The target."""

BUSY = 0.98
"""The share of time that a thousand gangs must render."""

CALL_SECONDS = 0.0009
"""Processor seconds of the driver for a message to or from an actor, the most that was measured over Ray."""

WEEK = 7 * 24 * 3600.0

VIDEO = EncodedVideo(Path("video.mp4"), 400_000, "0" * 64, frames=49, fps=8.0, width=720, height=480)
"""Every row's video; nothing reads it."""


@dataclass(frozen=True)
class Pace:
    """What a number of rows took.

    Args:
        rows: Their number.
        seconds: Seconds of the clock.
        driver, workers: Processor seconds of the driver, and of all workers together.
        messages: Messages to and from workers.
    """

    rows: int
    seconds: float
    driver: float
    workers: float
    messages: int

    def since(self, before: Pace) -> Pace:
        """The difference to an earlier reading."""
        return Pace(*(getattr(self, f.name) - getattr(before, f.name) for f in fields(self)))

    def __str__(self) -> str:
        each = 1e6 / self.rows
        return (
            f"{self.rows / self.seconds:,.0f} rows/s ({self.rows / self.seconds / ROWS_PER_SECOND:.2f} of "
            f"{ROWS_PER_SECOND:,}); processor time a row: {each * self.driver:.0f} µs of the driver, "
            f"{each * self.workers:.0f} µs of the workers; {self.messages / self.rows:.3f} messages a row, "
            f"of {1e6 * self.driver / self.messages:.0f} µs of the driver"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gangs", type=int, default=64, help="Gangs whose rows take no time.")
    parser.add_argument("--rows", type=int, default=50_000, help="Rows for these gangs.")
    parser.add_argument(
        "--shard-size",
        type=int,
        default=TopologyOptions().shard_size,
        help="The most rows that a gang gets at once.",
    )
    parser.add_argument("--without-ray", action="store_true", help="Skip the measurement with Ray.")
    parser.add_argument(
        "--simulated", type=int, default=1_000, help="Simulated gangs; their rows differ in time."
    )
    parser.add_argument("--each", type=int, default=100, help="Rows for each simulated gang.")
    arguments = parser.parse_args()
    gangs, count = arguments.gangs, arguments.rows
    print(f"without Ray: {without_ray(gangs, count, arguments.shard_size)}", flush=True)
    if not arguments.without_ray:
        print(f"with Ray: {over_ray(gangs, count, arguments.shard_size)}", flush=True)
    simulate(arguments.simulated, arguments.each, arguments.shard_size)


def without_ray(gangs: int, count: int, shard_size: int) -> Pace:
    """The supervisor alone."""
    cluster = Simulation(GangBehaviour(render=lambda *_: 0.0, load=0.0, write=0.0), {"n": gangs})
    supervisor = cluster.supervisor(count, gangs, shard_size=shard_size)
    begun = time.perf_counter()
    supervisor.work()
    return Pace(count, time.perf_counter() - begun, cluster.driver_seconds, 0.0, cluster.messages)


class InstantWorker(WorkerActor):
    """A worker that renders and stores rows in no time, and keeps no log."""

    def __init__(self, job: Job, name: str, _replica: int) -> None:
        Worker.__init__(self, job, name)

    def _render_rows(self, _cores: Sequence[int] | None, _host: str | None) -> None:
        output = Path(self._job.output.root)
        (output / f"{os.getpid()}.started").touch()
        while not (output / "go").exists():
            time.sleep(0.05)
        self._send(WorkerMessage("ready"))
        while isinstance(row := self._rows.get(), PendingRow):
            self._send(WorkerMessage("started", row.id))
            self._send(WorkerMessage("rendered", row.id))
            seconds = {"encode": 0.0, "denoise": 0.0, "decode": 0.0, "write": 0.0}
            attempt = RowAttempt(self._job.model, "worker", row, "0" * 32)
            entry = done_entry(attempt, VIDEO, str(VIDEO.path), seconds, Quality(0.5, 0.1, 0.0, 0.0))
            self._send(WorkerMessage("done", row.id, entry=entry))


class CountingLauncher(Launcher):
    """Launches `InstantWorker`, and counts messages."""

    def __init__(self, job: Job, replicas: int) -> None:
        super().__init__(job, replicas)
        self._actor = ray.remote(InstantWorker)
        self.messages = 0

    def _call(self, *call: object) -> None:
        self.messages += 1
        super()._call(*call)

    def receive(self, seconds: float) -> list:
        answers = super().receive(seconds)
        self.messages += len(answers)
        return answers


class Stopwatch:
    """Takes the time of a run over Ray, from when all workers have started: its supervisor's listener.

    Args:
        output: The run's output.
        launcher: Its launcher.
        gangs: Number of gangs, of one worker each.
        count: Number of rows.
    """

    def __init__(self, output: Path, launcher: CountingLauncher, gangs: int, count: int) -> None:
        self._output = output
        self._launcher = launcher
        self._gangs = gangs
        self._count = count
        self.done: list[str | None] = []
        self.readings: list[Pace] = []

    def _read(self, workers: list[Path]) -> None:
        cpu = sum(_processor_seconds(int(worker.stem)) for worker in workers)
        self.readings.append(
            Pace(len(self.done), time.perf_counter(), time.process_time(), cpu, self._launcher.messages)
        )

    def tick(self, _ready: int, _waiting: str) -> None:
        if not self.readings and len(workers := list(self._output.glob("*.started"))) == self._gangs:
            self._read(workers)
            (self._output / "go").touch()

    def row_ended(self, message: WorkerMessage) -> None:
        self.done.append(message.id)
        if len(self.done) == self._count:
            self._read(list(self._output.glob("*.started")))

    def row_given_up(self, row: PendingRow, error: str, message: str) -> None:
        raise RuntimeError(f"{row.id} was given up: {error}: {message}")

    def row_progressed(self, _gang: Gang, _message: WorkerMessage) -> None:
        pass

    def gang_lost(self, _gang: Gang, _why: str) -> None:
        pass

    def output_fault(self) -> str:
        return ""


def over_ray(gangs: int, count: int, shard_size: int) -> Pace:
    """The supervisor with Ray actors."""
    with tempfile.TemporaryDirectory() as output, connected(TopologyOptions()):
        identity = Identity(model="m", task="t", dtype="float32", format="npy", crf=None)
        job = Job(
            "none",
            ModelOptions(id="m"),
            "cpu",
            open_storage(output),
            OutputOptions(uri=output),
            identity,
            pa.schema([]),
        )
        launcher = CountingLauncher(job, gangs)
        stopwatch = Stopwatch(Path(output), launcher, gangs, count)
        Supervisor(
            launcher=launcher,
            replicas=gangs,
            run="run",
            rows=iter(rows(count)),
            pending=count,
            shard_size=shard_size,
            max_attempts=3,
            limits=LIMITS["cpu"],
            listener=stopwatch,
            interrupts=Interrupts(),
            policy=SupervisorPolicy(),
        ).work()
        assert len(set(stopwatch.done)) == count
        begin, end = stopwatch.readings
        return end.since(begin)


def _processor_seconds(pid: int) -> float:
    """Processor seconds of a process and all of its threads, since it began."""
    numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def simulate(gangs: int, each: int, shard_size: int) -> None:
    """Print how busy gangs are kept, with `each` rows for each of them."""
    count = gangs * each
    rng = np.random.default_rng(1)
    seconds = rng.lognormal(math.log(60), 0.3, count)
    slow = max(1, gangs * 3 // 100)
    behaviour = GangBehaviour(
        render=lambda row_id, replica: seconds[int(row_id)] * (3 if replica < slow else 1),
        life=lambda _: rng.exponential(WEEK),
        call=CALL_SECONDS,
        charged=True,
    )
    cluster = Simulation(behaviour, {"n": gangs})
    cluster.supervisor(count, gangs, shard_size=shard_size).work()
    died = len(cluster.actors) - gangs
    busy, length = cluster.busy_share(), max(cluster.done_at.values())
    print(
        f"{gangs:,} simulated gangs, {count:,} rows, {slow} gangs slow, {died} died: busy {busy:.4f} until "
        f"99 % were done ({busy / BUSY:.3f} of {BUSY}); tail {cluster.tail():.0f} s of {length:,.0f} s; "
        f"driver and messages took {cluster.driver_seconds + CALL_SECONDS * cluster.messages:.0f} s of it",
        flush=True,
    )


if __name__ == "__main__":
    main()
