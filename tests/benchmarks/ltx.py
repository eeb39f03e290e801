"""LTX-Video: seconds per denoising step and per decoded frame, ours and diffusers', as a ratio.

    python -m tests.benchmarks.ltx [--torch-python PYTHON] [--rounds 3]

Shapes: a transformer of 6 layers and 8 heads of 64 at 2,000 video tokens (4 x 20 x 25) and 64 of text with
guidance (batch 2), and the same where the first frame's tokens have a time of their own, as with an image;
the decoders of 0.9.0 (64-128-256 channels) and of 0.9.1 (with timestep, injected noise, residual upsampling)
at 9 frames of 128x192. Random weights.
`tests.benchmarks.beside_torch` explains how it is measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.beside_torch import fastest, main, noise, randomise

TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 8,
    "attention_head_dim": 64,
    "cross_attention_dim": 512,
    "in_channels": 128,
    "out_channels": 128,
    "num_layers": 6,
    "caption_channels": 512,
}
SIZE = (4, 20, 25)
TOKENS = 4 * 20 * 25
TEXT = (2, 64, 512)  # B, L, D
SCALE = (8 / 25, 32, 32)
VAES: dict[str, dict[str, Any]] = {
    "0.9.0": {
        "block_out_channels": (64, 128, 256, 256),
        "decoder_block_out_channels": (64, 128, 256, 256),
        "layers_per_block": (2, 2, 2, 2, 2),
        "decoder_layers_per_block": (2, 2, 2, 2, 2),
    },
    "0.9.1": {
        "block_out_channels": (64, 128, 256, 256),
        "layers_per_block": (2, 2, 2, 2, 2),
        "decoder_block_out_channels": (64, 128, 256),
        "decoder_layers_per_block": (2, 2, 2, 2),
        "decoder_spatio_temporal_scaling": (True, True, True),
        "decoder_inject_noise": (True, True, True, False),
        "timestep_conditioning": True,
        "upsample_factor": (2, 2, 2),
        "upsample_residual": (True, True, True),
    },
}
CODE = (1, 128, 2, 4, 6)  # B, C, T, H, W: 9 frames of 128x192
FRAMES = 9


def _times() -> dict[str, np.ndarray]:
    """A time for each of the two samples; or for each of their tokens."""
    by_token = np.full((2, TOKENS), 500, np.float32)
    by_token[:, : TOKENS // SIZE[0]] = 0
    return {"denoising step": np.full((2,), 500, np.float32), "denoising step beside an image": by_token}


def measure_vidgen() -> dict[str, float]:
    from vidgen_dist import nn
    from vidgen_dist.families.ltx.autoencoder import AutoencoderKLLTXVideo
    from vidgen_dist.families.ltx.config import TransformerConfig, VaeConfig
    from vidgen_dist.families.ltx.transformer import LTXVideoTransformer3DModel

    nn.set_device("cpu")
    transformer = LTXVideoTransformer3DModel(TransformerConfig.read(TRANSFORMER))
    randomise(transformer)
    latents, text = nn.from_numpy(noise((2, TOKENS, 128))), nn.from_numpy(noise(TEXT))
    mask = np.ones(TEXT[:2], np.bool_)
    seconds = {}
    for name, times in _times().items():
        seconds[name] = fastest(
            lambda times=times: nn.to_numpy(transformer(latents, text, times, mask, *SIZE, SCALE))
        )
    code, rng = nn.from_numpy(noise(CODE)), np.random.default_rng(0)
    for version, config in VAES.items():
        vae = AutoencoderKLLTXVideo(VaeConfig.read(config))
        randomise(vae)
        seconds[f"decoded frame, {version}"] = (
            fastest(lambda vae=vae: nn.to_numpy(vae.decode(code, np.array([0.05]), rng))) / FRAMES
        )
    return seconds


def measure_torch() -> dict[str, float]:
    import torch
    from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel

    transformer = LTXVideoTransformer3DModel(**TRANSFORMER).eval()
    latents, text = torch.from_numpy(noise((2, TOKENS, 128))), torch.from_numpy(noise(TEXT))
    mask = torch.ones(TEXT[:2])
    seconds = {}
    with torch.no_grad():
        for name, times in _times().items():
            steps = torch.from_numpy(times)
            seconds[name] = fastest(
                lambda steps=steps: transformer(
                    latents, text, steps, mask, *SIZE, rope_interpolation_scale=SCALE
                )
            )
        code, timestep = torch.from_numpy(noise(CODE)), torch.tensor([0.05])
        for version, config in VAES.items():
            vae = AutoencoderKLLTXVideo(**config).eval()
            seconds[f"decoded frame, {version}"] = (
                fastest(lambda vae=vae: vae.decode(code, timestep)) / FRAMES
            )
    return seconds


if __name__ == "__main__":
    main("tests.benchmarks.ltx", __doc__, measure_vidgen, measure_torch)
