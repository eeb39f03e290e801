"""Makes the I2VGen-XL references: tiny random checkpoints, and diffusers' frames for them.

    python tests/references/make_i2vgen_xl.py [case ...]

Needs torch, diffusers, transformers 4 (README.md names the versions). Configs have the keys and, except
their sizes and what a case is for, the values of ali-vilab/i2vgen-xl.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, I2VGenXLPipeline
from diffusers.models.unets.unet_i2vgen_xl import I2VGenXLUNet
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import making  # noqa: E402

UNET = {
    "sample_size": 32,
    # At least two channels per group: normalising a single channel would cancel its bias unseen.
    "block_out_channels": (8, 12, 16),
    "down_block_types": ("CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 20,
    "attention_head_dim": 4,
}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (4, 8, 8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "sample_size": 768,
}
TEXT = {
    "hidden_size": 20,
    "intermediate_size": 32,
    # The last one, and with clip_skip 2 the last two, are not used.
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "hidden_act": "gelu",
    "bos_token_id": 0,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 28,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 28,
    "patch_size": 7,
    "projection_dim": 20,
    "hidden_act": "gelu",
}
SCHEDULER = {
    "beta_schedule": "squaredcos_cap_v2",
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One checkpoint and its requests.

    `media` maps a file name to the uint8 frames (F, H, W, 3) saved under it; a request names it. `override`
    is put over the checkpoint's scheduler config.
    """

    seed: int
    requests: list[dict[str, Any]]
    media: dict[str, np.ndarray]
    unet: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    image_processor: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    override: dict[str, Any] = field(default_factory=dict)
    pad_token: str = "<|endoftext|>"
    dtype: torch.dtype = torch.float32
    save: dict[str, Any] = field(default_factory=dict)


CASES = {
    "i2v": Case(
        seed=130,
        # As published: padding is an exclamation mark.
        pad_token="!",
        media={"wide.png": making.clip(1, 1, 50, 90), "tall.png": making.clip(2, 1, 75, 33)},
        requests=[
            {
                # Five rows of latents: levels have sizes that are not halves of each other.
                "prompt": making.PROMPT,
                "negative_prompt": "Distorted, discontinuous, Ugly, blurry",
                "image": "wide.png",
                "height": 40,
                "width": 64,
                "num_frames": 5,
                "num_inference_steps": 4,
                "seed": 7,
            },
            {
                # An image that is smaller than the video, and that the reference scales to a pixel too few:
                # its edge is black. Noise added again; earlier hidden states.
                "prompt": "Ein Zug im Regen — 雨",
                "image": "tall.png",
                "height": 80,
                "width": 56,
                "num_frames": 3,
                "num_inference_steps": 3,
                "guidance_scale": 4.5,
                "eta": 0.7,
                "target_fps": 8,
                "clip_skip": 2,
                "decode_chunk_size": 2,
                "seed": 2**62 + 11,
            },
            {
                # No guidance, a prompt that is cut, a single frame.
                "prompt": " ".join(making.SENTENCES),
                "negative_prompt": "not used",
                "image": "wide.png",
                "height": 32,
                "width": 32,
                "num_frames": 1,
                "num_inference_steps": 2,
                "guidance_scale": 1.0,
                "clip_skip": 0,
                "seed": 0,
            },
        ],
    ),
    "odd": Case(
        seed=131,
        unet={
            # Attention, with three heads, only where the image is smallest.
            "block_out_channels": (16, 24),
            "down_block_types": ("DownBlock3D", "CrossAttnDownBlock3D"),
            "up_block_types": ("CrossAttnUpBlock3D", "UpBlock3D"),
            "layers_per_block": 2,
            "norm_num_groups": 8,
            "attention_head_dim": 8,
            "cross_attention_dim": 18,
        },
        # A quarter of the size, not an eighth.
        vae={
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "block_out_channels": (4, 6, 8),
            "scaling_factor": 0.25,
        },
        text={"hidden_size": 18, "num_attention_heads": 3, "hidden_act": "quick_gelu"},
        vision={"projection_dim": 18, "image_size": 24, "patch_size": 8, "num_attention_heads": 4},
        image_processor={"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]},
        # Scales the UNet's input, and draws noise at each step.
        override={"_class_name": "EulerAncestralDiscreteScheduler", "steps_offset": 0},
        media={"image.png": making.clip(3, 1, 24, 48)},
        dtype=torch.float16,
        save={"variant": "fp16"},
        requests=[
            {
                "prompt": "A street musician",
                "negative_prompt": "not used",
                "image": "image.png",
                "height": 24,
                "width": 40,
                "num_frames": 4,
                "num_inference_steps": 3,
                "guidance_scale": 1.0,
                "seed": 9,
            },
            {
                "prompt": "",
                "negative_prompt": "watermark",
                "image": "image.png",
                "height": 32,
                "width": 24,
                "num_frames": 7,
                "num_inference_steps": 2,
                "guidance_scale": 3.0,
                "seed": 10,
            },
        ],
    ),
}


def build(case: Case, folder: Path) -> None:
    """Writes the case's checkpoint, with its last convolution scaled so that few pixels are clipped."""
    folder.mkdir(parents=True)
    tokenizer = making.clip_tokenizer()
    tokenizer.pad_token = case.pad_token
    torch.manual_seed(case.seed)
    text_encoder = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), **{**TEXT, **case.text}))
    vision = {**VISION, **case.vision}
    image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**vision))
    unet = I2VGenXLUNet(**{**UNET, **case.unet})
    vae = AutoencoderKL(**{**VAE, **case.vae})
    for offset, module in enumerate((text_encoder, image_encoder, unet, vae)):
        making.randomise(module, 1000 * case.seed + offset)
    size = vision["image_size"]
    pipeline = I2VGenXLPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        image_encoder=image_encoder,
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}, **case.image_processor
        ),
        unet=unet,
        vae=vae,
        scheduler=DDIMScheduler(**{**SCHEDULER, **case.scheduler}),
    )
    pipeline.set_progress_bar_config(disable=True)

    decoded: list[torch.Tensor] = []
    with making.recorded(vae, "decode", lambda result, *_, **__: decoded.append(result[0])):
        for request in case.requests:
            render(pipeline, request, case)
    level = torch.cat([video.transpose(0, 1).flatten(1) for video in decoded], dim=1)
    conv_out = vae.decoder.conv_out
    with torch.no_grad():
        gain = 0.45 / level.std()
        conv_out.weight *= gain
        conv_out.bias.copy_((conv_out.bias - level.mean(1)) * gain + 0.05 * torch.randn(3))

    pipeline.to(case.dtype)
    pipeline.save_pretrained(folder, safe_serialization=True, **case.save)


