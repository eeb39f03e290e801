"""How processes become a gang: each opens a rendezvous, learns the addresses of all, and joins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.links import Listener
from vidgen_dist.parallel.mesh import Mesh, make_mesh
from vidgen_dist.parallel.process_group import ProcessGroupRendezvous


class Rendezvous(Protocol):
    """Where a process waits for the other ranks of its gang, before it has a rank itself.

    Attributes:
        address: What the other ranks need to find it.
    """

    address: str

    def join(self, addresses: Sequence[str], rank: int, degrees: Degrees, timeout: float) -> Mesh:
        """Connect to the others. All ranks call it once, at about the same time.

        Args:
            addresses: The addresses of all ranks, in the order of ranks.
            rank: This process's rank.
            degrees: How the gang divides its work.
            timeout: Seconds within which all ranks must connect.

        Raises:
            PeerLost: A rank did not connect.
        """


class SocketRendezvous:
    """A rendezvous on a host without NPUs: TCP connections."""

    def __init__(self, host: str) -> None:
        self._listener = Listener(host)
        self.address = self._listener.address

    def join(self, addresses: Sequence[str], rank: int, degrees: Degrees, timeout: float) -> Mesh:
        from vidgen_dist.parallel.sockets import SocketTransport

        return make_mesh(SocketTransport(self._listener.connect(addresses, rank, timeout)), rank, degrees)


def open_rendezvous(device: str, host: str) -> Rendezvous:
    """Open a rendezvous for this process.

    Args:
        device: `cpu` or `ascend`; this process's device, which is set already.
        host: IP address of this host, as the other ranks reach it.

    Raises:
        Refused: An IPv6 address on Ascend, whose process groups take IPv4 only.
    """
    if device == "cpu":
        return SocketRendezvous(host)
    from vidgen_dist.parallel import hccl

    return ProcessGroupRendezvous(host, hccl.start)
