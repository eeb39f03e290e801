"""Tiles: an autoencoder processes overlapping parts of a video one by one, to save memory, and blends the
seams.

Letters: B videos, C channels, T frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vidgen_dist import nn
from vidgen_dist.errors import Refused


@dataclass(frozen=True)
class Tiles:
    """How one axis is cut: tiles of `size` in the input, one every `step`; `blend` of a tile's output is
    mixed with the previous tile, and `keep` of it is kept."""

    size: int
    step: int
    blend: int
    keep: int


def cut(samples: int, stride: int, ratio: int, *, decoding: bool) -> Tiles:
    """Tiles of `samples` pixels or frames, one every `stride`; `ratio` pixels or frames make a latent.

    Raises:
        Refused: Tiles with gaps between them, or not of whole latents.
    """
    if samples % ratio or stride % ratio or not 0 < stride <= samples:
        raise Refused(
            f"tiles of {samples}, one every {stride}: both must be multiples of {ratio}, which are one "
            f"latent, and a tile must not begin after the end of the previous one"
        )
    latents, step = samples // ratio, stride // ratio
    if decoding:
        return Tiles(size=latents, step=step, blend=samples - stride, keep=stride)
    return Tiles(size=samples, step=stride, blend=latents - step, keep=step)


@dataclass(frozen=True)
class StridedTiles:
    """Tiles of rows and columns, defined by their size and distance, with the reference's names.

    Args:
        tile_sample_min_height, tile_sample_min_width: Size of a tile in pixels.
        tile_sample_stride_height, tile_sample_stride_width: Pixels from one tile to the next.
    """

    tile_sample_min_height: int = 256
    tile_sample_min_width: int = 256
    tile_sample_stride_height: int = 192
    tile_sample_stride_width: int = 192

    def cut(self, ratio: int, *, decoding: bool) -> tuple[Tiles, Tiles]:
        """The tiles of the input's rows and columns, at `ratio` pixels per latent.

        Raises:
            Refused: Tiles that would not meet on the grid of latents.
        """
        return (
            cut(self.tile_sample_min_height, self.tile_sample_stride_height, ratio, decoding=decoding),
            cut(self.tile_sample_min_width, self.tile_sample_stride_width, ratio, decoding=decoding),
        )


@dataclass(frozen=True)
class OverlappingTiles:
    """Tiles of rows and columns, defined by their size and overlap, with the reference's names.

    Args:
        tile_sample_min_height, tile_sample_min_width: Size of a tile in pixels.
        tile_overlap_factor_height, tile_overlap_factor_width: Share of a tile, from 0 to below 1, that is
            blended with the previous tile.
    """

    tile_sample_min_height: int
    tile_sample_min_width: int
    tile_overlap_factor_height: float = 1 / 6
    tile_overlap_factor_width: float = 1 / 5

    def cut(self, ratio: int, *, decoding: bool) -> tuple[Tiles, Tiles]:
        """As `StridedTiles.cut`."""
        return (
            overlap(self.tile_sample_min_height, self.tile_overlap_factor_height, ratio, decoding=decoding),
            overlap(self.tile_sample_min_width, self.tile_overlap_factor_width, ratio, decoding=decoding),
        )


def overlap(samples: int, share: float, ratio: int, *, decoding: bool) -> Tiles:
    """As `cut`, for tiles that overlap by a share of their length.

    Raises:
        Refused: With the reference's rounding the tiles leave gaps, or do not advance.
    """
    latents = samples // ratio
    size, out = (latents, samples) if decoding else (samples, latents)
    # The order of these float operations affects the rounding.
    step, blended = int(size * (1 - share)), int(out * share)
    keep = out - blended
    meet = step * ratio == keep if decoding else step == keep * ratio
    if not 0 <= share < 1 or step < 1 or not meet:
        raise Refused(
            f"tiles of {samples} pixels that overlap by {share:g} of their length do not meet on the grid "
            f"of {ratio} pixels per latent; size and overlap (0 to below 1) must both be whole latents"
        )
    return Tiles(size, step, blended, keep)


def in_tiles(x: nn.Tensor, tiles: tuple[Tiles, Tiles], run: Callable[[nn.Tensor], nn.Tensor]) -> nn.Tensor:
    """Run a function on x (B, C, T, H, W) in blended tiles, or at once if x is no larger than a tile."""
    rows, columns = tiles
    height, width = x.shape[3:]
    if height <= rows.size and width <= columns.size:
        return run(x)
    bands = []
    above: list[nn.Tensor] = []
    for top in range(0, height, rows.step):
        band: list[nn.Tensor] = []
        for left in range(0, width, columns.step):
            tile = run(x[:, :, :, top : top + rows.size, left : left + columns.size])
            if above:
                tile = blend(above[len(band)], tile, rows.blend, axis=3)
            if band:
                tile = blend(band[-1], tile, columns.blend, axis=4)
            band.append(tile)
        bands.append(nn.cat([tile[:, :, :, : rows.keep, : columns.keep] for tile in band], axis=4))
        above = band
    return nn.cat(bands, axis=3)


def blend(before: nn.Tensor, x: nn.Tensor, extent: int, axis: int) -> nn.Tensor:
    """x (B, C, T, H, W), its first `extent` along an axis faded in over the last of `before`."""
    extent = min(before.shape[axis], x.shape[axis], extent)
    if extent == 0:
        return x
    everything = (slice(None),) * axis
    ramp = np.arange(extent, dtype=np.float32).reshape(-1, *[1] * (x.ndim - axis - 1)) / extent
    share = nn.from_numpy(ramp, dtype=x.dtype)
    last, first = before[(*everything, slice(-extent, None))], x[(*everything, slice(extent))]
    faded = nn.multiply_add(first, share, nn.multiply(last, 1.0 - share))
    return nn.cat([faded, x[(*everything, slice(extent, None))]], axis=axis)


def in_frame_tiles(
    x: nn.Tensor, tiles: Tiles, run: Callable[[nn.Tensor], nn.Tensor], shortest: int
) -> nn.Tensor:
    """Run a function on x (B, C, T, H, W) in tiles of frames, or at once if x has no more frames than a tile.

    For causal autoencoders, which treat the first frame separately. Each tile has one frame more than its
    `size`, the previous frame; the result for it is kept in the first tile only.

    Args:
        x: The video.
        tiles: How its frames are cut.
        run: Processes a tile.
        shortest: A tile of at most so many frames has no result without that first frame.
    """
    frames = x.shape[2]
    if frames <= tiles.size:
        return run(x)
    kept: list[nn.Tensor] = []
    before: nn.Tensor | None = None
    for start in range(0, frames, tiles.step):
        if before is not None and frames - start <= shortest:
            break
        tile = run(x[:, :, start : start + tiles.size + 1])
        if before is None:
            kept.append(tile[:, :, : tiles.keep + 1])
        else:
            tile = blend(before, tile[:, :, 1:], tiles.blend, axis=2)
            kept.append(tile[:, :, : tiles.keep])
        before = tile
    return nn.cat(kept, axis=2)
