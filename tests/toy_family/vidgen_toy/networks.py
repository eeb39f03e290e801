"""The toy's networks.

Letters: B batch, T frames, C latent channels, H, W latent height and width, N tokens, D width.
"""

from __future__ import annotations

import numpy as np
from vidgen_toy.config import DenoiserConfig, VaeConfig

from vidgen_dist import nn
from vidgen_dist.families.common.autoencoder import VideoAutoencoder
from vidgen_dist.families.common.autoencoder_layers import from_channels, to_channels
from vidgen_dist.parallel.attention import attention
from vidgen_dist.parallel.blocks import run_blocks
from vidgen_dist.parallel.mesh import Mesh, alone
from vidgen_dist.parallel.spatial_split import SpatialSplit
from vidgen_dist.parallel.token_split import TokenSplit, split_tokens


class Denoiser(nn.Module):
    """Predicts dx/dσ of latents beside an image's; a token is one of them."""

    # Sharded over the ranks of a gang: see `parallel.sharding`.
    sharded = ("blocks",)

    def __init__(self, config: DenoiserConfig, mesh: Mesh | None = None) -> None:
        super().__init__()
        self.mesh = mesh or alone()
        self.proj_in = nn.Linear(2 * config.channels + 1, config.width)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.num_layers)])
        self.proj_out = nn.Linear(config.width, config.channels)

    def construct(self, latents: nn.Tensor, image: nn.Tensor, sigma: float) -> nn.Tensor:
        """latents (B, T, C, H, W), image (B, 1, C, H, W) to the former's shape."""
        batch, frames, channels, height, width = latents.shape
        noise_level = nn.from_numpy(np.full((batch, frames, 1, height, width), sigma, np.float32))
        seen = nn.cat([latents, nn.cat([image] * frames, 1), noise_level.astype(latents.dtype)], 2)
        tokens = nn.reshape(seen.permute(0, 1, 3, 4, 2), (batch, -1, 2 * channels + 1))
        split = split_tokens(self.mesh, video=tokens.shape[1])
        (own,) = run_blocks(
            self.blocks,
            [self.proj_in(split.take(tokens, "video"))],
            lambda block, streams: [block(*streams, split)],
        )
        whole = split.gather(self.proj_out(own), "video")
        return nn.reshape(whole, (batch, frames, height, width, channels)).permute(0, 1, 4, 2, 3)


class Block(nn.Module):
    """Attention of all tokens to all, then a linear map."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self._heads = config.num_heads
        self.to_qkv = nn.Linear(config.width, 3 * config.width)
        self.to_out = nn.Linear(config.width, config.width)

    def construct(self, tokens: nn.Tensor, split: TokenSplit) -> nn.Tensor:
        """(B, n, D) to the same, of this rank's tokens."""
        batch, length, width = tokens.shape
        heads = (batch, length, self._heads, width // self._heads)
        query, key, value = (nn.reshape(x, heads) for x in nn.chunk(self.to_qkv(tokens), 3, -1))
        mixed = nn.reshape(attention(query, key, value, split), tokens.shape)
        return nn.add(tokens, self.to_out(nn.silu(mixed)))


class Autoencoder(VideoAutoencoder):
    """Frame by frame, each square of pixels by itself."""

    def __init__(self, config: VaeConfig, mesh: Mesh | None = None) -> None:
        super().__init__(config, config.spatial_compression_ratio, mesh)
        ratio = config.spatial_compression_ratio
        self._square = (1, ratio, ratio)
        self.encoder = nn.Conv3d(3 * ratio**2, 2 * config.latent_channels, 1)
        self.decoder = nn.Conv3d(config.latent_channels, 3 * ratio**2, 1)

    def _encode(self, video: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        return self.encoder(to_channels(video, self._square))

    def _decode(self, latents: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        return from_channels(self.decoder(latents), self._square)
