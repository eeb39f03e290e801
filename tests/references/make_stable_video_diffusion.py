"""Makes the Stable Video Diffusion references: tiny random checkpoints, and diffusers' frames for them.

    python tests/references/make_stable_video_diffusion.py [case ...]

Needs torch, diffusers, transformers 4 (README.md names the versions). Every config has the keys and, but for
its sizes, the values of the published checkpoint; `small` has others.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import making  # noqa: E402

FAMILY = "stable_video_diffusion"

# Norms have 32 groups, for any width: with 32 channels they cancel what the time adds to each, so one block
# has 64.
UNET = {
    "sample_size": 8,
    "in_channels": 8,
    "out_channels": 4,
    "down_block_types": ("DownBlockSpatioTemporal",) * 3,
    "up_block_types": ("UpBlockSpatioTemporal",) * 3,
    "block_out_channels": (32, 64, 32),
    "addition_time_embed_dim": 12,
    "projection_class_embeddings_input_dim": 36,
    "layers_per_block": 1,
    "cross_attention_dim": 20,
    "transformer_layers_per_block": 1,
    "num_attention_heads": (2, 1, 4),
    "num_frames": 5,
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "block_out_channels": (32, 32, 32),
    "layers_per_block": 1,
    "latent_channels": 4,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "force_upcast": True,
}
IMAGE_ENCODER = {
    "hidden_size": 18,
    "intermediate_size": 30,
    "projection_dim": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "gelu",
}
SCHEDULER = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "trained_betas": None,
    "use_karras_sigmas": True,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One checkpoint and its requests.

    `save` are arguments of `save_pretrained`, `media` are the heights and widths of images by file name.
    """

    seed: int
    requests: list[dict[str, Any]]
    media: dict[str, tuple[int, int]]
    unet: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any] = field(default_factory=dict)
    image_encoder: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    save: dict[str, Any] = field(default_factory=dict)


CASES = {
    "img2vid": Case(
        seed=800,
        save={"variant": "fp16"},
        media={"wide.png": (140, 310), "tall.png": (250, 90)},
        requests=[
            {
                # The checkpoint's five frames, in chunks of two: the last chunk has one. Latents of 5 rows
                # are halved to 3.
                "image": "wide.png",
                "height": 40,
                "width": 56,
                "num_inference_steps": 4,
                "decode_chunk_size": 2,
                "seed": 7,
            },
            {
                # No guidance; all frames at once.
                "image": "tall.png",
                "height": 24,
                "width": 40,
                "num_frames": 3,
                "num_inference_steps": 3,
                "max_guidance_scale": 1.0,
                "fps": 12,
                "motion_bucket_id": 0,
                "noise_aug_strength": 0.0,
                "seed": 2**62 + 11,
            },
            {
                "image": "tall.png",
                "height": 32,
                "width": 32,
                "num_frames": 4,
                "num_inference_steps": 2,
                "min_guidance_scale": 2.5,
                "max_guidance_scale": 1.5,
                "fps": 30,
                "motion_bucket_id": 255,
                "noise_aug_strength": 0.5,
                "decode_chunk_size": 3,
                "seed": 0,
            },
        ],
    ),
    # Transformers in blocks, with two layers in the middle; a sampler with other settings; two layers per
    # block in the VAE: with one, its decoder's attention is not run.
    "small": Case(
        seed=801,
        media={"square.png": (64, 64)},
        unet={
            "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            "block_out_channels": (32, 32),
            "layers_per_block": (1, 1),
            "transformer_layers_per_block": (1, 2),
            "num_attention_heads": (2, 1),
            "num_frames": 2,
        },
        vae={"block_out_channels": (32,), "down_block_types": ("DownEncoderBlock2D",), "layers_per_block": 2},
        image_encoder={"hidden_act": "quick_gelu", "hidden_size": 12, "patch_size": 30},
        scheduler={
            "use_karras_sigmas": False,
            "sigma_max": None,
            "sigma_min": None,
            "timestep_spacing": "trailing",
            "timestep_type": "discrete",
            "prediction_type": "epsilon",
        },
        requests=[
            {
                "image": "square.png",
                "height": 16,
                "width": 24,
                "num_inference_steps": 3,
                "max_guidance_scale": 4.0,
                "seed": 7,
            },
        ],
    ),
}


