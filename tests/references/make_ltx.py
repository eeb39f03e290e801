"""Makes the LTX-Video references: tiny random checkpoints, and diffusers' frames for them.

    python tests/references/make_ltx.py [case ...]

Needs torch, diffusers, transformers 4, sentencepiece (README.md names the versions). Every config has
the keys and, except for its sizes, the values of the published checkpoint that its case is named after.
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
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from PIL import Image
from transformers import T5Tokenizer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import making  # noqa: E402

PIPELINES = {"text-to-video": LTXPipeline, "image-to-video": LTXImageToVideoPipeline}
VAE_NOISE_SEED = 77

TRANSFORMER = {
    # Three heads: no power of two divides them.
    "num_attention_heads": 3,
    "attention_head_dim": 16,
    "in_channels": 6,
    "out_channels": 6,
    "cross_attention_dim": 48,
    "num_layers": 2,
    "caption_channels": 32,
}
SCHEDULER = {
    "use_dynamic_shifting": True,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "base_image_seq_len": 1024,
    "max_image_seq_len": 4096,
    "shift_terminal": 0.1,
}
# 8 pixels and 4 frames per latent: published checkpoints have one more block that scales, and patches of 4.
VAE_090 = {
    "latent_channels": 6,
    "block_out_channels": (8, 12, 16, 16),
    "decoder_block_out_channels": (8, 12, 16, 16),
    "layers_per_block": (2, 1, 1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1, 2, 1),
    "spatio_temporal_scaling": (True, True, False, False),
    "decoder_spatio_temporal_scaling": (True, True, False, False),
    "decoder_inject_noise": (False,) * 5,
    "upsample_residual": (False,) * 4,
    "upsample_factor": (1,) * 4,
    "timestep_conditioning": False,
    "patch_size": 2,
}
# 16 pixels and 8 frames per latent.
VAE_091 = {
    "latent_channels": 6,
    "block_out_channels": (8, 8, 12, 12),
    "decoder_block_out_channels": (8, 16, 32),
    "layers_per_block": (1, 1, 1, 1, 1),
    "decoder_layers_per_block": (1, 2, 1, 1),
    "spatio_temporal_scaling": (True, True, True, False),
    "decoder_spatio_temporal_scaling": (True, True, True),
    "decoder_inject_noise": (True, True, True, False),
    "upsample_residual": (True, True, True),
    "upsample_factor": (2, 2, 2),
    "timestep_conditioning": True,
    "patch_size": 2,
}
VAE_095 = {
    "latent_channels": 6,
    "block_out_channels": (4, 8, 8, 16, 16),
    "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
    "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
    "layers_per_block": (1, 1, 2, 1, 1),
    "spatio_temporal_scaling": (True, True, True, True),
    "decoder_block_out_channels": (8, 16, 32),
    "decoder_layers_per_block": (1, 1, 1, 1),
    "decoder_spatio_temporal_scaling": (True, True, True),
    "decoder_inject_noise": (False,) * 4,
    "upsample_residual": (True, True, True),
    "upsample_factor": (2, 2, 2),
    "timestep_conditioning": True,
    "patch_size": 2,
    "spatial_compression_ratio": 16,
    "temporal_compression_ratio": 8,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One checkpoint and its requests.

    `media` maps a file name to the uint8 frames (F, H, W, 3) saved under it; a request names it.
    """

    seed: int
    vae: dict[str, Any]
    requests: list[dict[str, Any]]
    task: str = "text-to-video"
    index_class: type | None = None
    transformer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=lambda: SCHEDULER)
    media: dict[str, np.ndarray] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    tiles: bool = False


