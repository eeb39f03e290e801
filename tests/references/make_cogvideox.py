"""Makes the CogVideoX references: tiny random checkpoints, and diffusers' frames for them.

    python tests/references/make_cogvideox.py [case ...]

Needs torch, diffusers, transformers 4, sentencepiece (README.md names the versions). Every config has
the keys and, except for its sizes, the values of the published checkpoint that its case is named after.
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
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    CogVideoXVideoToVideoPipeline,
)
from PIL import Image
from transformers import T5Tokenizer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import making  # noqa: E402

PIPELINES = {
    "text-to-video": CogVideoXPipeline,
    "image-to-video": CogVideoXImageToVideoPipeline,
    "video-to-video": CogVideoXVideoToVideoPipeline,
}
SCHEDULERS = {"ddim": (CogVideoXDDIMScheduler, 3.0), "dpm": (CogVideoXDPMScheduler, 1.0)}

TRANSFORMER = {
    # Three heads: no power of two divides them. 16 is the smallest head that rotary positions split well.
    "num_attention_heads": 3,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 40,
    "text_embed_dim": 32,
    "num_layers": 2,
    "sample_height": 4,
    "sample_width": 6,
    "sample_frames": 9,
    "max_text_seq_length": 24,
}
ROTARY = {"use_rotary_positional_embeddings": True}
VAE = {
    "down_block_types": ("CogVideoXDownBlock3D",) * 4,
    "up_block_types": ("CogVideoXUpBlock3D",) * 4,
    "block_out_channels": (4, 8, 8, 12),
    # At least two channels per group: normalising a single channel would cancel its bias unseen.
    "norm_num_groups": 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "sample_height": 32,
    "sample_width": 48,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One checkpoint and its requests.

    `media` maps a file name to the uint8 frames (F, H, W, 3) saved under it; a request names it. Each of
    `overrides` is put over the checkpoint's scheduler config, for another rendering of the first request.
    """

    seed: int
    requests: list[dict[str, Any]]
    task: str = "text-to-video"
    index_class: type | None = None
    scheduler: str = "dpm"
    transformer: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any] = field(default_factory=dict)
    media: dict[str, np.ndarray] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    save: dict[str, Any] = field(default_factory=dict)
    vae_pieces: bool = False
    overrides: list[dict[str, Any]] = field(default_factory=list)


