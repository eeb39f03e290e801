"""Seconds per denoising step and per decoded frame of Mochi, ours and diffusers', as a ratio.

    python -m tests.benchmarks.mochi [--torch-python PYTHON] [--rounds 3]

Shapes: a transformer of 6 blocks, 8 heads of 64, at 2,000 tokens (64 of text, 4 x 22 x 22 of video); a VAE
decoder of 64-128-256 channels at 7 frames of 128x192. Random weights.
`tests.benchmarks.beside_torch` explains how it is measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.beside_torch import fastest, main, noise, randomise

TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 8,
    "attention_head_dim": 64,
    "num_layers": 6,
    "pooled_projection_dim": 256,
    "text_embed_dim": 512,
}
VAE: dict[str, Any] = {
    "encoder_block_out_channels": (32, 64, 96),
    "decoder_block_out_channels": (64, 128, 256),
    "layers_per_block": (2, 2, 2, 2),
    "temporal_expansions": (2, 3),
    "spatial_expansions": (2, 2),
}
LATENTS = (1, 12, 4, 44, 44)  # B, C, T, H, W
TEXT = (1, 64, 512)  # B, L, D
TIMESTEP = np.array([500.0], np.float32)
CODE = (1, 12, 2, 32, 48)  # B, C, T, H, W: 7 frames of 128x192 at a spatial factor of 4
FRAMES = 7


def measure_vidgen() -> dict[str, float]:
    from vidgen_dist import nn
    from vidgen_dist.families.mochi.autoencoder import AutoencoderKLMochi
    from vidgen_dist.families.mochi.config import TransformerConfig, VaeConfig
    from vidgen_dist.families.mochi.transformer import MochiTransformer3DModel

    nn.set_device("cpu")
    transformer = MochiTransformer3DModel(TransformerConfig.read(TRANSFORMER))
    vae = AutoencoderKLMochi(VaeConfig.read(VAE))
    randomise(transformer, vae)
    latents, text = (nn.from_numpy(noise(shape)) for shape in (LATENTS, TEXT))
    mask = np.ones(TEXT[:2], np.bool_)
    code = nn.from_numpy(noise(CODE))
    step = fastest(lambda: nn.to_numpy(transformer(latents, text, TIMESTEP, mask)))
    decode = fastest(lambda: nn.to_numpy(vae.decode(code)))
    return {"denoising step": step, "decoded frame": decode / FRAMES}


def measure_torch() -> dict[str, float]:
    import torch
    from diffusers import AutoencoderKLMochi, MochiTransformer3DModel

    transformer = MochiTransformer3DModel(**TRANSFORMER).eval()
    vae = AutoencoderKLMochi(**VAE).eval()
    latents, text = (torch.from_numpy(noise(shape)) for shape in (LATENTS, TEXT))
    mask = torch.ones(TEXT[:2], dtype=torch.bool)
    timestep = torch.from_numpy(TIMESTEP)
    code = torch.from_numpy(noise(CODE))
    with torch.no_grad():
        step = fastest(lambda: transformer(latents, text, timestep, mask).sample)
        decode = fastest(lambda: vae.decode(code).sample)
    return {"denoising step": step, "decoded frame": decode / FRAMES}


if __name__ == "__main__":
    main("tests.benchmarks.mochi", __doc__, measure_vidgen, measure_torch)
