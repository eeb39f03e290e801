"""How processes become a gang: each takes a seat, all learn of all addresses, all join."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vidgen_dist.errors import Refused
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.links import Listener
from vidgen_dist.parallel.mesh import Mesh, make_mesh
from vidgen_dist.parallel.process_group import ProcessGroupSeat

TRANSPORTS = {"cpu": ("sockets", "mccl"), "ascend": ("hccl",)}
"""What can carry a device's exchanges; the first by default."""


class Seat(Protocol):
    """A rank's place before it has a number.

    Attributes:
        address: What the other ranks must know of it.
    """

    address: str

    def join(self, addresses: Sequence[str], rank: int, degrees: Degrees, timeout: float) -> Mesh:
        """Connect with the others; all ranks call it at about the same time, once.

        Args:
            addresses: Of all seats, in the order of ranks.
            rank: This one's number.
            degrees: Of the gang.
            timeout: Seconds until all must have come.

        Raises:
            PeerLost: Somebody did not come.
        """


class SocketSeat:
    """A seat on a host without NPUs."""

    def __init__(self, host: str) -> None:
        self._listener = Listener(host)
        self.address = self._listener.address

    def join(self, addresses: Sequence[str], rank: int, degrees: Degrees, timeout: float) -> Mesh:
        from vidgen_dist.parallel.sockets import SocketTransport

        return make_mesh(SocketTransport(self._listener.connect(addresses, rank, timeout)), rank, degrees)


def open_seat(device: str, host: str, transport: str | None = None) -> Seat:
    """Take a seat.

    Args:
        device: `cpu` or `ascend`; the process's, already set.
        host: IP address of this host, as the other ranks reach it.
        transport: One of the device's `TRANSPORTS`.

    Raises:
        Refused: A transport that the device does not have, or an IPv6 address for one that takes none.
    """
    allowed = TRANSPORTS[device]
    transport = transport or allowed[0]
    if transport not in allowed:
        raise Refused(f"transport: {transport!r} is not allowed on {device}; one of {', '.join(allowed)}")
    if transport == "sockets":
        return SocketSeat(host)
    if transport == "mccl":
        from vidgen_dist.parallel import mccl

        return ProcessGroupSeat(host, mccl.start)
    from vidgen_dist.parallel import hccl

    return ProcessGroupSeat(host, hccl.start)
