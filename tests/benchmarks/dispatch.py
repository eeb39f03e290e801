"""How fast rows go out to gangs, and how well gangs are kept busy.

    python -m tests.benchmarks.dispatch [--gangs 64] [--rows 20_000] [--without-ray]

Three measurements, all of the crew that `vidgen render` runs:

- rows a second with gangs of one whose rows take no time, in this process, without Ray;
- the same over Ray actors on this machine: real messages, workers that answer at once without a model or a
  storage; from when all have started. Clock and processor seconds are printed, for the machine may be busy;
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
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray

from tests.runtime.simulation import Habits, Simulation, rows
from vidgen_dist.runtime.cluster import connected
from vidgen_dist.runtime.crew import Crew
from vidgen_dist.runtime.fingerprint import Identity
from vidgen_dist.runtime.gang import Hiring, WorkerActor
from vidgen_dist.runtime.interrupts import Interrupts
from vidgen_dist.runtime.job import Event, Job, Row
from vidgen_dist.runtime.watchdog import LIMITS
from vidgen_dist.spec import Model, Output, Topology

ROWS_PER_SECOND = 2_000
"""What dispatch must reach."""

BUSY = 0.98
"""Share of time in which a thousand gangs must render."""

CALL_SECONDS = 0.0005
"""Processor seconds of the driver for a message to or from an actor; the measurement over Ray shows them."""

WEEK = 7 * 24 * 3600.0
SHARD_SIZE = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gangs", type=int, default=64, help="Of those whose rows take no time.")
    parser.add_argument("--rows", type=int, default=20_000, help="For them.")
    parser.add_argument("--without-ray", action="store_true", help="Leave the measurement over Ray out.")
    parser.add_argument("--simulated", type=int, default=1_000, help="Gangs with a real spread of times.")
    parser.add_argument("--each", type=int, default=100, help="Rows for each of them.")
    arguments = parser.parse_args()
    _tell_pace("without Ray", *without_ray(arguments.gangs, arguments.rows))
    if not arguments.without_ray:
        _tell_pace("over Ray", *over_ray(arguments.gangs, arguments.rows))
    simulate(arguments.simulated, arguments.each)


def _tell_pace(where: str, count: int, seconds: float, cpu: float, calls: int) -> None:
    print(
        f"{where}: {count / seconds:,.0f} rows/s ({count / seconds / ROWS_PER_SECOND:.2f} of "
        f"{ROWS_PER_SECOND:,}); {1e6 * cpu / count:.0f} µs of the driver's processor time a row, "
        f"{calls / count:.2f} messages a row of {1e6 * cpu / max(calls, 1):.0f} µs",
        flush=True,
    )


def without_ray(gangs: int, count: int) -> tuple[int, float, float, int]:
    """Rows, seconds, the crew's processor seconds, messages."""
    cluster = Simulation(Habits(render=lambda *_: 0.0, load=0.0, write=0.0), {"n": gangs})
    crew = cluster.crew(count, gangs, shard_size=SHARD_SIZE)
    begun = time.perf_counter()
    crew.work()
    return count, time.perf_counter() - begun, cluster.driver_seconds, cluster.messages


class Instant(WorkerActor):
    """A worker whose rows are rendered and entered at once."""

    def _render_rows(self, _cores: Sequence[int] | None, _host: str | None) -> None:
        output = Path(self._job.output.uri)
        (output / f"{os.getpid()}.here").touch()
        while not (output / "go").exists():
            time.sleep(0.05)
        self._say(Event("ready"))
        while isinstance(row := self._rows.get(), Row):
            self._say(Event("started", row.id), Event("rendered", row.id), Event("done", row.id))


class InstantHiring(Hiring):
    """Hires `Instant`, and counts messages."""

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


def over_ray(gangs: int, count: int) -> tuple[int, float, float, int]:
    """Rows, seconds, the driver's processor seconds, messages."""
    with tempfile.TemporaryDirectory() as output, connected(Topology()):
        identity = Identity(model="m", task="t", dtype="float32", format="npy", crf=None)
        job = Job("none", Model(id="m"), "cpu", Output(uri=output), identity, pa.schema([]))
        hiring = InstantHiring(job, gangs)
        go = Path(output) / "go"
        begun: list[tuple[float, float, int]] = []

        def start_together(_ready: int, _waiting: str) -> None:
            if not begun and len(list(Path(output).glob("*.here"))) == gangs:
                begun.append((time.perf_counter(), time.process_time(), hiring.messages))
                go.touch()

        done: list[Event] = []
        ended: list[tuple[float, float, int]] = []

        def on_result(event: Event) -> None:
            done.append(event)
            if len(done) == count:
                ended.append((time.perf_counter(), time.process_time(), hiring.messages))

        crew = _crew(hiring, gangs, count, on_result, start_together)
        crew.work()
        seconds, cpu, messages = (b - a for a, b in zip(begun[0], ended[0], strict=True))
        assert len({event.id for event in done}) == count
        return count, seconds, cpu, int(messages)


def _crew(
    hiring: Hiring,
    gangs: int,
    count: int,
    on_result: Callable[[Event], None],
    tick: Callable[[int, str], None],
) -> Crew:
    def give_up(row: Row, error: str, message: str) -> None:
        raise RuntimeError(f"{row.id} was given up: {error}: {message}")

    return Crew(
        hiring=hiring,
        replicas=gangs,
        run="run",
        rows=iter(rows(count)),
        pending=count,
        shard_size=SHARD_SIZE,
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


def simulate(gangs: int, each: int) -> None:
    """Print how busy so many gangs are kept, with so many rows for each."""
    count = gangs * each
    rng = np.random.default_rng(1)
    seconds = rng.lognormal(math.log(60), 0.3, count)
    slow = max(1, gangs * 3 // 100)
    habits = Habits(
        render=lambda row_id, replica: seconds[int(row_id)] * (3 if replica < slow else 1),
        life=lambda _: rng.exponential(WEEK),
        call=CALL_SECONDS,
        charged=True,
    )
    cluster = Simulation(habits, {"n": gangs})
    cluster.crew(count, gangs, shard_size=SHARD_SIZE).work()
    died = len(cluster.actors) - gangs
    busy, length = cluster.busy_share(), max(cluster.done_at.values())
    print(
        f"{gangs:,} simulated gangs, {count:,} rows, {slow} gangs slow, {died} died: busy {busy:.4f} until "
        f"99 % were done ({busy / BUSY:.3f} of {BUSY}); tail {cluster.tail():.0f} s of {length:,.0f} s; crew "
        f"and messages took {cluster.driver_seconds + CALL_SECONDS * cluster.messages:.0f} s of it",
        flush=True,
    )


if __name__ == "__main__":
    main()