CASES = {
    "0.9.0": Case(
        seed=900,
        vae=VAE_090,
        requests=[
            {
                "prompt": making.PROMPT,
                "negative_prompt": "blurry, low quality",
                "height": 32,
                "width": 64,
                "num_frames": 9,
                "num_inference_steps": 5,
                "guidance_rescale": 0.4,
                "frame_rate": 24,
                "max_sequence_length": 24,
                "seed": 7,
            },
            {
                # 7 frames become 5; 128 tokens of text.
                "prompt": "Waves roll over a quiet beach. <pad> Ein Zug im Regen — 雨",
                "height": 64,
                "width": 32,
                "num_frames": 7,
                "num_inference_steps": 3,
                "guidance_scale": 6.5,
                "decode_timestep": 0.5,
                "seed": 2**62 + 11,
            },
            {
                # No guidance, and more words than max_sequence_length.
                "prompt": " ".join(making.SENTENCES[:3]),
                "negative_prompt": "not used",
                "height": 32,
                "width": 32,
                "num_frames": 1,
                "num_inference_steps": 2,
                "guidance_scale": 1.0,
                "max_sequence_length": 16,
                "seed": 0,
            },
        ],
    ),
    "0.9.0-i2v": Case(
        seed=901,
        task="image-to-video",
        # As published: the model card renders images with the text-to-video checkpoint.
        index_class=LTXPipeline,
        vae={**VAE_090, "scaling_factor": 0.8},
        dtype=torch.bfloat16,
        # 50 channels: rotary positions leave two of them out.
        transformer={"num_attention_heads": 5, "attention_head_dim": 10, "cross_attention_dim": 50},
        media={"image.png": making.clip(1, 1, 40, 52), "same_size.png": making.clip(2, 1, 32, 32)},
        requests=[
            {
                "prompt": making.PROMPT,
                "image": "image.png",
                "height": 32,
                "width": 64,
                "num_frames": 9,
                "num_inference_steps": 4,
                "max_sequence_length": 24,
                "seed": 7,
            },
            {
                "prompt": "A street musician",
                "negative_prompt": "distorted hands",
                "image": "same_size.png",
                "height": 32,
                "width": 32,
                "num_frames": 5,
                "num_inference_steps": 3,
                "guidance_scale": 1.0,
                "frame_rate": 12.5,
                "max_sequence_length": 24,
                "seed": 9,
            },
        ],
    ),
    "0.9.1": Case(
        seed=910,
        vae=VAE_091,
        dtype=torch.bfloat16,
        tiles=True,
        requests=[
            {
                "prompt": making.PROMPT,
                "negative_prompt": "watermark",
                "height": 32,
                "width": 64,
                "num_frames": 9,
                "num_inference_steps": 4,
                "decode_timestep": 0.05,
                "decode_noise_scale": 0.025,
                "max_sequence_length": 24,
                "seed": 7,
            },
            {
                # A number of frames that the VAE cannot make, and as much noise as the timestep says.
                "prompt": "A panda plays a guitar",
                "height": 32,
                "width": 32,
                "num_frames": 15,
                "num_inference_steps": 3,
                "decode_timestep": 0.3,
                "guidance_rescale": 1.0,
                "max_sequence_length": 24,
                "seed": 8,
            },
        ],
    ),
    "0.9.1-i2v": Case(
        seed=911,
        task="image-to-video",
        vae=VAE_091,
        dtype=torch.bfloat16,
        media={"image.png": making.clip(3, 1, 50, 40)},
        requests=[
            {
                "prompt": making.PROMPT,
                "image": "image.png",
                "height": 64,
                "width": 32,
                "num_frames": 9,
                "num_inference_steps": 4,
                "guidance_rescale": 0.7,
                "decode_timestep": 0.05,
                "decode_noise_scale": 0.025,
                "max_sequence_length": 24,
                "seed": 7,
            },
        ],
    ),
    "0.9.5-i2v": Case(
        seed=950,
        task="image-to-video",
        vae=VAE_095,
        dtype=torch.bfloat16,
        transformer={"norm_elementwise_affine": True, "attention_bias": False, "attention_out_bias": False},
        scheduler={"shift": 3.0, "stochastic_sampling": True},
        media={"image.png": making.clip(5, 1, 32, 64)},
        requests=[
            {
                "prompt": "A hummingbird drinks",
                "image": "image.png",
                "height": 32,
                "width": 64,
                "num_frames": 9,
                "num_inference_steps": 3,
                "decode_timestep": 0.05,
                "max_sequence_length": 24,
                "seed": 10,
            },
            {
                # Only the image.
                "prompt": "A hummingbird",
                "image": "image.png",
                "height": 32,
                "width": 32,
                "num_frames": 1,
                "num_inference_steps": 1,
                "max_sequence_length": 24,
                "seed": 11,
            },
        ],
    ),
}


