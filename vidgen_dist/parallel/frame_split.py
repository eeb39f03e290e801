"""Frames of a clip over ranks: each computes its own frames through a whole network.

A layer that looks at one frame at a time needs nothing of the other ranks. What mixes frames says so with a
`FrameSplit` that it is handed:

- a convolution over frames: the module `TemporalConv`, or `FrameSplit.around`;
- a group norm over the whole clip: the module `FrameSplitGroupNorm`, or `FrameSplit.group_norm`;
- attention from frame to frame at each place: `FrameSplit.over_time`;
- the network's ends: `FrameSplit.take`, `FrameSplit.gather` and `FrameSplit.gather_at_first`.

On one rank these exchange nothing and copy nothing: `FrameSplit()`.

Where there are more ranks than frames the last ones have none. Such a rank computes a copy of the first
frame by itself, which nobody gets: so it is there when the others gather weights.

Letters: B samples, C channels, f frames of this rank, F frames of all, H rows, W columns, N places of a
frame, n of them on this rank, D features of a place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

from vidgen_dist import nn
from vidgen_dist.parallel.collectives import Group
from vidgen_dist.parallel.degrees import bounds, shares
from vidgen_dist.parallel.neighbours import exchange_edges, group_norm_of_all, part, with_length
from vidgen_dist.parallel.token_split import part_bounds

FRAME_AXIS = 2


@dataclass(frozen=True)
class FrameSplit:
    """Which frames of a clip are on which rank, and what the ranks tell each other of them.

    Args:
        gang: The ranks, whether or not frames are left for them.
        sizes: Frames of each; none for the last ones where there are few.
    """

    gang: Group = field(default_factory=Group)
    sizes: tuple[int, ...] = (1,)

    @classmethod
    def divide(cls, gang: Group, frames: int) -> FrameSplit:
        """Divide frames as evenly as can be.

        Args:
            gang: The ranks to divide them over; all of them call the network together.
            frames: Their number, 1 or more.
        """
        return cls(gang, shares(frames, gang.size))

    @functools.cached_property
    def peers(self) -> Group:
        """The ranks that have frames; of a rank that has none itself alone."""
        return self.gang.first(sum(size > 0 for size in self.sizes)) or Group()

    @property
    def whole(self) -> bool:
        """Whether this rank needs nothing of others."""
        return self.peers.size == 1

    @property
    def frames(self) -> int:
        """Frames of the clip."""
        return sum(self.sizes)

    @property
    def held(self) -> int:
        """Frames that this rank computes, f: 1 or more."""
        return max(1, self.sizes[self.gang.index])

    def take(self, x: nn.Tensor, axis: int = FRAME_AXIS) -> nn.Tensor:
        """This rank's frames of x, which has all of them along an axis."""
        if self.gang.size == 1:
            return x
        at = bounds(self.sizes, self.gang.index)
        start = at.start if at.stop > at.start else 0
        return part(x, axis, start, self.held)

    def gather(self, x: nn.Tensor, axis: int = FRAME_AXIS) -> nn.Tensor:
        """All ranks' frames, in their order, on every rank; x has this rank's along the axis."""
        return self._gather(x, axis, range(self.gang.size))

    def gather_at_first(self, x: nn.Tensor, axis: int = FRAME_AXIS) -> nn.Tensor:
        """As `gather`, but on the first rank only; the others get none, an axis of length 0."""
        return self._gather(x, axis, range(1))

    def _gather(self, x: nn.Tensor, axis: int, receivers: range) -> nn.Tensor:
        gang = self.gang
        if gang.size == 1:
            return x
        own = part(x, axis, 0, self.sizes[gang.index])
        nothing = nn.zeros(with_length(x, axis, 0), x.dtype)
        receives = gang.index in receivers
        pieces = [own if i in receivers else nothing for i in range(gang.size)]
        shapes = [with_length(x, axis, size if receives else 0) for size in self.sizes]
        parts = gang.all_to_all(pieces, shapes, what="gather").wait()
        return nn.cat([each for each in parts if each.size], axis) if receives else nothing

    def around(self, x: nn.Tensor, before: int, after: int) -> nn.Tensor:
        """x with the frames before and after it in the clip: what a convolution reads.

        Args:
            x: (B, C, f, H, W).
            before, after: Frames to add, zeros beyond the clip: at most those of the rank with the fewest.

        Returns:
            (B, C, before + f + after, H, W).
        """
        first = last = None
        if not self.whole:
            first, last = exchange_edges(self.peers, x, FRAME_AXIS, before, after)
        if before and first is None:
            first = nn.zeros(with_length(x, FRAME_AXIS, before), x.dtype)
        if after and last is None:
            last = nn.zeros(with_length(x, FRAME_AXIS, after), x.dtype)
        parts = [each for each in (first, x, last) if each is not None]
        return parts[0] if len(parts) == 1 else nn.cat(parts, FRAME_AXIS)

    def group_norm(
        self, x: nn.Tensor, num_groups: int, weight: nn.Tensor | None, bias: nn.Tensor | None, eps: float
    ) -> nn.Tensor:
        """`nn.group_norm` of x (B, C, f, H, W) by the moments of the whole clip."""
        if self.whole:
            return nn.group_norm(x, num_groups, weight, bias, eps)
        return group_norm_of_all(self.peers, x, self.held, num_groups, weight, bias, eps)

    def over_time(self, x: nn.Tensor, run: Callable[[nn.Tensor], nn.Tensor]) -> nn.Tensor:
        """Run what mixes the frames of each place, and no places: an all-to-all before, another behind.

        Args:
            x: (B, f, N, D).
            run: All frames of some places, (B, F, n, D), to as many. A rank for which there are no places
                does not call it, so it must not talk to other ranks.

        Returns:
            (B, f, N, D).
        """
        if self.whole:
            return run(x)
        peers = self.peers
        frames, places = self.sizes[: peers.size], shares(x.shape[2], peers.size)
        x = self._exchange(x, 2, places, 1, frames)
        if places[peers.index]:
            x = run(x)
        return self._exchange(x, 1, frames, 2, places)

    def _exchange(
        self, x: nn.Tensor, cut: int, sizes: tuple[int, ...], join: int, given: tuple[int, ...]
    ) -> nn.Tensor:
        """Give every rank its part along one axis, and put what they give together along another.

        Args:
            x: (B, frames, places, D).
            cut: The axis along which it is divided.
            sizes: Of every rank's part.
            join: The axis along which what comes is put together.
            given: Lengths along it of what every rank gives.
        """
        peers = self.peers
        pieces = [part(x, cut, at.start, at.stop - at.start) for at in part_bounds(sizes)]
        own = with_length(x, cut, sizes[peers.index])
        shapes = [(*own[:join], length, *own[join + 1 :]) for length in given]
        parts = peers.all_to_all(pieces, shapes, what="frames").wait()
        kept = [each for each in parts if each.size]
        return nn.cat(kept, join) if kept else nn.zeros((*own[:join], sum(given), *own[join + 1 :]), x.dtype)


class FrameSplitGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` of clips (B, C, f, H, W) whose frames are split, over the whole clip."""

    def construct(self, x: nn.Tensor, split: FrameSplit) -> nn.Tensor:  # type: ignore[override]
        return split.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class TemporalConv(nn.Conv3d):
    """Convolution of clips (B, in, f, H, W) over each three frames, zeros beyond the clip.

    `weight` (out, in, 3, 1, 1), `bias` (out,).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, (3, 1, 1))

    def construct(self, x: nn.Tensor, split: FrameSplit) -> nn.Tensor:  # type: ignore[override]
        if split.whole:
            return nn.conv3d(x, self.weight, self.bias, padding=(1, 0, 0))
        return nn.conv3d(split.around(x, 1, 1), self.weight, self.bias)
