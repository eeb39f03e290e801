"""Seconds per denoising step and per decoded frame, ours and diffusers', as a ratio.

    python -m tests.benchmarks.cogvideox [--torch-python PYTHON] [--rounds 3]

Shapes: a transformer of 6 layers and 8 heads of 64 at 2,000 tokens (64 of text, 4 x 22 x 22 of video) with
guidance (batch 2); a VAE decoder of 64-128-256 channels at 9 frames of 128x192. Random weights.
`tests.benchmarks.beside_torch` explains how it is measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.beside_torch import fastest, main, noise, randomise

TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 8,
    "attention_head_dim": 64,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 6,
    "text_embed_dim": 512,
    "max_text_seq_length": 64,
    "sample_width": 44,
    "sample_height": 44,
    "sample_frames": 13,
    "use_rotary_positional_embeddings": True,
}
VAE: dict[str, Any] = {
    "block_out_channels": (64, 128, 256),
    "down_block_types": ("CogVideoXDownBlock3D",) * 3,
    "up_block_types": ("CogVideoXUpBlock3D",) * 3,
    "layers_per_block": 3,
    "latent_channels": 16,
    "sample_height": 128,
    "sample_width": 192,
}
LATENTS = (2, 4, 16, 44, 44)  # B, T, C, H, W
TEXT = (2, 64, 512)  # B, L, D
CODE = (1, 16, 3, 32, 48)  # B, C, T, H, W: 9 frames of 128x192 at a spatial factor of 4
FRAMES = 9


def measure_vidgen() -> dict[str, float]:
    from vidgen_dist import nn
    from vidgen_dist.families.cogvideox.autoencoder import AutoencoderKLCogVideoX
    from vidgen_dist.families.cogvideox.config import TransformerConfig, VaeConfig
    from vidgen_dist.families.cogvideox.transformer import CogVideoXTransformer3DModel, rotary_positions

    nn.set_device("cpu")
    config = TransformerConfig.read(TRANSFORMER)
    transformer = CogVideoXTransformer3DModel(config)
    vae = AutoencoderKLCogVideoX(VaeConfig.read(VAE))
    randomise(transformer, vae)
    latents, text = nn.from_numpy(noise(LATENTS)), nn.from_numpy(noise(TEXT))
    timestep = nn.from_numpy(np.array([500, 500], np.int64))
    tables = rotary_positions(config, 44 * 8, 44 * 8, LATENTS[1], 8)
    rotary = tuple(nn.from_numpy(table) for table in tables)
    code = nn.from_numpy(noise(CODE))
    step = fastest(lambda: nn.to_numpy(transformer(latents, text, timestep, image_rotary_emb=rotary)))
    decode = fastest(lambda: nn.to_numpy(vae.decode(code)))
    return {"denoising step": step, "decoded frame": decode / FRAMES}


def measure_torch() -> dict[str, float]:
    import torch
    from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    transformer = CogVideoXTransformer3DModel(**TRANSFORMER).eval()
    vae = AutoencoderKLCogVideoX(**VAE).eval()
    latents, text = torch.from_numpy(noise(LATENTS)), torch.from_numpy(noise(TEXT))
    timestep = torch.tensor([500, 500])
    rotary = get_3d_rotary_pos_embed(64, ((0, 0), (22, 22)), (22, 22), LATENTS[1])
    code = torch.from_numpy(noise(CODE))
    with torch.no_grad():
        step = fastest(lambda: transformer(latents, text, timestep, image_rotary_emb=rotary).sample)
        decode = fastest(lambda: vae.decode(code).sample)
    return {"denoising step": step, "decoded frame": decode / FRAMES}


if __name__ == "__main__":
    main("tests.benchmarks.cogvideox", __doc__, measure_vidgen, measure_torch)
