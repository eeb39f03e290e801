"""Seconds per denoising step and per decoded frame of HunyuanVideo, ours and diffusers', as a ratio.

    python -m tests.benchmarks.hunyuan_video [--torch-python PYTHON] [--rounds 3]

Shapes: a transformer of 2 dual-stream and 4 single-stream blocks, 8 heads of 64, at 2,000 tokens (64 of text,
4 x 22 x 22 of video); a VAE decoder of 64-128-256 channels at 9 frames of 128x192. Random weights.
`tests.benchmarks.beside_torch` explains how it is measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.beside_torch import fastest, main, noise, randomise

TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 8,
    "attention_head_dim": 64,
    "rope_axes_dim": (16, 24, 24),
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 2,
    "num_single_layers": 4,
    "text_embed_dim": 512,
    "pooled_projection_dim": 128,
}
VAE: dict[str, Any] = {
    "block_out_channels": (64, 128, 256),
    "down_block_types": ("HunyuanVideoDownBlock3D",) * 3,
    "up_block_types": ("HunyuanVideoUpBlock3D",) * 3,
    "layers_per_block": 2,
    "latent_channels": 16,
    "spatial_compression_ratio": 4,
}
LATENTS = (1, 16, 4, 44, 44)  # B, C, T, H, W
TEXT = (1, 64, 512)  # B, L, D
POOLED = (1, 128)
TIMESTEP = np.array([500.0], np.float32)
GUIDANCE = np.array([6000.0], np.float32)
CODE = (1, 16, 3, 32, 48)  # B, C, T, H, W: 9 frames of 128x192 at a spatial factor of 4
FRAMES = 9


def measure_vidgen() -> dict[str, float]:
    from vidgen_dist import nn
    from vidgen_dist.families.hunyuan_video.autoencoder import AutoencoderKLHunyuanVideo
    from vidgen_dist.families.hunyuan_video.config import TransformerConfig, VaeConfig
    from vidgen_dist.families.hunyuan_video.transformer import HunyuanVideoTransformer3DModel

    nn.set_device("cpu")
    transformer = HunyuanVideoTransformer3DModel(TransformerConfig.read(TRANSFORMER))
    vae = AutoencoderKLHunyuanVideo(VaeConfig.read(VAE))
    randomise(transformer, vae)
    latents, text, pooled = (nn.from_numpy(noise(shape)) for shape in (LATENTS, TEXT, POOLED))
    mask = np.ones(TEXT[:2], np.bool_)
    code = nn.from_numpy(noise(CODE))
    step = fastest(lambda: nn.to_numpy(transformer(latents, TIMESTEP, text, mask, pooled, GUIDANCE)))
    decode = fastest(lambda: nn.to_numpy(vae.decode(code)))
    return {"denoising step": step, "decoded frame": decode / FRAMES}


def measure_torch() -> dict[str, float]:
    import torch
    from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoTransformer3DModel

    transformer = HunyuanVideoTransformer3DModel(**TRANSFORMER).eval()
    vae = AutoencoderKLHunyuanVideo(**VAE).eval()
    latents, text, pooled = (torch.from_numpy(noise(shape)) for shape in (LATENTS, TEXT, POOLED))
    mask = torch.ones(TEXT[:2])
    timestep, guidance = torch.from_numpy(TIMESTEP), torch.from_numpy(GUIDANCE)
    code = torch.from_numpy(noise(CODE))
    with torch.no_grad():
        step = fastest(lambda: transformer(latents, timestep, text, mask, pooled, guidance).sample)
        decode = fastest(lambda: vae.decode(code).sample)
    return {"denoising step": step, "decoded frame": decode / FRAMES}


if __name__ == "__main__":
    main("tests.benchmarks.hunyuan_video", __doc__, measure_vidgen, measure_torch)
