"""Stable Video Diffusion's UNet: Stable Diffusion 2.1's, with a layer over frames after each of its layers.

Sources: Blattmann et al. 2023, "Stable Video Diffusion" (arXiv:2311.15127) and "Align your Latents"
(arXiv:2304.08818). Names and numbers are those of diffusers' `UNetSpatioTemporalConditionModel`.

Letters: B samples, F frames, f of them on this rank, N = B * f images, samples first; C channels, H rows, W
columns, L places of an image; X width of the image's embedding.
"""

from __future__ import annotations

import functools

import numpy as np

from vidgen_dist import nn
from vidgen_dist.families.common.layers import FeedForward, TimestepEmbedding
from vidgen_dist.families.common.unet import (
    Context,
    DownBlock,
    MidBlock,
    UpBlock,
    down_inputs,
    run_unet,
    sharded_lists,
    tokens_between_frames,
    up_inputs,
)
from vidgen_dist.families.common.unet_layers import (
    NORM_EPS,
    PROJECTION_EPS,
    BasicTransformerBlock,
    Downsample2D,
    Upsample2D,
    to_image,
    to_tokens,
)
from vidgen_dist.families.stable_video_diffusion.config import (
    ATTENDING_DOWN,
    ATTENDING_UP,
    GROUPS,
    TIME_IDS,
    Level,
    UNetConfig,
)
from vidgen_dist.families.stable_video_diffusion.layers import AlphaBlender, SpatioTemporalResBlock
from vidgen_dist.nn.embeddings import timestep_embedding
from vidgen_dist.parallel.frame_split import FrameSplit
from vidgen_dist.parallel.mesh import Mesh, alone

EPS, SMALL_EPS = 1e-5, 1e-6
"""Epsilons of residual blocks' norms. The first: in the middle, and in halving blocks without transformers;
the second: in doubling blocks, and in halving blocks with transformers."""

FRAMES = 1
"""The axis of frames in input and output, as in diffusers."""


class UNetSpatioTemporalConditionModel(nn.Module):
    """Predicts from noisy latents what a sampler needs.

    Args:
        config: `unet/config.json`.
        mesh: The gang; the ranks of `mesh.sequence` share the frames.
    """

    # Sharded over the ranks of a gang: see `parallel.sharding`.
    sharded = sharded_lists("resnets", "attentions")

    def __init__(self, config: UNetConfig, mesh: Mesh | None = None) -> None:
        super().__init__()
        self.config = config
        self.mesh = mesh or alone()
        first = config.block_out_channels[0]
        self.conv_in = nn.Conv2d(config.in_channels, first, 3, padding=1)
        self.time_embedding = TimestepEmbedding(first, config.time_dim)
        self.add_embedding = TimestepEmbedding(config.projection_class_embeddings_input_dim, config.time_dim)
        self.down_blocks = nn.ModuleList([_down_block(config, i) for i in range(config.blocks)])
        self.mid_block = _mid_block(config)
        self.up_blocks = nn.ModuleList([_up_block(config, i) for i in range(config.blocks)])
        self.conv_norm_out = nn.GroupNorm(GROUPS, first, EPS)
        self.conv_out = nn.Conv2d(first, config.out_channels, 3, padding=1)

    def construct(
        self, latents: nn.Tensor, timesteps: np.ndarray, image: nn.Tensor, time_ids: np.ndarray
    ) -> nn.Tensor:
        """
        Args:
            latents: (B, F, C, H, W).
            timesteps: (B,).
            image: The image's embedding, (B, 1, X).
            time_ids: Frames per second, motion and noise, (B, 3).

        Returns:
            (B, F, out_channels, H, W), on every rank.
        """
        split = FrameSplit.divide(self.mesh.sequence, latents.shape[FRAMES])
        own = split.take(latents, FRAMES)
        batch, frames, *size = own.shape
        context = Context(split, self._time(timesteps, time_ids, latents.dtype), image)
        x = self.conv_in(nn.reshape(own, (batch * frames, *size)))
        x = run_unet(x, self.down_blocks, self.mid_block, self.up_blocks, context)
        x = self.conv_out(self.conv_norm_out(x, silu=True))
        return split.gather(nn.reshape(x, (batch, frames, *x.shape[1:])), FRAMES)

    def _time(self, timesteps: np.ndarray, time_ids: np.ndarray, dtype: object) -> nn.Tensor:
        """The embedding of the time and of the video's numbers, (B, E)."""
        time = self.time_embedding(_waves(timesteps, self.config.block_out_channels[0], dtype))
        told = _waves(time_ids.reshape(-1), self.config.addition_time_embed_dim, dtype)
        width = TIME_IDS * self.config.addition_time_embed_dim
        return nn.add(time, self.add_embedding(nn.reshape(told, (len(time_ids), width))))


