"""AnimateDiff's UNet: that of Stable Diffusion, with a transformer between frames after each of its layers.

Sources: Guo et al. 2023, "AnimateDiff: Animate Your Personalized Text-to-Image Diffusion Models without
Specific Tuning" (arXiv:2307.04725); Rombach et al. 2022 (arXiv:2112.10752). Names and numbers are those of
diffusers' `UNetMotionModel`.

Letters: B samples, F frames, f of them on this rank, N = B * f images; C channels, H rows, W columns; L
tokens of the prompt, X their width.
"""

from __future__ import annotations

import numpy as np

from vidgen_dist import nn
from vidgen_dist.families.animatediff.config import (
    ATTENDING_DOWN,
    ATTENDING_UP,
    Level,
    UNetMotionConfig,
)
from vidgen_dist.families.common.layers import TimestepEmbedding
from vidgen_dist.families.common.unet import (
    Context,
    DownBlock,
    FrameTransformer,
    ImageResnet,
    ImageTransformer,
    MidBlock,
    UpBlock,
    down_inputs,
    run_unet,
    sharded_lists,
    up_inputs,
)
from vidgen_dist.families.common.unet_layers import (
    Downsample2D,
    Upsample2D,
    to_clips,
    to_images,
)
from vidgen_dist.nn.embeddings import timestep_embedding
from vidgen_dist.parallel.frame_split import FrameSplit
from vidgen_dist.parallel.mesh import Mesh, alone


class UNetMotionModel(nn.Module):
    """Predicts from noisy latents what a sampler needs.

    Args:
        config: The UNet's config, with the adapter's motion modules.
        mesh: The gang; the ranks of `mesh.sequence` share the frames.
    """

    # Sharded over the ranks of a gang: see `parallel.sharding`.
    sharded = sharded_lists("resnets", "attentions", "motion_modules")

    def __init__(self, config: UNetMotionConfig, mesh: Mesh | None = None) -> None:
        super().__init__()
        self.config = config
        self.mesh = mesh or alone()
        channels = config.block_out_channels
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(channels[0], config.time_dim, config.act_fn)
        self.down_blocks = nn.ModuleList([_down_block(config, i) for i in range(config.blocks)])
        self.mid_block = _mid_block(config)
        self.up_blocks = nn.ModuleList([_up_block(config, i) for i in range(config.blocks)])
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, channels[0], config.norm_eps)
        self.conv_out = nn.Conv2d(channels[0], config.out_channels, 3, padding=1)

    def own_key(self, key: str) -> str | None:
        """The module's name for a checkpoint's key, for `load_weights`."""
        # The embedding of the weight of guidance is not used.
        return None if key == "time_embedding.cond_proj.weight" else key

    def construct(self, latents: nn.Tensor, timesteps: np.ndarray, text: nn.Tensor) -> nn.Tensor:
        """
        Args:
            latents: (B, C, F, H, W).
            timesteps: (B,).
            text: (B, L, X).

        Returns:
            (B, out_channels, F, H, W), on every rank.
        """
        split = FrameSplit.divide(self.mesh.sequence, latents.shape[2])
        waves = timestep_embedding(
            timesteps, self.config.block_out_channels[0], flip_sin_to_cos=True, freq_shift=0
        )
        time = self.time_embedding(nn.from_numpy(waves, latents.dtype))
        x = self.conv_in(to_images(split.take(latents)))
        x = run_unet(x, self.down_blocks, self.mid_block, self.up_blocks, Context(split, time, text))
        x = self.conv_out(self.conv_norm_out(x, silu=True))
        return split.gather(to_clips(x, len(time)))


def _down_block(config: UNetMotionConfig, i: int) -> DownBlock:
    level = config.level(i)
    inputs = down_inputs(config.block_out_channels, level.layers, i)
    attends = config.down_block_types[i] == ATTENDING_DOWN
    last = i == config.blocks - 1
    down = None if last else Downsample2D(level.channels, level.channels, config.downsample_padding)
    return DownBlock(_layers(config, level, inputs, attends), down)


def _up_block(config: UNetMotionConfig, i: int) -> UpBlock:
    """The i-th doubling block."""
    level = config.level(-1 - i)
    inputs = up_inputs(config.block_out_channels, level.layers + 1, i)
    attends = config.up_block_types[i] == ATTENDING_UP
    up = None if i == config.blocks - 1 else Upsample2D(level.channels, level.channels)
    return UpBlock(_layers(config, level, inputs, attends), up)


def _mid_block(config: UNetMotionConfig) -> MidBlock:
    level = config.middle
    scale = config.mid_block_scale_factor
    resnets = [_resnet(config, level.channels, level.channels, scale) for _ in range(level.layers + 1)]
    moves = level.layers if config.use_motion_mid_block else 0
    inner = {
        "attentions": [_attention(config, level) for _ in range(level.layers)],
        "motion_modules": [_motion(config, level) for _ in range(moves)],
    }
    return MidBlock({"resnets": resnets}, inner)


def _layers(
    config: UNetMotionConfig, level: Level, inputs: list[int], attends: bool
) -> dict[str, list[nn.Module]]:
    """A block's layers by the names of their lists."""
    return {
        "resnets": [_resnet(config, c, level.channels) for c in inputs],
        "attentions": [_attention(config, level) for _ in inputs if attends],
        "motion_modules": [_motion(config, level) for _ in inputs],
    }


def _resnet(config: UNetMotionConfig, inputs: int, outputs: int, scale: float = 1.0) -> ImageResnet:
    return ImageResnet(
        inputs, outputs, config.time_dim, config.norm_num_groups, config.norm_eps, config.act_fn, scale
    )


def _attention(config: UNetMotionConfig, level: Level) -> ImageTransformer:
    return ImageTransformer(
        level.heads,
        level.channels // level.heads,
        level.channels,
        level.transformer_layers,
        level.cross_attention_dim,
        config.norm_num_groups,
        config.use_linear_projection,
    )


def _motion(config: UNetMotionConfig, level: Level) -> FrameTransformer:
    return FrameTransformer(
        level.channels,
        level.motion_heads,
        level.channels // level.motion_heads,
        level.motion_layers,
        config.norm_num_groups,
        config.motion_max_seq_length,
    )