def build(case: Case, folder: Path) -> None:
    """Writes the case's checkpoint, with its last convolution scaled so that few pixels are clipped."""
    folder.mkdir(parents=True)
    tokenizer = making.t5_tokenizer(T5Tokenizer, legacy=True, model_max_length=128)

    torch.manual_seed(case.seed)
    text_encoder = making.t5_encoder(tokenizer)
    transformer = LTXVideoTransformer3DModel(**{**TRANSFORMER, **case.transformer})
    vae = AutoencoderKLLTXVideo(**case.vae)
    for offset, module in enumerate((text_encoder, transformer, vae)):
        making.randomise(module, 1000 * case.seed + offset)
    vae.latents_mean += 0.3 * torch.randn(vae.latents_mean.shape)
    vae.latents_std *= 1 + 0.2 * torch.rand(vae.latents_std.shape)
    if vae.config.timestep_conditioning:
        vae.decoder.timestep_scale_multiplier.data.fill_(992.0)

    pipeline = (case.index_class or PIPELINES[case.task])(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(**case.scheduler),
    )
    decoded: list[torch.Tensor] = []
    renderer = PIPELINES[case.task](**pipeline.components)
    renderer.set_progress_bar_config(disable=True)
    with making.recorded(renderer.vae, "decode", lambda result, *_, **__: decoded.append(result[0])):
        for request in case.requests:
            render(renderer, request, case)
    level = torch.cat([video.flatten(2) for video in decoded], dim=2)
    conv_out = vae.decoder.conv_out.conv
    with torch.no_grad():
        gain = 0.45 / level.std()
        conv_out.weight *= gain
        pixels = len(conv_out.bias) // 3
        mean = level.mean((0, 2)).repeat_interleave(pixels)
        conv_out.bias.copy_((conv_out.bias - mean) * gain + 0.05 * torch.randn(len(conv_out.bias)))

    pipeline.to(case.dtype)
    pipeline.save_pretrained(folder, safe_serialization=True)


def render(pipeline: Any, request: dict[str, Any], case: Case) -> np.ndarray:
    """Frames (F, H, W, 3), float32 in [0, 1], with the noise of the request's seed."""
    arguments = dict(request)
    seed = arguments.pop("seed")
    if "image" in arguments:
        arguments["image"] = Image.fromarray(case.media[arguments["image"]][0])
    with making.numpy_noise(seed):
        return pipeline(**arguments, output_type="np").frames[0].astype(np.float32)


