"""Makes the references of single components that several families use.

    python tests/references/make_components.py [name ...]

Each is `components/<name>/`: `config.json` and weights as in published checkpoints, and `pieces.safetensors`,
its inputs and outputs. README.md names the versions that this needs.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.numpy import load_file, save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import making  # noqa: E402

OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
WEIGHTS = "diffusion_pytorch_model.safetensors"

AUTOENCODERS: dict[str, dict[str, Any]] = {
    # The keys of Stable Diffusion 1.5's; three sizes of the image; groups of two channels.
    "autoencoder_kl": {
        "act_fn": "silu",
        "block_out_channels": (8, 8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 4,
        "out_channels": 3,
        "sample_size": 32,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    },
    # Neither attention nor maps of moments and latents; another activation; a single layer.
    "autoencoder_kl_plain": {
        "act_fn": "mish",
        "block_out_channels": (8, 12),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "latent_channels": 3,
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "sample_size": 16,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "mid_block_add_attention": False,
    },
}


def make_autoencoder(name: str) -> None:
    folder = empty_folder(name)
    vae = AutoencoderKL(**AUTOENCODERS[name])
    making.randomise(vae, 900)
    vae.save_pretrained(folder, safe_serialization=True)
    if name == "autoencoder_kl":
        # As the files of Stable Diffusion 1.5 have it.
        save_file({_old(key): value for key, value in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
        vae = AutoencoderKL.from_pretrained(folder)
    recorder = making.ImageVaePieces(vae.eval(), 900)
    channels = vae.config.latent_channels
    recorder.decode("decode", 1, channels, 3, 5, 4)
    recorder.encode("encode", 1, 2, 20, 16)
    if name == "autoencoder_kl":
        vae.enable_tiling()
        recorder.decode("tiled_decode", 1, channels, 1, 9, 13)
        recorder.encode("tiled_encode", 1, 1, 36, 52)
    save_file(recorder.pieces, folder / "pieces.safetensors")


def _old(key: str) -> str:
    if ".attentions." in key:
        for today, old in OLD_NAMES.items():
            key = key.replace(f".{today}.", f".{old}.")
    return key


def make_clip_vision(name: str) -> None:
    folder = empty_folder(name)
    config = CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=40,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=3,
        # Two columns and rows of pixels are not used.
        image_size=50,
        patch_size=16,
        hidden_act="gelu",
    )
    encoder = CLIPVisionModelWithProjection(config).eval()
    making.randomise(encoder, 901)
    encoder.save_pretrained(folder, safe_serialization=True)
    processor = CLIPImageProcessor(image_mean=(0.4, 0.5, 0.3), image_std=(0.2, 0.3, 0.25))
    processor.save_pretrained(folder)
    images = making.clip(901, 2, 50, 50)
    pixels = processor(
        images=torch.from_numpy(images.astype(np.float32) / 255).permute(0, 3, 1, 2),
        do_normalize=True,
        do_center_crop=False,
        do_resize=False,
        do_rescale=False,
        return_tensors="pt",
    ).pixel_values
    with torch.no_grad():
        embeds = encoder(pixels).image_embeds
    pieces = {"images": images, "pixels": making.numbers(pixels), "embeds": making.numbers(embeds)}
    save_file(pieces, folder / "pieces.safetensors")


def empty_folder(name: str) -> Path:
    folder = HERE / "components" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


MAKERS = {"clip_vision": make_clip_vision, **dict.fromkeys(AUTOENCODERS, make_autoencoder)}

if __name__ == "__main__":
    making.main(lambda name, make: make(name), MAKERS)