def _waves(values: np.ndarray, dim: int, dtype: object) -> nn.Tensor:
    """Sinusoids of numbers (n,), (n, dim)."""
    return nn.from_numpy(timestep_embedding(values, dim, flip_sin_to_cos=True, freq_shift=0), dtype)


def _down_block(config: UNetConfig, i: int) -> DownBlock:
    level = config.level(i)
    inputs = down_inputs(config.block_out_channels, level.layers, i)
    attends = config.down_block_types[i] == ATTENDING_DOWN
    eps = SMALL_EPS if attends else EPS
    down = None if i == config.blocks - 1 else Downsample2D(level.channels, level.channels)
    return DownBlock(_layers(config, level, inputs, attends, eps), down)


def _up_block(config: UNetConfig, i: int) -> UpBlock:
    """The i-th doubling block."""
    level = config.level(-1 - i)
    inputs = up_inputs(config.block_out_channels, level.layers + 1, i)
    attends = config.up_block_types[i] == ATTENDING_UP
    up = None if i == config.blocks - 1 else Upsample2D(level.channels, level.channels)
    return UpBlock(_layers(config, level, inputs, attends, SMALL_EPS), up)


def _mid_block(config: UNetConfig) -> MidBlock:
    level = config.level(-1)
    resnets = [_resnet(config, level.channels, level.channels, EPS) for _ in range(2)]
    return MidBlock({"resnets": resnets}, {"attentions": [SpatioTemporalTransformer(level)]})


def _layers(
    config: UNetConfig, level: Level, inputs: list[int], attends: bool, eps: float
) -> dict[str, list[nn.Module]]:
    """A block's layers by the names of their lists."""
    return {
        "resnets": [_resnet(config, c, level.channels, eps) for c in inputs],
        # Present even if empty: the names in `sharded` are the same for all checkpoints.
        "attentions": [SpatioTemporalTransformer(level) for _ in inputs] if attends else [],
    }


def _resnet(config: UNetConfig, inputs: int, outputs: int, eps: float) -> VideoResnet:
    return VideoResnet(inputs, outputs, config.time_dim, eps)


class VideoResnet(SpatioTemporalResBlock):
    """Residual blocks of the UNet."""

    def construct(self, x: nn.Tensor, context: Context) -> nn.Tensor:  # type: ignore[override]
        """(N, C, H, W) to (N, out_channels, H, W)."""
        return super().construct(x, context.split, context.batch, context.time)


class TemporalTransformerBlock(BasicTransformerBlock):
    """A transformer block over frames, with an additional feed-forward before the attention."""

    def __init__(self, level: Level) -> None:
        channels, heads = level.channels, level.heads
        super().__init__(channels, heads, channels // heads, level.cross_attention_dim)
        self.norm_in = nn.LayerNorm(channels, NORM_EPS)
        self.ff_in = FeedForward(channels, "geglu")

    def construct(self, tokens: nn.Tensor, context: nn.Tensor | None = None) -> nn.Tensor:
        """All frames of n places, (B * n, F, C), and their context, (B, M, X): (B * n, F, C)."""
        return super().construct(nn.add(tokens, self.ff_in(self.norm_in(tokens))), context)


class SpatioTemporalTransformer(nn.Module):
    """Transformer blocks over the places of an image, each followed by one over frames; with a residual.

    Args:
        level: Has the sizes.
    """

    def __init__(self, level: Level) -> None:
        super().__init__()
        channels, heads = level.channels, level.heads
        layers = range(level.transformer_layers)
        self.norm = nn.GroupNorm(GROUPS, channels, PROJECTION_EPS)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            [
                BasicTransformerBlock(channels, heads, channels // heads, level.cross_attention_dim)
                for _ in layers
            ]
        )
        self.temporal_transformer_blocks = nn.ModuleList([TemporalTransformerBlock(level) for _ in layers])
        self.time_pos_embed = TimestepEmbedding(channels, 4 * channels, out_dim=channels)
        self.time_mixer = AlphaBlender()
        self.proj_out = nn.Linear(channels, channels)

    def construct(self, x: nn.Tensor, context: Context) -> nn.Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        tokens = self.proj_in(to_tokens(self.norm(x)))
        images, places, channels = tokens.shape
        clips = (context.batch, images // context.batch, places, channels)
        positions = self._positions(context.split, channels, x.dtype)
        for block, temporal in zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True):
            tokens = block(tokens, context.text)
            placed = nn.reshape(nn.add(nn.reshape(tokens, clips), positions), tokens.shape)
            run = functools.partial(temporal, context=context.text)
            tokens = self.time_mixer(tokens, tokens_between_frames(placed, context, run))
        return nn.add(x, to_image(self.proj_out(tokens), x.shape[2:]))

    def _positions(self, split: FrameSplit, channels: int, dtype: object) -> nn.Tensor:
        """The embedding of this rank's frame numbers, (1, f, 1, C)."""
        frames = split.take(_waves(np.arange(split.frames), channels, dtype), 0)
        return self.time_pos_embed(frames)[None, :, None]
