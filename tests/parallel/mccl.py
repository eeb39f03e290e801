"""Collectives on CPU, over MindSpore's own communication library (MCCL), for comparison with sockets.

Among its point-to-point calls on CPU, a send returns when the peer's process has the message, and a receive
blocks until it is there; so only sends begin before `wait`. Everything runs in the world group, where the
ranks have their numbers in the gang. A process can start it once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from mindspore import mint
from mindspore.communication.management import _init_with_store
from mindspore.mint.distributed import distributed

from vidgen_dist import nn
from vidgen_dist.parallel.collectives import MappedResult, PendingResult, Shape
from vidgen_dist.parallel.process_group import ProcessGroupRendezvous, peer_lost
from vidgen_dist.parallel.sockets import contiguous, room_for

_WORLD = "mccl_world_group"


def open_rendezvous(host: str) -> ProcessGroupRendezvous:
    """Open a rendezvous of ranks that exchange over MCCL. A process joins one once in its life."""
    return ProcessGroupRendezvous(host, start)


def start(host: str, port: int, rank: int, size: int, timeout: float) -> McclTransport:
    """Connect this process to the others; once in its life.

    Args:
        host: IPv4 address of rank 0.
        port: Free port there.
        rank: This process's rank.
        size: Number of ranks.
        timeout: Seconds within which all ranks must connect.

    Raises:
        PeerLost: A rank did not connect.
    """
    seconds = timedelta(seconds=timeout)
    with peer_lost(rank):
        store = mint.distributed.TCPStore(host, port, size, is_master=rank == 0, timeout=seconds)
        _init_with_store(backend="mccl", timeout=seconds, world_size=size, rank=rank, store=store)
    # isend asks the default group for this rank's number; that is Ascend's group, which does not exist here.
    distributed._GROUP_RANK_CACHE["hccl_world_group"] = rank
    return McclTransport(rank, store)


class McclTransport:
    """The transport over MCCL.

    MCCL notices after 30 seconds that a peer has ended; it may never notice that a peer is at another point
    of the program.

    Args:
        rank: This process's rank.
        store: What connected the ranks; lives as long as they do.
    """

    def __init__(self, rank: int, store: Any) -> None:
        self._rank = rank
        self._store = store
        self._expected: deque[_Arrivals] = deque()

    def all_to_all(
        self, ranks: Sequence[int], pieces: Sequence[nn.Tensor], shapes: Sequence[Shape]
    ) -> PendingResult[list[nn.Tensor]]:
        own = ranks.index(self._rank)
        results = room_for(shapes, pieces[own], own)
        others = [i for i in range(len(ranks)) if i != own]
        with peer_lost(self._rank):
            for i in others:
                if pieces[i].size:
                    mint.distributed.isend(contiguous(pieces[i]), ranks[i], _WORLD).wait()
        arrivals = _Arrivals(self, tuple((ranks[i], results[i]) for i in others if results[i].size), results)
        self._expected.append(arrivals)
        return arrivals

    def all_gather(
        self,
        ranks: Sequence[int],
        piece: nn.Tensor,
        lengths: Sequence[int],
        out: nn.Tensor | None = None,
    ) -> PendingResult[nn.Tensor]:
        def join(pieces: list[nn.Tensor]) -> nn.Tensor:
            whole = nn.cat(pieces, 0)
            if out is None:
                return whole
            out.asnumpy()[...] = whole.asnumpy()
            return out

        shapes = [(length, *piece.shape[1:]) for length in lengths]
        return MappedResult(self.all_to_all(ranks, [piece] * len(ranks), shapes), join)

    def close(self) -> None:
        """Do nothing: MCCL lives as long as the process."""

    def receive(self, last: _Arrivals) -> None:
        """Receive what is expected, in the order in which it is sent, up to and including `last`."""
        while last in self._expected:
            with peer_lost(self._rank):
                for peer, tensor in self._expected[0].tensors:
                    mint.distributed.irecv(tensor, peer, _WORLD).wait()
            self._expected.popleft()


@dataclass(frozen=True, eq=False)
class _Arrivals:
    """Data that other ranks will send.

    Args:
        transport: Receives it.
        tensors: Each with the rank that sends it.
        results: The results of the whole collective.
    """

    transport: McclTransport
    tensors: tuple[tuple[int, nn.Tensor], ...]
    results: list[nn.Tensor]

    def wait(self) -> list[nn.Tensor]:
        self.transport.receive(self)
        return self.results
