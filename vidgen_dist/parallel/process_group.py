"""What transports over MindSpore's own process groups have in common."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from vidgen_dist.errors import Refused
from vidgen_dist.parallel.collectives import PeerLost, Transport
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh, alone, make_mesh

StartTransport = Callable[[str, int, int, int, float], Transport]
"""(host and port of rank 0, own rank, number of ranks, timeout in seconds) -> the transport."""


class ProcessGroupRendezvous:
    """A rendezvous for a process group, which a process joins once in its life.

    The ranks meet at a port of rank 0. Every process reserves a free port in case it becomes rank 0, and
    releases it when it joins, because MindSpore opens the port itself.

    Args:
        host: IPv4 address of this host, as the other ranks reach it.
        start: Starts the process group.

    Raises:
        Refused: Another kind of address; MindSpore takes IPv4 only.
    """

    def __init__(self, host: str, start: StartTransport) -> None:
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise Refused(
                f"host: {host!r} is not allowed; MindSpore's process groups take IPv4 only"
            ) from None
        self._start = start
        self._port = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._port.bind((host, 0))
        self.address = f"{host}:{self._port.getsockname()[1]}"

    def join(self, addresses: Sequence[str], rank: int, degrees: Degrees, timeout: float) -> Mesh:
        """As `Rendezvous.join`."""
        self._port.close()
        if degrees.size == 1:
            return alone()
        host, port = addresses[0].split(":")
        return make_mesh(self._start(host, int(port), rank, degrees.size, timeout), rank, degrees)


@contextmanager
def peer_lost(rank: int) -> Iterator[None]:
    """Turn the RuntimeError that MindSpore's collectives raise into `PeerLost`.

    Raises:
        PeerLost: RuntimeError was raised inside the block.
    """
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(f"rank {rank}: {str(error).splitlines()[0]}") from error
