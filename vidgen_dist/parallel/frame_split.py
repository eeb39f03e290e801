"""Frame split: the frames of a clip are divided over ranks, and each rank runs a whole network on its frames.

A layer that works on one frame at a time needs nothing from other ranks. A layer that mixes frames takes a
`FrameSplit` and calls it:

- a convolution over frames is the module `TemporalConv`, or calls `around`;
- a group norm over the whole clip is the module `FrameSplitGroupNorm`, or calls `group_norm`;
- attention between the frames of each place calls `over_time`;
- the ends of the network call `take`, `gather` and `gather_at_first`.

On one rank, `FrameSplit()`, these exchange nothing and copy nothing.

If there are more ranks than frames, the last ranks have none. Such a rank computes a copy of the first frame,
and its result is not used: it has to run, so that the others can gather their weights.

Letters: B samples, C channels, f this rank's frames, F all frames, H rows, W columns, N places of a frame, n
    of
them on this rank, D features of a place.
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
    """Which frames of a clip each rank has, and what the ranks exchange for them.

    Args:
        gang: All ranks, also those without frames.
        sizes: Each rank's number of frames; 0 for the last ranks if there are few frames.
    """

    gang: Group = field(default_factory=Group)
    sizes: tuple[int, ...] = (1,)

    @classmethod
    def divide(cls, gang: Group, frames: int) -> FrameSplit:
        """Divide frames as evenly as possible.

        Args:
            gang: The ranks to divide them over; all of them call the network together.
            frames: Number of frames, 1 or more.
        """
        return cls(gang, shares(frames, gang.size))

    @functools.cached_property
    def peers(self) -> Group:
        """The ranks that have frames; only this rank itself if it has none."""
        return self.gang.first(sum(size > 0 for size in self.sizes)) or Group()

    @property
    def whole(self) -> bool:
        """Whether this rank needs nothing from others."""
        return self.peers.size == 1

    @property
    def frames(self) -> int:
        """Number of frames in the clip."""
        return sum(self.sizes)

    @property
    def held(self) -> int:
        """Number of frames that this rank computes, f: 1 or more."""
        return max(1, self.sizes[self.gang.index])

    def take(self, x: nn.Tensor, axis: int = FRAME_AXIS) -> nn.Tensor:
        """This rank's frames of x, which has all frames along the axis."""
        if self.gang.size == 1:
            return x
        at = bounds(self.sizes, self.gang.index)
        start = at.start if at.stop > at.start else 0
        return part(x, axis, start, self.held)

    def gather(self, x: nn.Tensor, axis: int = FRAME_AXIS) -> nn.Tensor:
        """The frames of all ranks, in order, on every rank; x has this rank's frames along the axis."""
        return self._gather(x, axis, range(self.gang.size))

    def gather_at_first(self, x: nn.Tensor, axis: int = FRAME_AXIS) -> nn.Tensor:
        """As `gather`, but on the first rank only; the others get an axis of length 0."""
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
        """x with the frames before and after it in the clip, which a convolution reads.

        Args:
            x: (B, C, f, H, W).
            before, after: Frames to add, zeros outside the clip; at most as many as the rank with the fewest
                frames has.

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
        self,
        x: nn.Tensor,
        num_groups: int,
        weight: nn.Tensor | None,
        bias: nn.Tensor | None,
        eps: float,
        silu: bool = False,
    ) -> nn.Tensor:
        """`nn.group_norm` of x (B, C, f, H, W), with the moments of the whole clip."""
        if self.whole:
            return nn.group_norm(x, num_groups, weight, bias, eps, silu)
        return group_norm_of_all(self.peers, x, self.held, num_groups, weight, bias, eps, silu)

    def over_time(self, x: nn.Tensor, run: Callable[[nn.Tensor], nn.Tensor]) -> nn.Tensor:
        """Run a function that mixes the frames of each place, but not places, between two all-to-alls.

        Args:
            x: (B, f, N, D).
            run: Takes all frames of some places, (B, F, n, D), and returns the same shape. A rank that gets
                no places does not call it, so it must not communicate with other ranks.

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
        """Send every rank its part along one axis, and concatenate what they send along another axis.

        Args:
            x: (B, frames, places, D).
            cut: The axis along which x is divided.
            sizes: The size of every rank's part.
            join: The axis along which the received parts are concatenated.
            given: The length of every rank's part along that axis.
        """
        peers = self.peers
        pieces = [part(x, cut, at.start, at.stop - at.start) for at in part_bounds(sizes)]
        own = with_length(x, cut, sizes[peers.index])
        shapes = [(*own[:join], length, *own[join + 1 :]) for length in given]
        parts = peers.all_to_all(pieces, shapes, what="frames").wait()
        kept = [each for each in parts if each.size]
        return nn.cat(kept, join) if kept else nn.zeros((*own[:join], sum(given), *own[join + 1 :]), x.dtype)


class FrameSplitGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` over whole clips whose frames are split; x is (B, C, f, H, W)."""

    def construct(  # type: ignore[override]
        self, x: nn.Tensor, split: FrameSplit, silu: bool = False
    ) -> nn.Tensor:
        return split.group_norm(x, self.num_groups, self.weight, self.bias, self.eps, silu)


class TemporalConv(nn.Conv3d):
    """Convolution of clips (B, in, f, H, W) over three frames at a time, zeros outside the clip.

    `weight` (out, in, 3, 1, 1), `bias` (out,).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, (3, 1, 1))

    def construct(self, x: nn.Tensor, split: FrameSplit) -> nn.Tensor:  # type: ignore[override]
        if split.whole:
            return nn.conv3d(x, self.weight, self.bias, padding=(1, 0, 0))
        return nn.conv3d(split.around(x, 1, 1), self.weight, self.bias)
