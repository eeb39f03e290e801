"""Rank processes for tests: a gang in miniature, over real sockets.

    def body(mesh, x): ...                      # at module level; runs on every rank
    results = ranks.run(body, x, degrees=Degrees(ulysses=2))   # its return values, by rank

The processes are started once and used by all tests of a session; each run gives them a new mesh. They are
forks of a process that has imported MindSpore and tokenizers, which takes seconds, and has not computed:
forks of a process that has computed, such as the tests' own, hang.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.rendezvous import Rendezvous, open_rendezvous

START_SECONDS = 120.0

PRELOADED = ["vidgen_dist.families.loader", "vidgen_dist.weights.tokenizer.loading"]


def open_sockets(host: str) -> Rendezvous:
    return open_rendezvous("cpu", host)


class Ranks:
    """Processes that play the ranks of a gang; more are started as they are needed.

    Args:
        open_at: Opens a rendezvous at an address of this host; by default one of sockets.
    """

    def __init__(self, open_at: Callable[[str], Rendezvous] = open_sockets) -> None:
        self._open_at = open_at
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._ranks: list[tuple[Any, Connection]] = []

    def run(
        self, body: Callable[..., Any], *args: Any, degrees: Degrees, timeout: float = 120.0
    ) -> list[Any]:
        """Call body(mesh, *args) on every rank of a new gang.

        Args:
            body: A function of a module.
            args: Picklable arguments.
            degrees: How the gang divides its work.
            timeout: Seconds that the slowest rank may take.

        Raises:
            AssertionError: A rank raised, with its traceback, or did not answer.
        """
        while len(self._ranks) < degrees.size:
            self._ranks.append(self._start())
        connections = [connection for _, connection in self._ranks[: degrees.size]]
        addresses = self._ask(connections, [None] * degrees.size, START_SECONDS)
        jobs = [(addresses, rank, degrees, body, args) for rank in range(degrees.size)]
        return self._ask(connections, jobs, timeout)

    def close(self) -> None:
        for process, connection in self._ranks:
            connection.close()
            # They hold nothing that must be saved, and MindSpore takes seconds to end.
            process.kill()
            process.join()
        self._ranks = []

    def _start(self) -> tuple[Any, Connection]:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(there, self._open_at), daemon=True)
        process.start()
        there.close()
        return process, here

    def _ask(self, connections: list[Connection], questions: list[Any], timeout: float) -> list[Any]:
        answers, faults = [], []
        for rank, (connection, question) in enumerate(zip(connections, questions, strict=True)):
            self._or_lost(rank, faults, lambda c=connection, q=question: c.send(q))
        for rank, connection in enumerate(connections):
            if not connection.poll(timeout):
                self.close()
                raise AssertionError("\n".join([*faults, f"rank {rank} has not answered for {timeout:g} s"]))
            ok, answer = self._or_lost(rank, faults, connection.recv)
            answers.append(answer)
            if not ok:
                faults.append(f"rank {rank}:\n{answer}")
        if faults:
            raise AssertionError("\n".join(faults))
        return answers

    def _or_lost(self, rank: int, faults: list[str], call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (EOFError, BrokenPipeError):
            # The next run starts all of them again.
            self.close()
            raise AssertionError("\n".join([*faults, f"rank {rank} has died"])) from None


def _serve(connection: Connection, open_at: Callable[[str], Rendezvous]) -> None:
    """The loop of a rank: open a rendezvous, send its address, join, run, answer; until the pipe closes."""
    from vidgen_dist import nn

    nn.set_device("cpu", threads=1)
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        rendezvous = open_at("127.0.0.1")
        connection.send((True, rendezvous.address))
        addresses, rank, degrees, body, args = connection.recv()
        try:
            mesh = rendezvous.join(addresses, rank, degrees, START_SECONDS)
            try:
                answer = (True, body(mesh, *args))
            finally:
                mesh.close()
        except Exception:  # noqa: BLE001 - told to the test
            answer = (False, traceback.format_exc())
        connection.send(answer)
