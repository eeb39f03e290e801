"""Seconds per denoising step and per decoded frame, ours and diffusers', as a ratio.

    python -m tests.benchmarks.cogvideox [--torch-python PYTHON] [--rounds 3]

Shapes: a transformer of 6 layers and 8 heads of 64 at 2,000 tokens (64 of text, 4 x 22 x 22 of video) with
guidance (batch 2); a VAE decoder of 64-128-256 channels at 9 frames of 128x192. Random weights.

diffusers runs in a process of its own, by the interpreter named (an environment that has torch and
diffusers; by default this one, if it has them). The two take turns, so that a machine that slows down
slows both; each figure is the median over rounds of a round's fastest of two.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

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
REPEATS = 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch-python", help="interpreter of an environment with torch and diffusers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", choices=("vidgen", "torch"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(_measure_vidgen() if arguments.measure == "vidgen" else _measure_torch()))
        return
    has_torch = all(importlib.util.find_spec(name) for name in ("torch", "diffusers"))
    torch_python = arguments.torch_python or (sys.executable if has_torch else None)
    ours, theirs = [], []
    for _ in range(arguments.rounds):
        ours.append(_in_process(sys.executable, "vidgen"))
        if torch_python:
            theirs.append(_in_process(torch_python, "torch"))
    _report(ours, theirs)


def _in_process(python: str, side: str) -> dict[str, float]:
    command = [python, "-W", "ignore", "-m", "tests.benchmarks.cogvideox", "--measure", side]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(finished.stdout.strip().splitlines()[-1])


def _report(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    for name in ours[0]:
        mine = statistics.median(sample[name] for sample in ours)
        line = f"{name}: {mine:.4f} s"
        if theirs:
            reference = statistics.median(sample[name] for sample in theirs)
            line += f", diffusers on torch {reference:.4f} s, ratio {mine / reference:.2f}"
        print(line)
    if not theirs:
        print("no torch and diffusers here: name an interpreter that has them with --torch-python")


def _fastest(run: Callable[[], Any]) -> float:
    run()
    seconds = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def _noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _measure_vidgen() -> dict[str, float]:
    from vidgen_dist import nn
    from vidgen_dist.models.autoencoders.cogvideox import AutoencoderKLCogVideoX
    from vidgen_dist.models.transformers.cogvideox import CogVideoXTransformer3DModel, rotary_positions

    nn.set_device("cpu")
    transformer = CogVideoXTransformer3DModel(TRANSFORMER)
    vae = AutoencoderKLCogVideoX(VAE)
    for model in (transformer, vae):
        for parameter in nn.named_parameters(model).values():
            scale = 1 / np.sqrt(max(1, np.prod(parameter.shape[1:])))
            parameter.set_data(nn.from_numpy(_noise(parameter.shape) * np.float32(scale)))
    latents, text = nn.from_numpy(_noise(LATENTS)), nn.from_numpy(_noise(TEXT))
    timestep = nn.from_numpy(np.array([500, 500], np.int64))
    tables = rotary_positions(TRANSFORMER, 44 * 8, 44 * 8, LATENTS[1], 8)
    rotary = tuple(nn.from_numpy(table) for table in tables)
    code = nn.from_numpy(_noise(CODE))
    step = _fastest(lambda: nn.to_numpy(transformer(latents, text, timestep, image_rotary_emb=rotary)))
    decode = _fastest(lambda: nn.to_numpy(vae.decode(code)))
    return {"denoising step": step, "decoded frame": decode / FRAMES}


def _measure_torch() -> dict[str, float]:
    import torch
    from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    transformer = CogVideoXTransformer3DModel(**TRANSFORMER).eval()
    vae = AutoencoderKLCogVideoX(**VAE).eval()
    latents, text = torch.from_numpy(_noise(LATENTS)), torch.from_numpy(_noise(TEXT))
    timestep = torch.tensor([500, 500])
    rotary = get_3d_rotary_pos_embed(64, ((0, 0), (22, 22)), (22, 22), LATENTS[1])
    code = torch.from_numpy(_noise(CODE))
    with torch.no_grad():
        step = _fastest(lambda: transformer(latents, text, timestep, image_rotary_emb=rotary).sample)
        decode = _fastest(lambda: vae.decode(code).sample)
    return {"denoising step": step, "decoded frame": decode / FRAMES}


if __name__ == "__main__":
    main()
