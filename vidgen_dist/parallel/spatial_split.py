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

Letters: B videos, C channels, T frames, h this rank's rows, H all rows, W columns, N heads, D head size.
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
    """Which rows of an image each rank has, and what the ranks exchange for them.

    Args:
        gang: All ranks, also those without rows.
        sizes: Each rank's rows where the image is smallest; 0 for the last ranks if there are few rows.
    """

    gang: Group = field(default_factory=Group)
    sizes: tuple[int, ...] = (1,)

    @classmethod
    def divide(cls, gang: Group, total: int, at_least: int = 1) -> SpatialSplit:
        """Divide the rows of the image where it is smallest, as evenly as possible.

        Args:
            gang: The ranks to divide them over.
            total: Number of rows.
            at_least: A rank gets at least so many rows, or none. No halo may be wider, at any size of the
                image, so that a rank finds all it needs on its two neighbours. 1 is enough for kernels of 3.
        """
        holders = max(1, min(gang.size, total // at_least))
        return cls(gang, shares(total, holders) + (0,) * (gang.size - holders))

    @classmethod
    def of_first(cls, gang: Group, total: int) -> SpatialSplit:
        """All rows on the first rank; the others only wait."""
        return cls(gang, (total,) + (0,) * (gang.size - 1))

    @property
    def holders(self) -> int:
        """How many ranks have rows; these are the first ones."""
        return max(1, sum(size > 0 for size in self.sizes))

    @property
    def holds(self) -> bool:
        """Whether this rank has rows, and so takes part in the computation."""
        return self.gang.index < self.holders

    @property
    def whole(self) -> bool:
        """Whether all rows are on one rank."""
        return self.holders == 1

    def take(self, x: nn.Tensor, scale: int = 1) -> nn.Tensor:
        """This rank's rows of x (B, C, T, H, W), which has `scale` rows for each row of the smallest image.

        Rows beyond the last multiple of `scale` belong to the last rank that has rows.
        """
        if self.gang.size == 1:
            return x
        own = bounds(self.sizes, self.gang.index)
        end = x.shape[ROW_AXIS] if self.gang.index == self.holders - 1 else own.stop * scale
        return x[:, :, :, own.start * scale : end]

    # Convolutions

    def around(self, x: nn.Tensor, above: int, below: int) -> Bands:
        """x with the rows above and below it in the image, which a convolution reads.

        Args:
            x: (B, C, T, h, W).
            above, below: Rows to add, zeros outside the image; at most as many as the rank with the fewest
                has.

        Returns:
            The bands that make up the rows. On one rank only x: the convolution adds the zeros itself (see
            `padding`), which saves a copy.
        """
        return (x,) if self.whole else self._bands(x, above, below, "constant")

    def extend(self, x: nn.Tensor, above: int, below: int) -> nn.Tensor:
        """As `around`, with the bands in one tensor: (B, C, T, above + h + below, W); on one rank x."""
        bands = self.around(x, above, below)
        return x if len(bands) == 1 else nn.cat(bands, ROW_AXIS)

    def padding(self, edge: int) -> int:
        """Rows of zeros that a convolution has to add above and below, after `around`."""
        return edge if self.whole else 0

    def pad(self, x: nn.Tensor, widths: Sequence[int], mode: PadMode = "constant") -> nn.Tensor:
        """`nn.pad` of x (B, C, T, h, W) at the image's border; elsewhere the rows of other ranks.

        Args:
            x: This rank's rows.
            widths: Left, right, above, below, and frames before and after, if any.
            mode: What is outside the image: "constant" (zeros), or "replicate" (the edge repeated).
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
        self,
        x: nn.Tensor,
        num_groups: int,
        weight: nn.Tensor | None,
        bias: nn.Tensor | None,
        eps: float,
        silu: bool = False,
    ) -> nn.Tensor:
        """`nn.group_norm` of x (B, C, T, h, W), with the moments of the whole image."""
        if self.whole:
            return nn.group_norm(x, num_groups, weight, bias, eps, silu)
        held = x.shape[ROW_AXIS]
        return group_norm_of_all(self._group, x, held, num_groups, weight, bias, eps, silu)

    # Attention

    def attention(
        self, q: nn.Tensor, k: nn.Tensor, v: nn.Tensor, *, causal: bool = False, scale: float | None = None
    ) -> nn.Tensor:
        """Softmax attention of this rank's places to those of the whole image. Only keys and values are sent.

        Args:
            q, k, v: (B, N, T, h, W, D). If frames see only themselves, B counts all frames and T is 1.
            causal: Whether a frame sees no later frame; otherwise it sees all.
            scale: Factor of q·k; 1 / sqrt(D) by default.

        Returns:
            (B, N, T, h, W, D).
        """
        if not self.whole:
            k, v = self._gather_places(k), self._gather_places(v)
        if not causal:
            return _attend(q, k, v, scale)
        # One frame at a time: this needs no mask as large as the scores, and computes no masked scores.
        frames = range(q.shape[2])
        return nn.cat(
            [_attend(q[:, :, t : t + 1], k[:, :, : t + 1], v[:, :, : t + 1], scale) for t in frames], 2
        )

    def _gather_places(self, x: nn.Tensor) -> nn.Tensor:
        """The x (B, N, T, h, W, D) of all ranks: (B, N, T, H, W, D)."""
        # The image is smallest here, or a multiple of that.
        times = x.shape[ROW_AXIS] // self.sizes[self.gang.index]
        group = self._group
        lengths = [times * size for size in self.sizes[: group.size]]
        rows_first = nn.copy(x.permute(3, 0, 1, 2, 4, 5))
        gathered = group.all_gather(rows_first, lengths, what="attention").wait()
        return gathered.permute(1, 2, 3, 0, 4, 5)

    # Ends

    def gather(self, x: nn.Tensor | None, dtype: Any) -> nn.Tensor:
        """All rows, (B, C, T, H, W), on every rank; x (B, C, T, h, W) is None on a rank without rows."""
        return self._gather(x, dtype, range(self.gang.size))

    def gather_at_first(self, x: nn.Tensor | None, dtype: Any) -> nn.Tensor:
        """As `gather`, but on the first rank only; the others get (B, C, T, 0, W)."""
        return self._gather(x, dtype, range(1))

    def _gather(self, x: nn.Tensor | None, dtype: Any, receivers: range) -> nn.Tensor:
        gang = self.gang
        if gang.size == 1:
            assert x is not None
            return x
        shapes = self._gather_shapes(x)
        if x is None:
            x = nn.zeros(shapes[gang.index], dtype)
        nothing = nn.zeros(with_length(x, ROW_AXIS, 0), dtype)
        receives = gang.index in receivers
        pieces = [x if i in receivers else nothing for i in range(gang.size)]
        expected = [shape if receives else with_length(x, ROW_AXIS, 0) for shape in shapes]
        parts = gang.all_to_all(pieces, expected, what="rows").wait()
        return nn.cat([part for part in parts if part.size], ROW_AXIS) if receives else nothing

    def _gather_shapes(self, x: nn.Tensor | None) -> list[tuple[int, ...]]:
        """The shape of every rank's part: a rank without rows does not know the network's output shape."""
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

    def construct(  # type: ignore[override]
        self, x: nn.Tensor, split: SpatialSplit, silu: bool = False
    ) -> nn.Tensor:
        return split.group_norm(x, self.num_groups, self.weight, self.bias, self.eps, silu)


def join_bands(parts: Sequence[Bands]) -> nn.Tensor:
    """Frames (B, C, T, H, W) from parts that follow one another in time, each given as bands, in one copy."""
    if all(len(bands) == 1 for bands in parts):
        return nn.cat([bands[0] for bands in parts], axis=2)
    batch, channels, _, _, width = parts[0][0].shape
    height = sum(band.shape[ROW_AXIS] for band in parts[0])
    # Concatenated along the rows of frames, the bands of one frame after another are in the right order.
    return nn.cat(
        [band[:, :, t] for bands in parts for t in range(bands[0].shape[2]) for band in bands], axis=2
    ).reshape(batch, channels, -1, height, width)


def _beyond(edge: nn.Tensor, rows: int, mode: PadMode) -> nn.Tensor:
    """The rows outside the image, next to its edge (B, C, T, 1, W)."""
    if mode == "replicate":
        return nn.cat([edge] * rows, ROW_AXIS)
    return nn.zeros(with_length(edge, ROW_AXIS, rows), edge.dtype)


def _attend(q: nn.Tensor, k: nn.Tensor, v: nn.Tensor, scale: float | None) -> nn.Tensor:
    """Attention over frames, rows and columns: q (B, N, t, h, W, D), k and v (B, N, T, H, W, D)."""
    batch, heads, *_, size = q.shape
    flat = (nn.reshape(x, (batch, heads, -1, size)) for x in (q, k, v))
    return nn.reshape(nn.attention(*flat, scale=scale), q.shape)
