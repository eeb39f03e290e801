"""Seconds per denoising step and per decoded frame of AnimateDiff, ours and diffusers', as a ratio.

    python -m tests.benchmarks.animatediff [--torch-python PYTHON] [--rounds 3]

Shapes: a UNet of three levels, 64-128-256 channels, one layer per block, 8 heads, at 8 frames of 32x32
    latents,
77 tokens of text; a VAE decoder of 64-128-256 channels at 4 frames of 128x192. Random weights.
`tests.benchmarks.beside_torch` explains how it is measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.beside_torch import fastest, main, noise, randomise

UNET: dict[str, Any] = {
    "block_out_channels": (64, 128, 256),
    "down_block_types": ("CrossAttnDownBlockMotion", "CrossAttnDownBlockMotion", "DownBlockMotion"),
    "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion", "CrossAttnUpBlockMotion"),
    "layers_per_block": 1,
    "cross_attention_dim": 256,
    "num_attention_heads": 8,
    "motion_num_attention_heads": 8,
}
VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (64, 128, 256),
    "layers_per_block": 2,
}
LATENTS = (1, 4, 8, 32, 32)  # B, C, F, H, W
TEXT = (1, 77, 256)  # B, L, X
TIMESTEP = 500
CODE = (1, 4, 4, 32, 48)  # B, Z, F, h, w: 4 frames of 128x192
FRAMES = CODE[2]


def measure_vidgen() -> dict[str, float]:
    from vidgen_dist import nn
    from vidgen_dist.families.animatediff.config import UNetMotionConfig
    from vidgen_dist.families.animatediff.unet import UNetMotionModel
    from vidgen_dist.families.common.autoencoder_kl import AutoencoderKL
    from vidgen_dist.families.common.autoencoder_kl_config import AutoencoderKLConfig

    nn.set_device("cpu")
    unet = UNetMotionModel(UNetMotionConfig.read(UNET))
    vae = AutoencoderKL(AutoencoderKLConfig.read(VAE))
    randomise(unet, vae)
    latents, text, code = (nn.from_numpy(noise(shape)) for shape in (LATENTS, TEXT, CODE))
    timestep = np.array([TIMESTEP], np.float32)
    step = fastest(lambda: nn.to_numpy(unet(latents, timestep, text)))
    decode = fastest(lambda: nn.to_numpy(vae.decode(code)))
    return {"denoising step": step, "decoded frame": decode / FRAMES}


def measure_torch() -> dict[str, float]:
    import torch
    from diffusers import AutoencoderKL, UNetMotionModel

    unet = UNetMotionModel(**UNET).eval()
    vae = AutoencoderKL(**VAE).eval()
    latents = torch.from_numpy(noise(LATENTS))
    text = torch.from_numpy(noise(TEXT)).repeat_interleave(LATENTS[2], 0)
    code = torch.from_numpy(noise(CODE))[0].transpose(0, 1)
    with torch.no_grad():
        step = fastest(lambda: unet(latents, TIMESTEP, text).sample)
        decode = fastest(lambda: vae.decode(code).sample)
    return {"denoising step": step, "decoded frame": decode / FRAMES}


if __name__ == "__main__":
    main("tests.benchmarks.animatediff", __doc__, measure_vidgen, measure_torch)
