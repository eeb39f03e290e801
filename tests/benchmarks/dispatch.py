"""How fast rows go out to gangs, and how well gangs are kept busy.

    python -m tests.benchmarks.dispatch [--gangs 64] [--rows 50_000] [--without-ray]

Three measurements, all of the crew that `vidgen render` runs:

- rows a second with gangs of one whose rows take no time, in this process, without Ray;
- the same over Ray actors on this machine: real messages, workers that make entries at once, without a model,
  a storage or a log; from when all have started. Processor seconds of the driver and of the workers are
  printed beside those of the clock: on a cluster each worker has cores of its own, here all share a few;
- a thousand simulated gangs: rows of a minute (log-normal, sigma 0.3), three gangs in a hundred three times
  slower, and a life of a week each, in simulated time on which the crew's own processor time is charged, and
  `CALL_SECONDS` for each message. `busy` is the share of time in which gangs with a loaded model rendered,
  until 99 of 100 rows were done; `tail` is the time of the last one of 100.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray

from tests.runtime.scheduling.simulation import GangBehaviour, Simulation, rows
from vidgen_dist.media import EncodedVideo
from vidgen_dist.output.fingerprint import Identity
from vidgen_dist.output.ledger_entries import done_entry
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.quality import Quality
from vidgen_dist.runtime.connection import connected
from vidgen_dist.runtime.interrupts import Interrupts
from vidgen_dist.runtime.messages import Job, WorkerMessage
from vidgen_dist.runtime.scheduling.launcher import Launcher
from vidgen_dist.runtime.scheduling.supervisor import Supervisor
from vidgen_dist.runtime.watchdog import LIMITS
from vidgen_dist.runtime.worker.actor import WorkerActor
from vidgen_dist.runtime.worker.worker import Worker
from vidgen_dist.spec import ModelOptions, OutputOptions, TopologyOptions
from vidgen_dist.storage.folder import open_storage

ROWS_PER_SECOND = 2_000
"""What dispatch must reach."""

BUSY = 0.98
"""Share of time in which a thousand gangs must render."""

CALL_SECONDS = 0.0009
"""Processor seconds of the driver for a message to or from an actor, the most that was measured over Ray."""

WEEK = 7 * 24 * 3600.0

VIDEO = EncodedVideo(Path("video.mp4"), 400_000, "0" * 64, frames=49, fps=8.0, width=720, height=480)
"""What a row becomes; nobody looks at it."""


@dataclass(frozen=True)
class Pace:
    """What so many rows took.

    Args:
        rows: How many.
        seconds: Of the clock.
        driver, workers: Processor seconds of the driver, and of all workers together.
        messages: To workers and from them.
    """

    rows: int
    seconds: float
    driver: float
    workers: float
    messages: int

    def since(self, before: Pace) -> Pace:
        """What was taken since."""
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
    parser.add_argument("--gangs", type=int, default=64, help="Of those whose rows take no time.")
    parser.add_argument("--rows", type=int, default=50_000, help="For them.")
    parser.add_argument(
        "--shard-size",
        type=int,
        default=TopologyOptions().shard_size,
        help="Rows for a gang at once, at most.",
    )
    parser.add_argument("--without-ray", action="store_true", help="Leave the measurement over Ray out.")
    parser.add_argument("--simulated", type=int, default=1_000, help="Gangs with a real spread of times.")
    parser.add_argument("--each", type=int, default=100, help="Rows for each of them.")
    arguments = parser.parse_args()
    gangs, count = arguments.gangs, arguments.rows
    print(f"without Ray: {without_ray(gangs, count, arguments.shard_size)}", flush=True)
    if not arguments.without_ray:
        print(f"over Ray: {over_ray(gangs, count, arguments.shard_size)}", flush=True)
    simulate(arguments.simulated, arguments.each, arguments.shard_size)


def without_ray(gangs: int, count: int, shard_size: int) -> Pace:
    """The crew alone."""
    cluster = Simulation(GangBehaviour(render=lambda *_: 0.0, load=0.0, write=0.0), {"n": gangs})
    supervisor = cluster.supervisor(count, gangs, shard_size=shard_size)
    begun = time.perf_counter()
    supervisor.work()
    return Pace(count, time.perf_counter() - begun, cluster.driver_seconds, 0.0, cluster.messages)


class Instant(WorkerActor):
    """A worker whose rows are rendered and entered at once, and which keeps no log."""

    def __init__(self, job: Job, name: str, _replica: int) -> None:
        Worker.__init__(self, job, name)

    def _render_rows(self, _cores: Sequence[int] | None, _host: str | None) -> None:
        output = Path(self._job.output.root)
        (output / f"{os.getpid()}.here").touch()
        while not (output / "go").exists():
            time.sleep(0.05)
        self._say(WorkerMessage("ready"))
        while isinstance(row := self._rows.get(), PendingRow):
            self._say(WorkerMessage("started", row.id))
            self._say(WorkerMessage("rendered", row.id))
            seconds = {"encode": 0.0, "denoise": 0.0, "decode": 0.0, "write": 0.0}
            entry = done_entry(
                self._job.model,
                "worker",
                row,
                "0" * 32,
                VIDEO,
                str(VIDEO.path),
                seconds,
                Quality(0.5, 0.1, 0.0, 0.0),
            )
            self._say(WorkerMessage("done", row.id, entry=entry))


class InstantLauncher(Launcher):
    """Launches `Instant`, and counts messages."""

    def __init__(self, job: Job, replicas: int) -> None:
        super().__init__(job, replicas)
        self._actor = ray.remote(Instant)
        self.messages = 0

    def _post(self, *call: object) -> None:
        self.messages += 1
        super()._post(*call)

    def hear(self, seconds: float) -> list:
        said = super().hear(seconds)
        self.messages += len(said)
        return said


def over_ray(gangs: int, count: int, shard_size: int) -> Pace:
    """The crew and Ray."""
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
        launcher = InstantLauncher(job, gangs)
        go = Path(output) / "go"
        done: list[WorkerMessage] = []
        taken: list[Pace] = []

        def look(workers: list[Path]) -> None:
            cpu = sum(_processor_seconds(int(worker.stem)) for worker in workers)
            taken.append(Pace(len(done), time.perf_counter(), time.process_time(), cpu, launcher.messages))

        def start_together(_ready: int, _waiting: str) -> None:
            if not taken and len(workers := list(Path(output).glob("*.here"))) == gangs:
                look(workers)
                go.touch()

        def on_result(event: WorkerMessage) -> None:
            done.append(event)
            if len(done) == count:
                look(list(Path(output).glob("*.here")))

        _supervisor(launcher, gangs, count, shard_size, on_result, start_together).work()
        assert len({event.id for event in done}) == count
        return taken[1].since(taken[0])


def _processor_seconds(pid: int) -> float:
    """Of a process and all of its threads, since it began."""
    numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def _supervisor(
    launcher: Launcher,
    gangs: int,
    count: int,
    shard_size: int,
    on_result: Callable[[WorkerMessage], None],
    tick: Callable[[int, str], None],
) -> Supervisor:
    def give_up(row: PendingRow, error: str, message: str) -> None:
        raise RuntimeError(f"{row.id} was given up: {error}: {message}")

    return Supervisor(
        launcher=launcher,
        replicas=gangs,
        run="run",
        rows=iter(rows(count)),
        pending=count,
        shard_size=shard_size,
        max_attempts=3,
        limits=LIMITS["cpu"],
        on_news=lambda _gang, _event: None,
        on_loss=lambda _gang, _why: None,
        on_result=on_result,
        give_up=give_up,
        stuck=lambda: "",
        interrupts=Interrupts(),
        tick=tick,
    )


def simulate(gangs: int, each: int, shard_size: int) -> None:
    """Print how busy so many gangs are kept, with so many rows for each."""
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
        f"99 % were done ({busy / BUSY:.3f} of {BUSY}); tail {cluster.tail():.0f} s of {length:,.0f} s; driver "
        f"and messages took {cluster.driver_seconds + CALL_SECONDS * cluster.messages:.0f} s of it",
        flush=True,
    )


if __name__ == "__main__":
    main()
