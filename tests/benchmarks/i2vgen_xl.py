"""Seconds per denoising step and per decoded frame of I2VGen-XL, ours and diffusers', as a ratio.

    python -m tests.benchmarks.i2vgen_xl [--torch-python PYTHON] [--rounds 3]

Shapes: a UNet of three levels, 64-128-256 channels, one layer per block, heads of 32, at 8 frames of 32x32
latents, 77 tokens of text and 68 of the image; a VAE decoder of 64-128-256 channels at 4 frames of 128x192, a
frame at a time. Random weights.
`tests.benchmarks.beside_torch` explains how it is measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.beside_torch import fastest, main, noise, randomise

UNET: dict[str, Any] = {
    "block_out_channels": (64, 128, 256),
    "down_block_types": ("CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
    "layers_per_block": 1,
    "cross_attention_dim": 256,
    "attention_head_dim": 32,
}
VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (64, 128, 256),
    "layers_per_block": 2,
}
LATENTS = (1, 4, 8, 32, 32)  # B, C, F, H, W
TEXT = (1, 77, 256)  # B, L, X
IMAGE = (1, 256)  # B, X
TIMESTEP = 500
FPS = 16
CODE = (1, 4, 4, 32, 48)  # B, Z, F, h, w: 4 frames of 128x192
FRAMES = CODE[2]


def measure_vidgen() -> dict[str, float]:
    from vidgen_dist import nn
    from vidgen_dist.families.common.autoencoder_kl import AutoencoderKL
    from vidgen_dist.families.common.autoencoder_kl_config import AutoencoderKLConfig
    from vidgen_dist.families.i2vgen_xl.config import UNetConfig
    from vidgen_dist.families.i2vgen_xl.unet import I2VGenXLUNet

    nn.set_device("cpu")
    unet = I2VGenXLUNet(UNetConfig.read(UNET))
    vae = AutoencoderKL(AutoencoderKLConfig.read(VAE))
    randomise(unet, vae)
    latents, text, image, vector, code = (
        nn.from_numpy(noise(shape)) for shape in (LATENTS, TEXT, LATENTS, IMAGE, CODE)
    )
    timestep, fps = np.array([TIMESTEP]), np.array([FPS])
    step = fastest(lambda: nn.to_numpy(unet(latents, timestep, fps, text, image, vector)))
    decode = fastest(lambda: nn.to_numpy(vae.decode(code, 1)))
    return {"denoising step": step, "decoded frame": decode / FRAMES}


def measure_torch() -> dict[str, float]:
    import torch
    from diffusers import AutoencoderKL
    from diffusers.models.unets.unet_i2vgen_xl import I2VGenXLUNet

    unet = I2VGenXLUNet(**UNET).eval()
    vae = AutoencoderKL(**VAE).eval()
    latents, text, image, vector = (
        torch.from_numpy(noise(shape)) for shape in (LATENTS, TEXT, LATENTS, IMAGE)
    )
    timestep, fps = torch.tensor(TIMESTEP), torch.tensor([FPS])
    code = torch.from_numpy(noise(CODE))[0].transpose(0, 1)
    with torch.no_grad():
        step = fastest(lambda: unet(latents, timestep, fps, image, vector[:, None], text).sample)
        decode = fastest(lambda: [vae.decode(frame[None]).sample for frame in code])
    return {"denoising step": step, "decoded frame": decode / FRAMES}


if __name__ == "__main__":
    main("tests.benchmarks.i2vgen_xl", __doc__, measure_vidgen, measure_torch)