CASES = {
    "2b": Case(
        seed=20,
        scheduler="ddim",
        vae={"scaling_factor": 1.15258426, "block_out_channels": (8, 16, 16, 24), "norm_num_groups": 4},
        vae_pieces=True,
        overrides=[
            {"_class_name": "CogVideoXDPMScheduler"},
            {"timestep_spacing": "linspace", "rescale_betas_zero_snr": False, "snr_shift_scale": 1.5},
        ],
        requests=[
            {
                "prompt": making.PROMPT,
                "negative_prompt": "blurry, low quality",
                "num_inference_steps": 4,
                "max_sequence_length": 24,
                "seed": 7,
            },
            {
                "prompt": "Waves roll over a quiet beach.",
                "height": 48,
                "width": 32,
                "num_frames": 17,
                "num_inference_steps": 7,
                "guidance_scale": 3.5,
                "eta": 0.5,
                "max_sequence_length": 24,
                "seed": 2**62 + 11,
            },
            {
                # No guidance, and more words than max_sequence_length.
                "prompt": " ".join(making.SENTENCES[:3]),
                "negative_prompt": "not used",
                "num_frames": 5,
                "num_inference_steps": 3,
                "guidance_scale": 1.0,
                "max_sequence_length": 24,
                "seed": 0,
            },
        ],
    ),
    "5b": Case(
        seed=50,
        vae={"scaling_factor": 0.7},
        # max_sequence_length is left out below: the pipeline's default is 226, whatever the config says.
        transformer={**ROTARY, "sample_height": 6, "sample_width": 8, "max_text_seq_length": 226},
        save={"max_shard_size": "300KB"},
        requests=[
            {
                "prompt": making.PROMPT,
                "height": 32,
                "width": 64,
                "num_inference_steps": 5,
                "use_dynamic_cfg": True,
                "seed": 7,
            },
            {
                "prompt": "Ein Zug im Regen — 雨",
                "negative_prompt": "watermark",
                "num_frames": 13,
                "num_inference_steps": 6,
                "guidance_scale": 4.0,
                "max_sequence_length": 16,
                "seed": 123456789,
            },
        ],
    ),
    "1.5": Case(
        seed=15,
        vae={"scaling_factor": 0.7, "invert_scale_latents": True},
        transformer={
            **ROTARY,
            "patch_size_t": 2,
            "patch_bias": False,
            "sample_height": 6,
            "sample_width": 8,
        },
        dtype=torch.bfloat16,
        requests=[
            {
                # 9 frames are 3 latent frames: one is added for patch_size_t.
                "prompt": making.PROMPT,
                "height": 32,
                "width": 48,
                "num_frames": 9,
                "num_inference_steps": 4,
                "use_dynamic_cfg": True,
                "max_sequence_length": 24,
                "seed": 7,
            },
            {
                "prompt": "A panda plays a guitar",
                "height": 48,
                "width": 64,
                "num_frames": 13,
                "num_inference_steps": 3,
                "max_sequence_length": 24,
                "seed": 8,
            },
        ],
    ),
    "i2v": Case(
        seed=51,
        task="image-to-video",
        vae={"scaling_factor": 0.7, "layers_per_block": 3},
        transformer={**ROTARY, "use_learned_positional_embeddings": True, "in_channels": 8},
        media={
            "image.png": making.clip(1, 1, 40, 52),
            "same_size.png": making.clip(2, 1, 32, 48),
        },
        requests=[
            {
                "prompt": making.PROMPT,
                "image": "image.png",
                # The learned positions are for sample_frames; the pipeline's own default is 49.
                "num_frames": 9,
                "num_inference_steps": 4,
                "use_dynamic_cfg": True,
                "max_sequence_length": 24,
                "seed": 7,
            },
            {
                # Another length than that of the learned positions.
                "prompt": "A street musician",
                "negative_prompt": "distorted hands",
                "image": "same_size.png",
                "num_frames": 13,
                "num_inference_steps": 3,
                "guidance_scale": 2.0,
                "max_sequence_length": 24,
                "seed": 9,
            },
        ],
    ),
    "1.5-i2v": Case(
        seed=16,
        task="image-to-video",
        vae={"scaling_factor": 0.7, "invert_scale_latents": True},
        transformer={
            **ROTARY,
            "patch_size_t": 2,
            "patch_bias": False,
            "ofs_embed_dim": 40,
            "in_channels": 8,
            "sample_height": 10,
            "sample_width": 10,
        },
        dtype=torch.bfloat16,
        media={"image.png": making.clip(3, 1, 50, 40)},
        requests=[
            {
                "prompt": making.PROMPT,
                "image": "image.png",
                "height": 48,
                "width": 32,
                "num_frames": 9,
                "num_inference_steps": 4,
                "max_sequence_length": 24,
                "seed": 7,
            },
            {
                "prompt": "A hummingbird drinks",
                "image": "image.png",
                "height": 32,
                "width": 64,
                "num_frames": 13,
                "num_inference_steps": 3,
                "use_dynamic_cfg": True,
                "max_sequence_length": 24,
                "seed": 10,
            },
        ],
    ),
    "v2v": Case(
        seed=52,
        task="video-to-video",
        # As published: the model cards render clips with the text-to-video checkpoint.
        index_class=CogVideoXPipeline,
        vae={"scaling_factor": 0.7},
        transformer={**ROTARY},
        media={"clip.npz": making.clip(4, 9, 40, 60), "long.npz": making.clip(5, 17, 32, 48)},
        requests=[
            {
                "prompt": making.PROMPT,
                "video": "clip.npz",
                "num_inference_steps": 10,
                "strength": 0.6,
                "use_dynamic_cfg": True,
                "max_sequence_length": 24,
                "seed": 7,
            },
            {
                "prompt": "A train crosses a bridge",
                "video": "long.npz",
                "num_inference_steps": 5,
                "guidance_scale": 3.0,
                "max_sequence_length": 24,
                "seed": 12,
            },
        ],
    ),
    "v2v-2b": Case(
        seed=21,
        task="video-to-video",
        index_class=CogVideoXPipeline,
        scheduler="ddim",
        vae={"scaling_factor": 1.15258426},
        save={"variant": "fp16"},
        dtype=torch.float16,
        media={"clip.npz": making.clip(6, 9, 32, 48)},
        requests=[
            {
                "prompt": making.PROMPT,
                "negative_prompt": "blurry",
                "video": "clip.npz",
                "num_inference_steps": 6,
                "strength": 0.6,
                "max_sequence_length": 24,
                "seed": 7,
            },
        ],
    ),
}