def build(case: Case, folder: Path) -> None:
    """Writes the case's checkpoint, with its last convolution scaled so that few pixels are clipped."""
    folder.mkdir(parents=True)
    torch.manual_seed(case.seed)
    image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**{**IMAGE_ENCODER, **case.image_encoder}))
    unet = UNetSpatioTemporalConditionModel(**{**UNET, **case.unet})
    vae = AutoencoderKLTemporalDecoder(**{**VAE, **case.vae})
    for offset, module in enumerate((image_encoder, unet, vae)):
        making.randomise(module, 1000 * case.seed + offset)
    # As they are saved; otherwise the last one's scale would be another's.
    for module in (image_encoder, unet, vae):
        module.to(torch.float16).to(torch.float32)

    pipeline = StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=image_encoder,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**{**SCHEDULER, **case.scheduler}),
        feature_extractor=CLIPImageProcessor(),
    )
    pipeline.set_progress_bar_config(disable=True)
    images = pictures(case)
    decoded: list[torch.Tensor] = []
    with making.recorded(vae, "decode", lambda result, *_, **__: decoded.append(result[0])):
        for request in case.requests:
            render(pipeline, request, images)
    level = torch.cat([video.transpose(0, 1).flatten(1) for video in decoded], dim=1)
    with torch.no_grad():
        last = vae.decoder.time_conv_out
        gain = 0.45 / level.std()
        last.weight *= gain
        last.bias.copy_((last.bias - level.mean(1)) * gain + 0.05 * torch.randn(len(last.bias)))

    pipeline.to(torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True, **case.save)


def pictures(case: Case) -> dict[str, np.ndarray]:
    """uint8 images (1, H, W, 3) by their file names."""
    return {name: making.clip(case.seed + i, 1, *size) for i, (name, size) in enumerate(case.media.items())}


def render(
    pipeline: StableVideoDiffusionPipeline, request: dict[str, Any], images: dict[str, np.ndarray]
) -> np.ndarray:
    """Frames (F, H, W, 3), float32 in [0, 1], with the noise of the request's seed."""
    arguments = dict(request)
    arguments["image"] = making.Image.fromarray(images[arguments["image"]][0])
    with making.numpy_noise(arguments.pop("seed")):
        return pipeline(**arguments, output_type="np").frames[0].astype(np.float32)


def record_request(
    pipeline: StableVideoDiffusionPipeline, request: dict[str, Any], images: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Renders a request and keeps the inputs and outputs of each model."""
    pieces: dict[str, np.ndarray] = {}
    steps: list[tuple[torch.Tensor, dict[str, Any]]] = []

    def image(result: Any, pixels: torch.Tensor) -> None:
        # Complete, they would be most of the file.
        pieces["image_encoder.some_pixels"] = making.numbers(pixels[:, :, ::13, ::11])
        pieces["image_encoder.output"] = making.numbers(result.image_embeds)

    def step(result: Any, latents: torch.Tensor, timestep: torch.Tensor, **inputs: Any) -> None:
        steps.append((result[0], {"latents": latents, "timestep": timestep.reshape(1), **inputs}))

    with (
        making.recorded(pipeline.image_encoder, "forward", image),
        making.recorded(pipeline.unet, "forward", step),
    ):
        frames = render(pipeline, request, images)
    output, inputs = steps[0]
    for key in ("latents", "timestep", "encoder_hidden_states", "added_time_ids"):
        pieces[f"unet.{key}"] = making.numbers(inputs[key])
    pieces["unet.output"] = making.numbers(output)
    return frames, pieces


class TemporalVaePieces(making.ImageVaePieces):
    """Results of the autoencoder whose decoder sees the frames of one video."""

    def decoded(self, latents: torch.Tensor) -> torch.Tensor:
        return self._vae.decode(latents, num_frames=len(latents)).sample


def make(name: str, case: Case) -> None:
    folder = HERE / FAMILY / name
    shutil.rmtree(folder, ignore_errors=True)
    build(case, folder / "checkpoint")
    pipeline = StableVideoDiffusionPipeline.from_pretrained(
        folder / "checkpoint", torch_dtype=torch.float32, variant=case.save.get("variant")
    )
    pipeline.set_progress_bar_config(disable=True)

    images = pictures(case)
    frames, pieces = record_request(pipeline, case.requests[0], images)
    videos = [frames, *(render(pipeline, request, images) for request in case.requests[1:])]
    recorder = TemporalVaePieces(pipeline.vae, case.seed)
    recorder.decode("decode", 1, 4, 3, 2, 3)
    recorder.decode("decode_one", 1, 4, 1, 3, 2)
    recorder.encode("encode", 1, 1, 12, 20)
    making.save_reference(
        folder,
        task="image-to-video",
        variant=case.save.get("variant"),
        requests=case.requests,
        videos=videos,
        pieces={**pieces, **recorder.pieces},
        media=images,
    )


if __name__ == "__main__":
    making.main(make, CASES)