def record_request(pipeline: Any, case: Case) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Renders the first request and keeps what goes in and out of text encoder and transformer."""
    pieces: dict[str, np.ndarray] = {}
    steps: list[tuple[torch.Tensor, dict[str, Any]]] = []

    def text(result: Any, input_ids: torch.Tensor, **_: Any) -> None:
        which = "negative_prompt" if "text_encoder.prompt.input_ids" in pieces else "prompt"
        pieces[f"text_encoder.{which}.input_ids"] = making.numbers(input_ids)
        pieces[f"text_encoder.{which}.output"] = making.numbers(result[0])

    def positions(result: Any, *_: Any, **__: Any) -> None:
        pieces["transformer.rotary_cos"], pieces["transformer.rotary_sin"] = (
            making.numbers(table[0]) for table in result
        )

    with (
        making.recorded(pipeline.text_encoder, "forward", text),
        making.recorded(pipeline.transformer.rope, "forward", positions),
        making.recorded(
            pipeline.transformer, "forward", lambda result, **inputs: steps.append((result[0], inputs))
        ),
    ):
        frames = render(pipeline, case.requests[0], case)

    pieces |= making.first_and_last(
        steps, "hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask"
    )
    _, inputs = steps[0]
    pieces["transformer.size"] = np.array([inputs[key] for key in ("num_frames", "height", "width")])
    pieces["transformer.rope_interpolation_scale"] = np.array(inputs["rope_interpolation_scale"])
    return frames, pieces


@torch.no_grad()
def record_masked_text(pipeline: Any) -> dict[str, np.ndarray]:
    """Two prompts of different lengths whose padding is masked, as in other pipelines."""
    tokens = pipeline.tokenizer(
        [making.PROMPT, ""], padding="max_length", max_length=20, truncation=True, return_tensors="pt"
    )
    output = pipeline.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
    named = {"input_ids": tokens.input_ids, "mask": tokens.attention_mask, "output": output}
    return {f"text_encoder.masked.{key}": making.numbers(value) for key, value in named.items()}


@torch.no_grad()
def record_vae(vae: AutoencoderKLLTXVideo, seed: int) -> dict[str, np.ndarray]:
    """A batch of two and a single frame, decoded and encoded."""
    rng = np.random.Generator(np.random.PCG64(seed))
    pieces: dict[str, np.ndarray] = {}
    told = vae.config.timestep_conditioning
    for name, shape in (("two", (2, 6, 2, 1, 2)), ("one", (1, 6, 1, 3, 2))):
        latents = torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
        timestep = torch.tensor([0.05, 0.4][: shape[0]]) if told else None
        with making.numpy_noise(VAE_NOISE_SEED):
            video = vae.decode(latents, timestep).sample
        pieces[f"vae.decode_{name}.input"] = making.numbers(latents)
        pieces[f"vae.decode_{name}.output"] = making.numbers(video)
        if told:
            pieces[f"vae.decode_{name}.timestep"] = making.numbers(timestep)
    recorder = making.VaePieces(vae, seed)
    recorder.encode("encode_clip", 1, 9, 16, 32)
    recorder.encode("encode_image", 1, 1, 48, 16)
    return pieces | recorder.pieces


@torch.no_grad()
def record_tiles(vae: AutoencoderKLLTXVideo, seed: int) -> dict[str, np.ndarray]:
    """Tiles that overlap, the last ones cut short."""
    rng = np.random.Generator(np.random.PCG64(seed))
    sizes = {"min_height": 64, "min_width": 48, "stride_height": 48, "stride_width": 32}
    vae.enable_tiling(**{f"tile_sample_{name}": size for name, size in sizes.items()})
    latents = torch.from_numpy(rng.standard_normal((1, 6, 1, 5, 4)).astype(np.float32))
    video = torch.from_numpy(making.clip(seed, 1, 80, 64)[None].astype(np.float32) / 127.5 - 1)
    video = video.permute(0, 4, 1, 2, 3).contiguous()
    with making.numpy_noise(VAE_NOISE_SEED):
        frames = vae.decode(latents, torch.tensor([0.1])).sample
    distribution = vae.encode(video).latent_dist
    vae.disable_tiling()
    return {
        "vae.tile_sample": np.array(list(sizes.values())),
        "vae.tiled_decode.input": making.numbers(latents),
        "vae.tiled_decode.output": making.numbers(frames),
        "vae.tiled_encode.input": making.numbers(video),
        "vae.tiled_encode.mean": making.numbers(distribution.mean),
    }


def make(name: str, case: Case) -> None:
    folder = HERE / "ltx" / name
    shutil.rmtree(folder, ignore_errors=True)
    build(case, folder / "checkpoint")
    pipeline = PIPELINES[case.task].from_pretrained(folder / "checkpoint", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)

    frames, pieces = record_request(pipeline, case)
    videos = [frames, *(render(pipeline, request, case) for request in case.requests[1:])]
    pieces |= record_masked_text(pipeline) | record_vae(pipeline.vae, case.seed)
    if case.tiles:
        pieces |= record_tiles(pipeline.vae, case.seed)
    making.save_reference(
        folder,
        task=case.task,
        variant=None,
        requests=case.requests,
        videos=videos,
        pieces=pieces,
        media=case.media,
    )


if __name__ == "__main__":
    making.main(make, CASES)
