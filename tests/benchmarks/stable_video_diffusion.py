"""Seconds per denoising step and per decoded frame of Stable Video Diffusion, ours and diffusers', as ratios.

    python -m tests.benchmarks.stable_video_diffusion [--torch-python PYTHON] [--rounds 3]

Shapes: a UNet of three levels, 64-128-256 channels, one layer per block, heads of 32, at 8 frames of 32x32
latents; a VAE decoder of 64-128-256 channels at 4 frames of 128x192, all at once. Random weights.
`tests.benchmarks.beside_torch` explains how it is measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.beside_torch import fastest, main, noise, randomise

UNET: dict[str, Any] = {
    "block_out_channels": (64, 128, 256),
    "down_block_types": (
        "CrossAttnDownBlockSpatioTemporal",
        "CrossAttnDownBlockSpatioTemporal",
        "DownBlockSpatioTemporal",
    ),
    "up_block_types": (
        "UpBlockSpatioTemporal",
        "CrossAttnUpBlockSpatioTemporal",
        "CrossAttnUpBlockSpatioTemporal",
    ),
    "layers_per_block": 1,
    "cross_attention_dim": 256,
    "num_attention_heads": (2, 4, 8),
}
VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "block_out_channels": (64, 128, 256),
    "layers_per_block": 2,
}
LATENTS = (1, 8, 8, 32, 32)  # B, F, C, H, W
IMAGE = (1, 1, 256)  # B, 1, X
TIME_IDS = (6.0, 127.0, 0.02)
TIMESTEP = 0.5
CODE = (1, 4, 4, 32, 48)  # B, Z, F, h, w: 4 frames of 128x192
FRAMES = CODE[2]


def measure_vidgen() -> dict[str, float]:
    from vidgen_dist import nn
    from vidgen_dist.families.stable_video_diffusion.autoencoder import AutoencoderKLTemporalDecoder
    from vidgen_dist.families.stable_video_diffusion.config import UNetConfig, VaeConfig
    from vidgen_dist.families.stable_video_diffusion.unet import UNetSpatioTemporalConditionModel

    nn.set_device("cpu")
    unet = UNetSpatioTemporalConditionModel(UNetConfig.read(UNET))
    vae = AutoencoderKLTemporalDecoder(VaeConfig.read(VAE))
    randomise(unet, vae)
    latents, image, code = (nn.from_numpy(noise(shape)) for shape in (LATENTS, IMAGE, CODE))
    timestep, time_ids = np.array([TIMESTEP], np.float32), np.array([TIME_IDS], np.float32)
    step = fastest(lambda: nn.to_numpy(unet(latents, timestep, image, time_ids)))
    decode = fastest(lambda: nn.to_numpy(vae.decode(code)))
    return {"denoising step": step, "decoded frame": decode / FRAMES}


def measure_torch() -> dict[str, float]:
    import torch
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel

    unet = UNetSpatioTemporalConditionModel(**UNET).eval()
    vae = AutoencoderKLTemporalDecoder(**VAE).eval()
    latents, image = torch.from_numpy(noise(LATENTS)), torch.from_numpy(noise(IMAGE))
    time_ids = torch.tensor([TIME_IDS])
    code = torch.from_numpy(noise(CODE))[0].transpose(0, 1)
    with torch.no_grad():
        step = fastest(lambda: unet(latents, TIMESTEP, image, time_ids).sample)
        decode = fastest(lambda: vae.decode(code, num_frames=FRAMES).sample)
    return {"denoising step": step, "decoded frame": decode / FRAMES}


if __name__ == "__main__":
    main("tests.benchmarks.stable_video_diffusion", __doc__, measure_vidgen, measure_torch)
