"""What video autoencoders share: rows divided over the ranks of a gang, or tiles on one of them.

Letters: B videos, C channels, T frames, H rows, W columns; latents have Z channels and the smaller t, h, w.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vidgen_dist import nn
from vidgen_dist.families.common.tiles import OverlappingTiles, StridedTiles, in_tiles
from vidgen_dist.parallel.mesh import Mesh, alone
from vidgen_dist.parallel.spatial_split import SpatialSplit
from vidgen_dist.spec import ModelOptions

SplitNetwork = Callable[[nn.Tensor, SpatialSplit], nn.Tensor]
"""An encoder or decoder; called with its input and the rows that this rank has."""


class TiledAutoencoder(nn.Module):
    """A model that can process large frames in tiles.

    Args:
        config: The configuration.
        spatial_compression_ratio: Pixels per latent, along rows and columns.
        mesh: The ranks that encode and decode together; by default one.

    Attributes:
        config: The configuration.
        use_tiling: Process frames larger than a tile in blended tiles (`enable_tiling`): it takes less
            memory, and the picture differs slightly.
        tiles: The size of the tiles.
    """

    config: Any
    tiles: StridedTiles | OverlappingTiles = StridedTiles()

    def __init__(self, config: Any, spatial_compression_ratio: int, mesh: Mesh | None) -> None:
        super().__init__()
        self.mesh = mesh or alone()
        self.config = config
        self.spatial_compression_ratio = spatial_compression_ratio
        self.use_tiling = False

    def configure(self, options: ModelOptions) -> None:
        """Apply the model options that concern autoencoders.

        Raises:
            Refused: Tiles that this autoencoder's config does not allow.
        """
        if options.vae_tiling:
            self.enable_tiling()

    def enable_tiling(self, **sizes: Any) -> None:
        """Process frames larger than a tile in tiles from now on.

        Args:
            sizes: Fields of `tiles` to change, by name.

        Raises:
            Refused: Tiles that would not meet on the grid of latents.
            TypeError: A field that these tiles do not have.
        """
        tiles = replace(self.tiles, **sizes)
        for decoding in (False, True):
            tiles.cut(self.spatial_compression_ratio, decoding=decoding)
        self.tiles, self.use_tiling = tiles, True

    def _in_parts(self, x: nn.Tensor, run: Callable[[nn.Tensor], nn.Tensor], *, decoding: bool) -> nn.Tensor:
        """Run a function on x (B, C, T, H, W), in tiles if that is enabled."""
        if not self.use_tiling:
            return run(x)
        return in_tiles(x, self.tiles.cut(self.spatial_compression_ratio, decoding=decoding), run)


class VideoAutoencoder(TiledAutoencoder):
    """Encodes and decodes videos, whole or in parts. A family has the networks, and runs them on one part.

    Tiles are not divided over ranks: the first rank works, the others wait.

    Args:
        config: The family's config, with the number of `latent_channels`.
        spatial_compression_ratio: Pixels per latent, along rows and columns.
        mesh: The ranks that encode and decode together, each its rows; by default one. All of them call
            `encode` and `decode`, with the same values.
    """

    def encode(self, video: nn.Tensor) -> tuple[nn.Tensor, nn.Tensor]:
        """The distribution of a video's latents, on every rank.

        Args:
            video: (B, C, T, H, W) in [-1, 1].

        Returns:
            Mean and logarithm of the variance, each (B, Z, t, h, w). The mean is unscaled, the logarithm is
            within [-30, 20].
        """
        split = self._divide(self._latent_rows(video.shape[3]))
        moments = None
        if split.holds:
            part = split.take(video, self.spatial_compression_ratio)
            moments = self._run(part, split, self._encode, decoding=False)
        return distribution(split.gather(moments, video.dtype), self.config.latent_channels)

    def decode(self, latents: nn.Tensor) -> nn.Tensor:
        """Decode latents (B, Z, t, h, w), scaled as those of `encode`, to frames (B, C, T, H, W), about [-1,
        1].

        The first rank gets the frames; the others get (B, C, T, 0, W).
        """
        return self._decode_by(self._decode, latents)

    def _encode(self, video: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        """The latents' moments for a part of a video: Z means, then the logarithms of the variances."""
        raise NotImplementedError

    def _decode(self, latents: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        """The frames for a part of the latents."""
        raise NotImplementedError

    def _latent_rows(self, height: int) -> int:
        """Rows of the latents, for a height in pixels."""
        return height // self.spatial_compression_ratio

    def _decode_by(self, decode: SplitNetwork, latents: nn.Tensor) -> nn.Tensor:
        """As `decode`, with another function than `_decode`."""
        split = self._divide(latents.shape[3])
        frames = self._run(split.take(latents), split, decode, decoding=True) if split.holds else None
        return split.gather_at_first(frames, latents.dtype)

    def _divide(self, latent_rows: int) -> SpatialSplit:
        divide = SpatialSplit.of_first if self.use_tiling else SpatialSplit.divide
        return divide(self.mesh.gang, latent_rows)

    def _run(
        self,
        x: nn.Tensor,
        split: SpatialSplit,
        network: SplitNetwork,
        *,
        decoding: bool,
    ) -> nn.Tensor:
        # A tile is an image of its own.
        on = SpatialSplit() if self.use_tiling else split
        return self._in_parts(x, lambda part: network(part, on), decoding=decoding)


def distribution(moments: nn.Tensor, channels: int) -> tuple[nn.Tensor, nn.Tensor]:
    """Mean and logarithm of the variance, within [-30, 20], from an encoder's output (B, Z or more, ...).

    Args:
        moments: First the means, then the logarithms.
        channels: Z.
    """
    mean, logvar = nn.split(moments, (channels, moments.shape[1] - channels), axis=1)
    return mean, nn.clip(logvar, -30.0, 20.0)
