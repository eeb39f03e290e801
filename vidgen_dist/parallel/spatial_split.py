"""Spatial split: the rows of an image are divided over ranks, and each rank runs a whole network on its rows.

A layer needs nothing from other ranks if it works pixel by pixel or frame by frame, normalises over channels,
or reshuffles channels into rows and columns. Other layers take a `SpatialSplit` and call it:

- a convolution that reads the rows around its own calls `around`, or `pad` where it pads its input;
- a group norm calls `group_norm`, or is the module `SpatialSplitGroupNorm`;
- attention between places calls `attention`;
- the ends of the network call `take`, `gather` and `gather_at_first`.

On one rank, `SpatialSplit()`, these exchange nothing and copy nothing.

Rows are divided where the image is smallest, so each rank has a multiple of them at every other size: layers
that double or halve rows need no exchange. After Mochi's split autoencoder (Genmo 2024, `cp_conv.py`), which
splits frames.

Letters: B videos, C channels, T frames, h rows of this rank, H rows of all, W columns, N heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from vidgen_dist import nn
from vidgen_dist.parallel.collectives import Group
from vidgen_dist.parallel.degrees import bounds, shares
from vidgen_dist.parallel.neighbours import exchange_edges, group_norm_of_all, with_length

Bands = tuple[nn.Tensor, ...]
"""Parts (B, C, T, h_i, W) of frames, from top to bottom."""

PadMode = Literal["constant", "replicate"]

ROW_AXIS = 3


@dataclass(frozen=True)
class SpatialSplit:
    """Which rows of an image are on which rank, and what the ranks tell each other of them.

    Args:
        gang: The ranks, whether or not rows are left for them.
        sizes: Rows of each where the image is smallest; none for the last ones where there are few.
    """

    gang: Group = field(default_factory=Group)
    sizes: tuple[int, ...] = (1,)

    @classmethod
    def divide(cls, gang: Group, total: int, at_least: int = 1) -> SpatialSplit:
        """Divide `total` rows, those of the image where it is smallest, as evenly as can be.

        Args:
            gang: The ranks to divide them over.
            total: Their number.
            at_least: Rows below which a rank gets none at all. No halo may be wider, at any size of the
                image: so a rank finds all that it needs on its two neighbours. 1 is enough for kernels of 3.
        """
        holders = max(1, min(gang.size, total // at_least))
        return cls(gang, shares(total, holders) + (0,) * (gang.size - holders))

    @classmethod
    def of_first(cls, gang: Group, total: int) -> SpatialSplit:
        """All rows on the first rank: the others have but to wait."""
        return cls(gang, (total,) + (0,) * (gang.size - 1))

    @property
    def holders(self) -> int:
        """How many ranks have rows: the first ones."""
        return max(1, sum(size > 0 for size in self.sizes))

    @property
    def holds(self) -> bool:
        """Whether this rank has rows, and so takes part before they are gathered."""
        return self.gang.index < self.holders

    @property
    def whole(self) -> bool:
        """Whether all rows are on one rank."""
        return self.holders == 1

    def take(self, x: nn.Tensor, scale: int = 1) -> nn.Tensor:
        """This rank's rows of x (B, C, T, H, W), which has `scale` rows for one where the image is smallest.

        Rows beyond the last multiple of `scale` go with the last ones.
        """
        if self.gang.size == 1:
            return x
        own = bounds(self.sizes, self.gang.index)
        end = x.shape[ROW_AXIS] if self.gang.index == self.holders - 1 else own.stop * scale
        return x[:, :, :, own.start * scale : end]

    # Convolutions

    def around(self, x: nn.Tensor, above: int, below: int) -> Bands:
        """x with the rows that stand above and below it in the image: what a convolution reads.

        Args:
            x: (B, C, T, h, W).
            above, below: Rows to add, zeros beyond the image; at most those of the rank with the fewest.

        Returns:
            The bands that make up the rows together. Of one rank x alone: zeros are left to the convolution
            (see `padding`), which needs no copy for them.
        """
        return (x,) if self.whole else self._bands(x, above, below, "constant")

    def extend(self, x: nn.Tensor, above: int, below: int) -> nn.Tensor:
        """As `around`, the bands in one: (B, C, T, above + h + below, W); of one rank x itself."""
        bands = self.around(x, above, below)
        return x if len(bands) == 1 else nn.cat(bands, ROW_AXIS)

    def padding(self, edge: int) -> int:
        """Rows of zeros that are left to a convolution to add above and below, after `around`."""
        return edge if self.whole else 0

    def pad(self, x: nn.Tensor, widths: Sequence[int], mode: PadMode = "constant") -> nn.Tensor:
        """`nn.pad` of x (B, C, T, h, W) where it is at the image's border, other ranks' rows where it is not.

        Args:
            x: This rank's rows.
            widths: Left, right, above, below, and frames before and after, if any.
            mode: What is beyond the image: "constant" (zeros), or "replicate" (its edge).
        """
        if self.whole:
            return nn.pad(x, widths, mode)
        left, right, above, below, *frames = widths
        extended = nn.cat(self._bands(x, above, below, mode), ROW_AXIS)
        return nn.pad(extended, (left, right, 0, 0, *frames), mode)

    def _bands(self, x: nn.Tensor, above: int, below: int, mode: PadMode) -> Bands:
        from_above, from_below = exchange_edges(self._group, x, ROW_AXIS, above, below)
        if above and from_above is None:
            from_above = _beyond(x[:, :, :, :1], above, mode)
        if below and from_below is None:
            from_below = _beyond(x[:, :, :, -1:], below, mode)
        return tuple(band for band in (from_above, x, from_below) if band is not None)

    # Statistics

    def group_norm(
        self, x: nn.Tensor, num_groups: int, weight: nn.Tensor | None, bias: nn.Tensor | None, eps: float
    ) -> nn.Tensor:
        """`nn.group_norm` of x (B, C, T, h, W) by the moments of the whole image."""
        if self.whole:
            return nn.group_norm(x, num_groups, weight, bias, eps)
        held = x.shape[ROW_AXIS]
        return group_norm_of_all(self._group, x, held, num_groups, weight, bias, eps)

    # Attention

    def attention(
        self, q: nn.Tensor, k: nn.Tensor, v: nn.Tensor, *, causal: bool = False, scale: float | None = None
    ) -> nn.Tensor:
        """Softmax attention of this rank's places to those of the whole image. Only keys and values travel.

        Args:
            q, k, v: (B, N, T, h, W, D). For frames that see only themselves, B is that of all frames and T 1.
            causal: Whether a frame sees no later one; else it sees all.
            scale: Factor of q·k; 1 / sqrt(D) by default.

        Returns:
            (B, N, T, h, W, D).
        """
        if not self.whole:
            k, v = self._gather_places(k), self._gather_places(v)
        if not causal:
            return _attend(q, k, v, scale)
        # Frame by frame: no mask as large as the scores, and no scores to be masked.
        frames = range(q.shape[2])
        return nn.cat(
            [_attend(q[:, :, t : t + 1], k[:, :, : t + 1], v[:, :, : t + 1], scale) for t in frames], 2
        )

    def _gather_places(self, x: nn.Tensor) -> nn.Tensor:
        """x (B, N, T, h, W, D) of all ranks: (B, N, T, H, W, D)."""
        # Attention stands where the image is smallest, or at a multiple of it.
        times = x.shape[ROW_AXIS] // self.sizes[self.gang.index]
        group = self._group
        lengths = [times * size for size in self.sizes[: group.size]]
        rows_first = nn.copy(x.permute(3, 0, 1, 2, 4, 5))
        gathered = group.all_gather(rows_first, lengths, what="attention").wait()
        return gathered.permute(1, 2, 3, 0, 4, 5)

    # Ends

    def gather(self, x: nn.Tensor | None, dtype: Any) -> nn.Tensor:
        """All rows, (B, C, T, H, W), on every rank; x (B, C, T, h, W) is None on a rank that has none."""
        return self._gather(x, dtype, range(self.gang.size))

    def gather_at_first(self, x: nn.Tensor | None, dtype: Any) -> nn.Tensor:
        """As `gather`, but on the first rank only; the others get (B, C, T, 0, W)."""
        return self._gather(x, dtype, range(1))

    def _gather(self, x: nn.Tensor | None, dtype: Any, receivers: range) -> nn.Tensor:
        gang = self.gang
        if gang.size == 1:
            assert x is not None
            return x
        shapes = self._tell_shapes(x)
        if x is None:
            x = nn.zeros(shapes[gang.index], dtype)
        nothing = nn.zeros(with_length(x, ROW_AXIS, 0), dtype)
        receives = gang.index in receivers
        pieces = [x if i in receivers else nothing for i in range(gang.size)]
        expected = [shape if receives else with_length(x, ROW_AXIS, 0) for shape in shapes]
        parts = gang.all_to_all(pieces, expected, what="rows").wait()
        return nn.cat([part for part in parts if part.size], ROW_AXIS) if receives else nothing

    def _tell_shapes(self, x: nn.Tensor | None) -> list[tuple[int, ...]]:
        """The shape of every rank's part: a rank without rows cannot know what the network makes of them."""
        own = np.zeros((1, 5), np.int64) if x is None else np.array([x.shape], np.int64)
        told = self.gang.all_gather(nn.from_numpy(own), [1] * self.gang.size, what="rows").wait()
        shapes = nn.to_numpy(told)
        shapes[:, [0, 1, 2, 4]] = shapes[0, [0, 1, 2, 4]]
        return [tuple(int(n) for n in shape) for shape in shapes]

    @property
    def _group(self) -> Group:
        """The ranks that have rows."""
        group = self.gang.first(self.holders)
        assert group is not None, "a rank without rows computes nothing"
        return group


class SpatialSplitGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` of images (B, C, T, h, W) whose rows are split."""

    def construct(self, x: nn.Tensor, split: SpatialSplit) -> nn.Tensor:  # type: ignore[override]
        return split.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def join_bands(parts: Sequence[Bands]) -> nn.Tensor:
    """Frames (B, C, T, H, W) of parts that follow one another in time, each in its bands, in one copy."""
    if all(len(bands) == 1 for bands in parts):
        return nn.cat([bands[0] for bands in parts], axis=2)
    batch, channels, _, _, width = parts[0][0].shape
    height = sum(band.shape[ROW_AXIS] for band in parts[0])
    # Rows of all frames in a row: there the bands of one frame after the other follow one another.
    return nn.cat(
        [band[:, :, t] for bands in parts for t in range(bands[0].shape[2]) for band in bands], axis=2
    ).reshape(batch, channels, -1, height, width)


def _beyond(edge: nn.Tensor, rows: int, mode: PadMode) -> nn.Tensor:
    """What is beyond the image next to its edge (B, C, T, 1, W)."""
    if mode == "replicate":
        return nn.cat([edge] * rows, ROW_AXIS)
    return nn.zeros(with_length(edge, ROW_AXIS, rows), edge.dtype)


def _attend(q: nn.Tensor, k: nn.Tensor, v: nn.Tensor, scale: float | None) -> nn.Tensor:
    """Attention over frames, rows and columns: q (B, N, t, h, W, D), k and v (B, N, T, H, W, D)."""
    batch, heads, *_, size = q.shape
    flat = (nn.reshape(x, (batch, heads, -1, size)) for x in (q, k, v))
    return nn.reshape(nn.attention(*flat, scale=scale), q.shape)
