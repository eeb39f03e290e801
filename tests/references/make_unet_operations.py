"""Counts the operations of published UNets and autoencoders with torch's FlopCounterMode; nothing is
computed.

    python tests/references/make_unet_operations.py

It writes `unet_operations.npz`. `models` is JSON: for each name the `config` (of the class in `class`), the
input's `samples`, `frames`, `rows` and `columns` of the latents and `text_tokens`, and the number of all
`operations` (a multiplication and an addition are two) and of those that are `convolved`. `<name>.keys` are
the names of a model's parameters and `<name>.shapes` their shapes as JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

WIDTHS = {"block_out_channels": [320, 640, 1280, 1280]}
VAE = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4}

# AnimateDiff is Stable Diffusion 1.5 with the adapter v1-5-2.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "animatediff": (
        "UNetMotionModel",
        {**WIDTHS, "cross_attention_dim": 768, "num_attention_heads": 8, "use_motion_mid_block": True},
    ),
    "stable_video_diffusion": (
        "UNetSpatioTemporalConditionModel",
        {**WIDTHS, "cross_attention_dim": 1024, "num_attention_heads": [5, 10, 20, 20]},
    ),
    "i2vgen_xl": ("I2VGenXLUNet", {**WIDTHS, "cross_attention_dim": 1024, "num_attention_heads": 64}),
    "image_vae": (
        "AutoencoderKL",
        {**VAE, "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4},
    ),
    "temporal_vae": (
        "AutoencoderKLTemporalDecoder",
        {**VAE, "down_block_types": ["DownEncoderBlock2D"] * 4},
    ),
}

# Samples, frames, rows and columns of the latents, tokens of the text.
INPUTS = {
    "animatediff": (2, 16, 64, 64, 77),
    "stable_video_diffusion": (2, 14, 72, 128, 1),
    "i2vgen_xl": (2, 16, 88, 160, 77),
    "image_vae": (1, 16, 64, 64, 0),
    "temporal_vae": (1, 14, 72, 128, 0),
}


def run(
    name: str, model: torch.nn.Module, samples: int, frames: int, size: tuple[int, int], text: int
) -> Any:
    """One step of the model, or one decoding."""
    if name.endswith("_vae"):
        told = {"num_frames": frames} if name == "temporal_vae" else {}
        return model.decode(torch.zeros(samples * frames, 4, *size), **told)
    seen = torch.zeros(samples, text, model.config.cross_attention_dim)
    time = torch.zeros(1)
    if name == "animatediff":
        seen = seen.repeat_interleave(frames, dim=0)
        return model(torch.zeros(samples, 4, frames, *size), time, encoder_hidden_states=seen)
    if name == "stable_video_diffusion":
        ids = torch.zeros(samples, 3)
        return model(torch.zeros(samples, frames, 8, *size), time, seen, added_time_ids=ids)
    # I2VGen-XL adds 64 tokens of its image's latents and 4 of its CLIP vector.
    latents = torch.zeros(samples, 4, frames, *size)
    image = torch.zeros(samples, model.config.cross_attention_dim)
    return model(
        latents,
        time,
        torch.zeros(samples),
        image_latents=latents,
        image_embeddings=image,
        encoder_hidden_states=seen,
    )


def count(name: str) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """A model's operations, and its parameters' shapes."""
    kind, config = MODELS[name]
    samples, frames, rows, columns, text = INPUTS[name]
    with torch.device("meta"), torch.no_grad():
        # The mixing factors are made on the CPU, whatever the device.
        model = getattr(diffusers, kind)(**config).eval().to("meta")
        counter = FlopCounterMode(display=False)
        with counter:
            run(name, model, samples, frames, (rows, columns), text)
    by_operator = counter.get_flop_counts()["Global"]
    shapes = {key: list(parameter.shape) for key, parameter in model.named_parameters()}
    return {
        "class": kind,
        "config": config,
        "samples": samples,
        "frames": frames,
        "rows": rows,
        "columns": columns,
        "text_tokens": text,
        "operations": counter.get_total_flops(),
        "convolved": by_operator[torch.ops.aten.convolution],
    }, shapes


def main() -> None:
    models, arrays = {}, {}
    for name in MODELS:
        models[name], shapes = count(name)
        arrays[f"{name}.keys"] = np.array(list(shapes))
        arrays[f"{name}.shapes"] = np.array(json.dumps(list(shapes.values())))
    np.savez_compressed(
        Path(__file__).with_name("unet_operations.npz"), models=np.array(json.dumps(models)), **arrays
    )


if __name__ == "__main__":
    main()
