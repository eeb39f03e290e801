"""Seconds per denoising step of one rank and of gangs of two, and their ratio; and of single exchanges.

    python -m tests.benchmarks.gang [--rounds 3] [--transports sockets,mccl]

Shape: a transformer of 6 layers and 8 heads of 64 at 4,000 tokens (160 of text, 8 x 20 x 24 of video) with
guidance (batch 2). Random weights.

A rank is a process with one core and one compute thread. The processes live through all rounds. In each round
one rank alone and every kind of gang run in turn, so that a machine that slows down slows all. A step takes
as long as its slowest rank. Medians over rounds are printed; `waits` is the time in which a rank only waits
for others, `cpu` its processor time, which other work on the machine does not affect.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from tests.benchmarks.cogvideox import TRANSFORMER
from tests.parallel import mccl
from vidgen_dist.parallel.degrees import Degrees, bounds, shares
from vidgen_dist.parallel.mesh import Mesh, alone, make_mesh
from vidgen_dist.parallel.rendezvous import Rendezvous, open_rendezvous


@dataclass(frozen=True)
class Work:
    """What a step computes.

    Args:
        config: The transformer's config.
        latents: (B, T, C, H, W); B is 2, the halves of guidance.
        text: Number of text tokens.
    """

    config: dict[str, Any]
    latents: tuple[int, int, int, int, int]
    text: int


WORK = Work(TRANSFORMER, (2, 8, 16, 40, 48), 160)
ONE = "one rank"
GANGS = {
    "ulysses=2": Degrees(ulysses=2),
    "ring=2": Degrees(ring=2),
    "cfg=2": Degrees(cfg=2),
}
PIECES = {"1 KiB": 2**10, "1 MiB": 2**20, "16 MiB": 2**24}
TARGET = 1.8
TRANSPORTS: dict[str, Callable[[str], Rendezvous]] = {
    "sockets": lambda host: open_rendezvous("cpu", host),
    "mccl": mccl.open_rendezvous,
}
JOIN_SECONDS = 120.0


@dataclass(frozen=True)
class Sample:
    """One step on one rank.

    Args:
        seconds: Its duration.
        cpu: Its processor time, in seconds.
        waited: Seconds of waiting for other ranks.
        sent: Bytes sent to other ranks.
    """

    seconds: float
    cpu: float = 0.0
    waited: float = 0.0
    sent: int = 0


# In a rank's process. ----------------------------------------------------------------------------


class Rank:
    """Answers requests, each a method's name and its arguments."""

    def __init__(self, mesh: Mesh, work: Work) -> None:
        self._mesh = mesh
        self._steps = {ONE: _make_step(alone(), work)}
        self._meshes = {ONE: alone()}
        for name, degrees in GANGS.items():
            assert mesh.transport is not None
            self._meshes[name] = make_mesh(mesh.transport, mesh.rank, degrees)
            self._steps[name] = _make_step(self._meshes[name], work)

    def predict(self, name: str) -> np.ndarray:
        """The step's result (B, T, C, H, W)."""
        return self._steps[name]()

    def step(self, name: str) -> Sample:
        traffic = self._meshes[name].traffic
        traffic.clear()
        begun, busy = time.perf_counter(), time.process_time()
        self._steps[name]()
        seconds, cpu = time.perf_counter() - begun, time.process_time() - busy
        return Sample(seconds, cpu, sum(traffic.waited.values()), sum(traffic.sent.values()))

    def exchange(self, collective: str, size: int, times: int) -> float:
        """Median seconds of a collective with pieces of so many bytes."""
        from vidgen_dist import nn

        group = self._mesh.gang
        piece = nn.zeros((size // 4,))
        seconds = []
        for _ in range(times + 1):
            begun = time.perf_counter()
            if collective == "all_to_all":
                group.all_to_all([piece] * group.size, [piece.shape] * group.size, what="test").wait()
            else:
                group.all_gather(piece, [piece.shape[0]] * group.size, what="test").wait()
            seconds.append(time.perf_counter() - begun)
        return statistics.median(seconds[1:])


def _make_step(mesh: Mesh, work: Work) -> Callable[[], np.ndarray]:
    """A function that predicts this rank's part of both halves of guidance, and gathers the halves."""
    from vidgen_dist import nn
    from vidgen_dist.families.cogvideox.config import TransformerConfig
    from vidgen_dist.families.cogvideox.transformer import CogVideoXTransformer3DModel, rotary_positions

    config = TransformerConfig.read(work.config)
    transformer = CogVideoXTransformer3DModel(config, mesh)
    rng = np.random.default_rng(0)
    for parameter in nn.named_parameters(transformer).values():
        scale = 1 / np.sqrt(max(1, np.prod(parameter.shape[1:])))
        noise = rng.standard_normal(parameter.shape, dtype=np.float32)
        parameter.set_data(nn.from_numpy(noise * np.float32(scale)))
    batch, frames, _, height, width = work.latents
    halves = shares(batch, mesh.cfg.size)
    own = bounds(halves, mesh.cfg.index)
    latents = nn.from_numpy(rng.standard_normal(work.latents, dtype=np.float32)[own])
    text_shape = (batch, work.text, config.text_embed_dim)
    text = nn.from_numpy(rng.standard_normal(text_shape, dtype=np.float32)[own])
    timestep = np.full((latents.shape[0],), 500, np.int64)
    rotary = rotary_positions(config, height * 8, width * 8, frames, 8)

    def step() -> np.ndarray:
        predicted = transformer(latents, text, timestep, image_rotary_emb=rotary)
        return nn.to_numpy(mesh.cfg.all_gather(predicted, halves, what="cfg").wait())

    return step


def _serve(connection: Connection, transport: str, core: int, work: Work) -> None:
    os.sched_setaffinity(0, {core})
    from vidgen_dist import nn

    nn.set_device("cpu", threads=1)
    rendezvous = TRANSPORTS[transport]("127.0.0.1")
    connection.send(rendezvous.address)
    addresses, number = connection.recv()
    mesh = rendezvous.join(addresses, number, Degrees(len(addresses)), JOIN_SECONDS)
    rank = Rank(mesh, work)
    connection.send("ready")
    while (asked := connection.recv()) is not None:
        method, arguments = asked
        connection.send(getattr(rank, method)(*arguments))
    mesh.close()


# In the process that asks. -----------------------------------------------------------------------


class Pair:
    """Two rank processes over one transport, each on its own core if there are two."""

    def __init__(self, transport: str, work: Work) -> None:
        cores = sorted(os.sched_getaffinity(0))
        context = multiprocessing.get_context("spawn")
        self._connections: list[Connection] = []
        self._processes = []
        for rank in range(2):
            here, there = context.Pipe()
            arguments = (there, transport, cores[rank % len(cores)], work)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            there.close()
            self._connections.append(here)
            self._processes.append(process)
        addresses = [connection.recv() for connection in self._connections]
        for rank, connection in enumerate(self._connections):
            connection.send((addresses, rank))
        for connection in self._connections:
            connection.recv()

    def ask(self, method: str, *arguments: Any, ranks: Sequence[int] = (0, 1)) -> list[Any]:
        """The answers of these ranks, which work at the same time."""
        for rank in ranks:
            self._connections[rank].send((method, arguments))
        return [self._connections[rank].recv() for rank in ranks]

    def close(self) -> None:
        for connection in self._connections:
            connection.send(None)
        for process in self._processes:
            process.join(10)
            process.kill()


@contextlib.contextmanager
def pairs(transports: Sequence[str], work: Work) -> Iterator[dict[str, Pair]]:
    """A pair over each transport."""
    with contextlib.ExitStack() as stack:
        started = {}
        for transport in transports:
            started[transport] = Pair(transport, work)
            stack.callback(started[transport].close)
        yield started


def measure_steps(started: dict[str, Pair], rounds: int) -> dict[str, list[Sample]]:
    """A sample of each round for one rank and for every gang, that of its slowest rank."""
    samples: dict[str, list[Sample]] = {}
    first = next(iter(started.values()))
    for number in range(rounds + 1):
        # One rank alone: on either core in turn.
        turn = {ONE: first.ask("step", ONE, ranks=[number % 2])}
        for transport, pair in started.items():
            for gang in GANGS:
                turn[f"{gang}, {transport}"] = pair.ask("step", gang)
        if number:  # the first warms up
            for name, of_ranks in turn.items():
                samples.setdefault(name, []).append(max(of_ranks, key=lambda sample: sample.seconds))
    return samples


def measure_exchanges(pair: Pair, times: int) -> dict[tuple[str, str], float]:
    """(collective, size) -> seconds, of the slower rank."""
    return {
        (collective, name): max(pair.ask("exchange", collective, size, times))
        for collective in ("all_to_all", "all_gather")
        for name, size in PIECES.items()
    }


def report_steps(samples: dict[str, list[Sample]]) -> Iterator[str]:
    """One line for one rank and one for every gang."""

    def median(name: str, field: str) -> float:
        return statistics.median(getattr(sample, field) for sample in samples[name])

    yield f"{ONE}: {median(ONE, 'seconds'):.3f} s a step, cpu {median(ONE, 'cpu'):.3f} s"
    for name, gang in samples.items():
        if name == ONE:
            continue
        ratio = statistics.median(
            one.seconds / two.seconds for one, two in zip(samples[ONE], gang, strict=True)
        )
        by_cpu = statistics.median(one.cpu / two.cpu for one, two in zip(samples[ONE], gang, strict=True))
        yield (
            f"{name}: {median(name, 'seconds'):.3f} s a step, {ratio:.2f}x (target {TARGET}x); "
            f"waits {median(name, 'waited'):.3f} s, sends {median(name, 'sent') / 1e6:.1f} MB a rank, "
            f"cpu {median(name, 'cpu'):.3f} s ({by_cpu:.2f}x)"
        )


def report_exchanges(transport: str, seconds: dict[tuple[str, str], float]) -> Iterator[str]:
    """One line for every collective and size."""
    for (collective, size), taken in seconds.items():
        speed = PIECES[size] / taken / 1e9
        yield f"{transport}, {collective} of {size}: {taken * 1e3:.3f} ms, {speed:.3f} GB/s each way"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--transports", default=",".join(TRANSPORTS))
    arguments = parser.parse_args()
    with pairs(arguments.transports.split(","), WORK) as started:
        for transport, pair in started.items():
            print(*report_exchanges(transport, measure_exchanges(pair, 20)), sep="\n")
        print(*report_steps(measure_steps(started, arguments.rounds)), sep="\n")


if __name__ == "__main__":
    main()
