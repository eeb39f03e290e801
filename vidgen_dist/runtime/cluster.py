"""The Ray that a run runs on: started for it on this machine, or attached to."""

from __future__ import annotations

import glob
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vidgen_dist.errors import Refused
from vidgen_dist.spec import Topology

OBJECT_STORE_BYTES = 128 * 2**20
"""Of a local Ray: rows and reports pass through it, never videos."""


def choose_device(topology: Topology) -> str:
    """`cpu` or `ascend`: what `auto` stands for. For a running cluster, it is asked."""
    if topology.device != "auto":
        return topology.device
    if topology.address is None:
        return "ascend" if glob.glob("/dev/davinci[0-9]*") else "cpu"
    with connected(topology):
        return "ascend" if any(node.npus for node in alive_nodes()) else "cpu"


@contextmanager
def connected(topology: Topology) -> Iterator[None]:
    """A connection to Ray; a Ray that was started for it is stopped with it.

    Nested uses, and a process that is connected already, share the connection that there is.

    Args:
        topology: Where.

    Raises:
        Refused: There is no cluster at the address, or none can be started here.
    """
    # Read when Ray is imported. Nothing is told to the outside, nothing is printed beside our progress.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "namespace": "vidgen",
    }
    if topology.address is None:
        # By default workers give way to whatever else runs, and Ray's own processes share these few cores.
        os.environ.setdefault("RAY_worker_niceness", "0")
        try:
            with _signals_kept():
                ray.init(
                    address="local",
                    num_cpus=max(len(os.sched_getaffinity(0)), 1),
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _node_ip_address="127.0.0.1",
                    **quiet,
                )
        except (OSError, RuntimeError, ray.exceptions.RayError) as error:
            raise Refused(f"no local Ray can be started: {error}") from None
    else:
        _check_answers(topology.address)
        try:
            with _signals_kept():
                ray.init(address=topology.address, **quiet)
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise Refused(
                f"topology.address: {topology.address}: no Ray cluster answers ({error}); "
                "if it asks for a token, RAY_AUTH_MODE=token and RAY_AUTH_TOKEN give it"
            ) from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep signals the run's to handle, while Ray starts or connects.

    Ray sets a handler of SIGTERM that ends the process at once. SIGHUP reaches all processes of a terminal
    that hangs up: those that Ray starts inherit that it is blocked, else it would end them at once.
    """
    handler = signal.getsignal(signal.SIGTERM)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        # None: whoever set it was not Python. Only the main thread may set one, and Ray heeds that, too.
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _check_answers(address: str) -> None:
    """Refuse at once what Ray would try for a minute: a host and port where nobody listens."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise Refused(f"topology.address: {address}: no Ray cluster answers ({error})") from None


@dataclass(frozen=True)
class Node:
    """What a node of the cluster has in all.

    Args:
        cpus: CPUs.
        npus: NPUs.
        id: Ray's id of it.
    """

    cpus: float
    npus: float
    id: str = ""


def alive_nodes() -> list[Node]:
    """The nodes of the cluster that this process is connected to."""
    import ray

    alive = [(node["Resources"], node["NodeID"]) for node in ray.nodes() if node["Alive"]]
    return [Node(has.get("CPU", 0.0), has.get("NPU", 0.0), node) for has, node in alive]


def cpu_share(node_cpus: Sequence[float], ranks: int) -> float:
    """The CPUs of one rank so that all of them find room on the nodes: whole, or a fraction below 1.

    Args:
        node_cpus: CPUs of each node.
        ranks: How many share them.
    """
    for share in range(int(max(node_cpus, default=0)), 0, -1):
        if sum(int(cpus // share) for cpus in node_cpus) >= ranks:
            return share
    # Ray counts in ten-thousandths.
    parts = 2
    while sum(int(cpus * parts) for cpus in node_cpus) < ranks:
        parts += 1
        if parts > 10_000:
            raise Refused(
                f"topology.replicas: {ranks} ranks in all are not allowed; {sum(node_cpus):g} CPUs have "
                f"room for {sum(int(cpus * 10_000) for cpus in node_cpus)}"
            )
    return int(10_000 / parts) / 10_000


def cores_of(slot: int, share: float, cores: Sequence[int]) -> tuple[int, ...]:
    """The cores of a node that a rank keeps to.

    Args:
        slot: Which of the node's ranks it is, from 0.
        share: As `cpu_share` gives it.
        cores: Cores of the node.
    """
    if share < 1:
        return (cores[slot % len(cores)],)
    width = int(share)
    start = slot * width % len(cores)
    return tuple(sorted({cores[(start + i) % len(cores)] for i in range(min(width, len(cores)))}))