def render(pipeline: Any, request: dict[str, Any], case: Case) -> np.ndarray:
    """Frames (F, H, W, 3), float32 in [0, 1], with the noise of the request's seed.

    The pipeline samples the image's posterior first, without the request's generator. Here that noise depends
    on the seed, too.
    """
    arguments = dict(request)
    seed = arguments.pop("seed")
    arguments["image"] = Image.fromarray(case.media[arguments["image"]][0])
    with making.numpy_noise(seed):
        return pipeline(**arguments, output_type="np").frames[0].astype(np.float32)


def record_request(pipeline: Any, case: Case) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Renders the first request and keeps the inputs and outputs of each model."""
    pieces: dict[str, np.ndarray] = {}
    steps: list[tuple[torch.Tensor, dict[str, Any]]] = []
    final_norm = pipeline.text_encoder.text_model.final_layer_norm

    def text(result: Any, input_ids: torch.Tensor, **_: Any) -> None:
        which = "negative_prompt" if "text_encoder.prompt.input_ids" in pieces else "prompt"
        pieces[f"text_encoder.{which}.input_ids"] = making.numbers(input_ids)
        # clip_skip is 1.
        pieces[f"text_encoder.{which}.output"] = making.numbers(final_norm(result.hidden_states[-2]))

    def image(result: Any, pixels: torch.Tensor, **_: Any) -> None:
        pieces["image_encoder.pixel_values"] = making.numbers(pixels)
        pieces["image_encoder.image_embeds"] = making.numbers(result.image_embeds)

    def encode(result: Any, pixels: torch.Tensor, **_: Any) -> None:
        pieces["vae.encode.input"] = making.numbers(pixels)
        pieces["vae.encode.mean"] = making.numbers(result.latent_dist.mean)
        pieces["vae.encode.logvar"] = making.numbers(result.latent_dist.logvar)

    def step(result: Any, sample: torch.Tensor, timestep: torch.Tensor, **inputs: Any) -> None:
        steps.append((result[0], {"sample": sample, "timestep": timestep, **inputs}))

    with (
        making.recorded(pipeline.text_encoder, "forward", text),
        making.recorded(pipeline.image_encoder, "forward", image),
        making.recorded(pipeline.vae, "encode", encode),
        making.recorded(pipeline.unet, "forward", step),
    ):
        frames = render(pipeline, case.requests[0], case)

    pieces |= making.first_and_last(
        steps,
        "sample",
        "timestep",
        "encoder_hidden_states",
        "fps",
        "image_latents",
        "image_embeddings",
        model="unet",
    )
    return frames, pieces


def make(name: str, case: Case) -> None:
    folder = HERE / "i2vgen_xl" / name
    shutil.rmtree(folder, ignore_errors=True)
    build(case, folder / "checkpoint")
    pipeline = I2VGenXLPipeline.from_pretrained(
        folder / "checkpoint", torch_dtype=torch.float32, variant=case.save.get("variant")
    )
    pipeline.set_progress_bar_config(disable=True)
    if case.override:
        settings = dict(case.override)
        kind = getattr(diffusers, settings.pop("_class_name"))
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **settings)

    with torch.no_grad():
        frames, pieces = record_request(pipeline, case)
        videos = [frames, *(render(pipeline, request, case) for request in case.requests[1:])]
    making.save_reference(
        folder,
        task="image-to-video",
        variant=case.save.get("variant"),
        requests=case.requests,
        videos=videos,
        pieces=pieces,
        media=case.media,
        options={"scheduler": case.override} if case.override else None,
    )


if __name__ == "__main__":
    making.main(make, CASES)
