"""The transport on Ascend: HCCL, through `mint.distributed`.

A collective goes into the device's own queue. `wait` makes the device's later work wait for it, not the host,
so `Traffic.waited` does not count it here.

Every group becomes an HCCL group at its first collective, and remains one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from mindspore import communication, mint

from vidgen_dist import nn
from vidgen_dist.parallel.collectives import MappedResult, PendingResult, ReadyResult, Shape
from vidgen_dist.parallel.links import TIMEOUT
from vidgen_dist.parallel.process_group import peer_lost

_WORLD = "hccl_world_group"

# The value that importing MindSpore sets if none is set: seconds until all ranks of a group must have reached
# its first collective.
_MINDSPORES_CONNECT_TIMEOUT = "600"

# Seconds; the largest values that HCCL takes.
_MAX_EXEC_TIMEOUT, _MAX_CONNECT_TIMEOUT = 17340, 7200


def start(host: str, port: int, rank: int, size: int, timeout: float) -> HcclTransport:
    """Connect this process to the others; once in its life, before its first tensor.

    Args:
        host: IPv4 address of rank 0.
        port: Free port there.
        rank: This process's rank.
        size: Number of ranks.
        timeout: Seconds within which all ranks must connect.

    Raises:
        PeerLost: A rank did not connect.
    """
    _raise_timeouts()
    with peer_lost(rank):
        mint.distributed.init_process_group(
            "hccl",
            init_method=f"tcp://{host}:{port}",
            timeout=timedelta(seconds=timeout),
            world_size=size,
            rank=rank,
        )
    return HcclTransport(rank, size)


def _raise_timeouts() -> None:
    """Let HCCL wait as long as links do, or as long as it can, unless the environment sets a time.

    When that time is over, HCCL ends the process by SIGTERM, and does not say which rank or stage was slow.
    The supervisor of the gang knows both. Its limits, by default at most an hour on Ascend, should therefore
    be the shorter ones; limits that a run sets above HCCL's have no effect.
    """
    os.environ.setdefault("HCCL_EXEC_TIMEOUT", f"{min(TIMEOUT, _MAX_EXEC_TIMEOUT):.0f}")
    if os.environ.get("HCCL_CONNECT_TIMEOUT", _MINDSPORES_CONNECT_TIMEOUT) == _MINDSPORES_CONNECT_TIMEOUT:
        os.environ["HCCL_CONNECT_TIMEOUT"] = f"{min(TIMEOUT, _MAX_CONNECT_TIMEOUT):.0f}"


class HcclTransport:
    """The transport over HCCL.

    Args:
        rank: This process's rank.
        size: Ranks of the gang.
    """

    def __init__(self, rank: int, size: int) -> None:
        self._rank = rank
        self._groups = {tuple(range(size)): _WORLD}

    def all_to_all(
        self, ranks: Sequence[int], pieces: Sequence[nn.Tensor], shapes: Sequence[Shape]
    ) -> PendingResult[list[nn.Tensor]]:
        own = ranks.index(self._rank)
        dtype = pieces[own].dtype
        others = [i for i in range(len(ranks)) if i != own]
        given = [0 if i == own else piece.size for i, piece in enumerate(pieces)]
        taken = [0 if i == own else math.prod(shape) for i, shape in enumerate(shapes)]
        flat = [pieces[i].reshape(-1) for i in others if given[i]]
        # All ranks take part, even one that sends and receives nothing; it still needs to pass some memory.
        sent = mint.cat(flat, 0) if flat else mint.zeros((1,), dtype=dtype)
        received = mint.empty((max(1, sum(taken)),), dtype=dtype)
        with peer_lost(self._rank):
            handle = mint.distributed.all_to_all_single(
                received, sent, taken, given, group=self._group(ranks), async_op=True
            )

        def cut(received: nn.Tensor) -> list[nn.Tensor]:
            results, start = [], 0
            for i, shape in enumerate(shapes):
                if i == own:
                    results.append(pieces[own])
                elif taken[i]:
                    results.append(received[start : start + taken[i]].reshape(tuple(shape)))
                else:
                    results.append(mint.empty(tuple(shape), dtype=dtype))
                start += taken[i]
            return results

        return MappedResult(_PendingCollective(self._rank, handle, sent, received), cut)

    def all_gather(
        self,
        ranks: Sequence[int],
        piece: nn.Tensor,
        lengths: Sequence[int],
        out: nn.Tensor | None = None,
    ) -> PendingResult[nn.Tensor]:
        """HCCL gathers pieces of one length, so shorter ones are padded, and the padding is dropped on
        arrival.

        Lengths differ by one row at most, because work is divided evenly. An all-to-all, which takes any
        lengths, would need the piece once for every rank.
        """
        longest, rest = max(lengths), tuple(piece.shape[1:])
        if not longest * math.prod(rest):
            return ReadyResult(mint.empty((sum(lengths), *rest), dtype=piece.dtype) if out is None else out)
        sent = _filled_up(piece, longest)
        even = min(lengths) == longest
        received = (
            out if even and out is not None else mint.empty((longest * len(ranks), *rest), dtype=piece.dtype)
        )
        with peer_lost(self._rank):
            handle = mint.distributed.all_gather_into_tensor(
                received, sent, group=self._group(ranks), async_op=True
            )
        under_way = _PendingCollective(self._rank, handle, sent, received)
        if even:
            return under_way

        def drop(received: nn.Tensor) -> nn.Tensor:
            starts = range(0, longest * len(ranks), longest)
            parts = [received[a : a + n] for a, n in zip(starts, lengths, strict=True) if n]
            return mint.cat(parts, 0)

        return MappedResult(under_way, drop)

    def close(self) -> None:
        """Do nothing: HCCL lives as long as the process, and ending it would wait for a lost rank."""

    def _group(self, ranks: Sequence[int]) -> str:
        """The HCCL group of these ranks, which include this one."""
        key = tuple(ranks)
        if key not in self._groups:
            name = "vidgen_" + "_".join(map(str, key))
            with peer_lost(self._rank):
                communication.create_group(name, list(key))
            self._groups[key] = name
        return self._groups[key]


@dataclass(frozen=True)
class _PendingCollective:
    """A collective in the device's queue; keeps the memory alive that it reads and writes."""

    rank: int
    handle: Any
    sent: nn.Tensor
    received: nn.Tensor

    def wait(self) -> nn.Tensor:
        with peer_lost(self.rank):
            self.handle.wait()
        return self.received


def _filled_up(piece: nn.Tensor, length: int) -> nn.Tensor:
    """piece (n, ...) padded by zeros to (length, ...), contiguous."""
    missing = length - piece.shape[0]
    if not missing:
        return piece.contiguous()
    zeros = mint.zeros((missing, *piece.shape[1:]), dtype=piece.dtype)
    return mint.cat([piece, zeros], 0) if piece.shape[0] else zeros