def build(case: Case, folder: Path) -> None:
    """Writes the case's checkpoint, with its last convolution scaled so that few pixels are clipped."""
    folder.mkdir(parents=True)
    tokenizer = making.t5_tokenizer(T5Tokenizer, legacy=True)

    torch.manual_seed(case.seed)
    text_encoder = making.t5_encoder(tokenizer)
    transformer = CogVideoXTransformer3DModel(**{**TRANSFORMER, **case.transformer})
    vae = AutoencoderKLCogVideoX(**{**VAE, **case.vae})
    for offset, module in enumerate((text_encoder, transformer, vae)):
        making.randomise(module, 1000 * case.seed + offset)
    if transformer.config.use_learned_positional_embeddings:
        positions = transformer.patch_embed.pos_embedding
        positions += 0.5 * torch.randn(positions.shape)

    scheduler_class, shift = SCHEDULERS[case.scheduler]
    scheduler = scheduler_class(
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=shift,
        timestep_spacing="trailing",
    )
    index_class = case.index_class or PIPELINES[case.task]
    pipeline = index_class(
        tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, transformer=transformer, scheduler=scheduler
    )

    decoded: list[torch.Tensor] = []
    renderer = PIPELINES[case.task](**pipeline.components)
    renderer.set_progress_bar_config(disable=True)
    with making.recorded(renderer.vae, "decode", lambda result, *_, **__: decoded.append(result.sample)):
        for request in case.requests:
            render(renderer, request, case)
    level = torch.cat([video.flatten(2) for video in decoded], dim=2)
    conv_out = vae.decoder.conv_out.conv
    with torch.no_grad():
        gain = 0.45 / level.std()
        conv_out.weight *= gain
        conv_out.bias.copy_((conv_out.bias - level.mean((0, 2))) * gain + 0.05 * torch.randn(3))

    pipeline.to(case.dtype)
    pipeline.save_pretrained(folder, safe_serialization=True, **case.save)


def render(pipeline: Any, request: dict[str, Any], case: Case) -> np.ndarray:
    """Frames (F, H, W, 3), float32 in [0, 1], with the noise of the request's seed."""
    arguments = dict(request)
    seed = arguments.pop("seed")
    if "image" in arguments:
        arguments["image"] = Image.fromarray(case.media[arguments["image"]][0])
    if "video" in arguments:
        arguments["video"] = [Image.fromarray(frame) for frame in case.media[arguments["video"]]]
    with making.numpy_noise(seed):
        return pipeline(**arguments, output_type="np").frames[0].astype(np.float32)


