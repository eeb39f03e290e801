"""The transport on CPU: collectives over byte links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from mindspore import mint

from vidgen_dist import nn
from vidgen_dist.parallel.collectives import PendingResult, Shape
from vidgen_dist.parallel.links import Links, Transfer

T = TypeVar("T")


class SocketTransport:
    """The transport for tensors in the host's memory.

    Args:
        links: To all ranks of the gang.
    """

    def __init__(self, links: Links) -> None:
        self._links = links

    def all_to_all(
        self, ranks: Sequence[int], pieces: Sequence[nn.Tensor], shapes: Sequence[Shape]
    ) -> PendingResult[list[nn.Tensor]]:
        own = ranks.index(self._links.rank)
        pieces = [contiguous(piece) for piece in pieces]
        arrays = [piece.asnumpy() for piece in pieces]
        results = room_for(shapes, pieces[own], own)
        places = [result.asnumpy() for result in results]
        others = [i for i in range(len(ranks)) if i != own]
        sends = [(ranks[i], _bytes(arrays[i])) for i in others if arrays[i].size]
        receives = [(ranks[i], _bytes(places[i])) for i in others if places[i].size]
        return _PendingExchange(self._links.exchange(sends, receives), results, pieces)

    def all_gather(
        self,
        ranks: Sequence[int],
        piece: nn.Tensor,
        lengths: Sequence[int],
        out: nn.Tensor | None = None,
    ) -> PendingResult[nn.Tensor]:
        own = ranks.index(self._links.rank)
        shape = (sum(lengths), *piece.shape[1:])
        result = mint.empty(shape, dtype=piece.dtype) if out is None else out
        places = np.split(result.asnumpy(), np.cumsum(lengths)[:-1])
        places[own][...] = contiguous(piece).asnumpy()
        others = [i for i in range(len(ranks)) if i != own]
        sends = [(ranks[i], _bytes(places[own])) for i in others if places[own].size]
        receives = [(ranks[i], _bytes(places[i])) for i in others if places[i].size]
        return _PendingExchange(self._links.exchange(sends, receives), result, result)

    def close(self) -> None:
        self._links.close()


@dataclass(frozen=True)
class _PendingExchange(Generic[T]):
    """A transfer and its result; keeps the tensors alive whose memory is being sent."""

    exchange: Transfer
    result: T
    sent: Any

    def wait(self) -> T:
        self.exchange.wait()
        return self.result


def room_for(shapes: Sequence[Shape], piece: nn.Tensor, own: int) -> list[nn.Tensor]:
    """Tensors of these shapes for what other ranks send; at this rank's position its own piece."""
    return [
        piece if i == own else mint.empty(tuple(shape), dtype=piece.dtype) for i, shape in enumerate(shapes)
    ]


def contiguous(x: nn.Tensor) -> nn.Tensor:
    """x, or a contiguous copy of it."""
    return x if x.is_contiguous() else nn.copy(x)


def _bytes(array: np.ndarray) -> memoryview:
    """The memory of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data