def record_request(pipeline: Any, case: Case) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Renders the first request and keeps the inputs and outputs of each model."""
    pieces: dict[str, np.ndarray] = {}
    steps: list[tuple[torch.Tensor, dict[str, Any]]] = []

    def text(result: Any, input_ids: torch.Tensor, **_: Any) -> None:
        which = "prompt" if "text_encoder.prompt.input_ids" not in pieces else "negative_prompt"
        pieces[f"text_encoder.{which}.input_ids"] = making.numbers(input_ids)
        pieces[f"text_encoder.{which}.output"] = making.numbers(result[0])

    def step(result: Any, **inputs: Any) -> None:
        steps.append((result[0], inputs))

    def encode(result: Any, video: torch.Tensor) -> None:
        pieces["vae.encode.input"] = making.numbers(video)
        pieces["vae.encode.mean"] = making.numbers(result.latent_dist.mean)
        pieces["vae.encode.logvar"] = making.numbers(result.latent_dist.logvar)

    def decode(result: Any, latents: torch.Tensor) -> None:
        pieces["vae.decode.input"] = making.numbers(latents)
        pieces["vae.decode.output"] = making.numbers(result.sample)

    with (
        making.recorded(pipeline.text_encoder, "forward", text),
        making.recorded(pipeline.transformer, "forward", step),
        making.recorded(pipeline.vae, "encode", encode),
        making.recorded(pipeline.vae, "decode", decode),
    ):
        frames = render(pipeline, case.requests[0], case)

    pieces |= making.first_and_last(steps, "hidden_states", "encoder_hidden_states", "timestep", "ofs")
    for name, (_, inputs) in (("first", steps[0]), ("last", steps[-1])):
        if inputs["image_rotary_emb"] is not None:
            for key, table in zip(("rotary_cos", "rotary_sin"), inputs["image_rotary_emb"], strict=True):
                pieces[f"transformer.{name}.{key}"] = making.numbers(table)
    return frames, pieces


def record_vae(vae: AutoencoderKLCogVideoX, seed: int) -> dict[str, np.ndarray]:
    """Frame batches with and without remainder, a batch of two, and tiles."""
    recorder = making.VaePieces(vae, seed)
    channels = vae.config.latent_channels
    recorder.decode("decode_one", 1, channels, 1, 4, 6)
    recorder.decode("decode_even", 2, channels, 4, 4, 2)
    recorder.decode("decode_odd", 1, channels, 7, 2, 4)
    recorder.encode("encode_one", 2, 1, 32, 48)
    recorder.encode("encode_batches", 1, 25, 16, 32)
    recorder.encode("encode_even", 1, 16, 32, 16)
    # The overlaps, a sixth of 48 rows and a fifth of 40 columns, are then whole latent rows and columns.
    vae.enable_tiling(tile_sample_min_height=48, tile_sample_min_width=40)
    recorder.pieces["vae.tile_sample_min"] = np.array([48, 40])
    recorder.decode("tiled_decode", 1, channels, 3, 8, 9)
    recorder.encode("tiled_encode", 1, 9, 64, 72)
    vae.disable_tiling()
    return recorder.pieces


def record_overrides(pipeline: Any, case: Case, folder: Path) -> None:
    """Renders the first request with each of the overrides: `overridden.<k>.npy`, listed in a JSON file."""
    checkpoint, own = folder / "checkpoint", type(pipeline.scheduler).__name__
    for k, override in enumerate(case.overrides):
        keys = dict(override)
        kind = getattr(diffusers, keys.pop("_class_name", own))
        pipeline.scheduler = kind.from_pretrained(checkpoint, subfolder="scheduler", **keys)
        np.save(folder / f"overridden.{k}.npy", render(pipeline, case.requests[0], case))
    if case.overrides:
        making.write_json(folder / "overridden.json", case.overrides)


def make(name: str, case: Case) -> None:
    folder = HERE / "cogvideox" / name
    shutil.rmtree(folder, ignore_errors=True)
    build(case, folder / "checkpoint")
    pipeline = PIPELINES[case.task].from_pretrained(
        folder / "checkpoint", torch_dtype=torch.float32, variant=case.save.get("variant")
    )
    pipeline.set_progress_bar_config(disable=True)

    frames, pieces = record_request(pipeline, case)
    videos = [frames, *(render(pipeline, request, case) for request in case.requests[1:])]
    if case.vae_pieces:
        pieces |= record_vae(pipeline.vae, case.seed)

    making.save_reference(
        folder,
        task=case.task,
        variant=case.save.get("variant"),
        requests=case.requests,
        videos=videos,
        pieces=pieces,
        media=case.media,
    )
    record_overrides(pipeline, case, folder)


if __name__ == "__main__":
    making.main(make, CASES)
