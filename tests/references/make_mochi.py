"""Makes the Mochi references: tiny random checkpoints, and diffusers' frames for them.

    python tests/references/make_mochi.py [case ...]

Needs torch, diffusers, transformers 4, sentencepiece (README.md names the versions). Every config has
the keys and, except for its sizes, the values of the published checkpoint; `odd` has others.
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
    AutoencoderKLMochi,
    FlowMatchEulerDiscreteScheduler,
    MochiPipeline,
    MochiTransformer3DModel,
)
from transformers import T5Tokenizer, T5TokenizerFast

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import making  # noqa: E402

TRANSFORMER = {
    "patch_size": 2,
    # Three heads: no power of two divides them.
    "num_attention_heads": 3,
    "attention_head_dim": 16,
    "num_layers": 3,
    "pooled_projection_dim": 20,
    "in_channels": 12,
    "out_channels": None,
    "qk_norm": "rms_norm",
    "text_embed_dim": 32,
    "time_embed_dim": 16,
    "activation_fn": "swiglu",
    "max_sequence_length": 256,
}
# Norms have 32 groups, for any width.
VAE = {
    "encoder_block_out_channels": (32, 32, 64, 32),
    "decoder_block_out_channels": (32, 32, 64, 32),
    "layers_per_block": (1, 1, 0, 1, 1),
}
SCHEDULER = {"invert_sigmas": True}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One checkpoint and its requests.

    `save` are arguments of `save_pretrained`.
    """

    seed: int
    requests: list[dict[str, Any]]
    transformer: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any] = field(default_factory=lambda: VAE)
    scheduler: dict[str, Any] = field(default_factory=lambda: SCHEDULER)
    tokenizer: type = T5Tokenizer
    zeros_for_empty_prompt: bool = False
    tiles: bool = False
    save: dict[str, Any] = field(default_factory=dict)


CASES = {
    "t2v": Case(
        seed=700,
        tiles=True,
        save={"variant": "bf16"},
        requests=[
            {
                # 8 frames become 7.
                "prompt": making.PROMPT,
                "negative_prompt": "blurry, low quality",
                "height": 32,
                "width": 48,
                "num_frames": 8,
                "num_inference_steps": 5,
                "max_sequence_length": 40,
                "seed": 7,
            },
            {
                # An empty negative prompt, which is only the end token; 256 tokens of text; an odd number of
                # steps.
                "prompt": "Waves roll over a quiet beach. <pad> Ein Zug im Regen — 雨",
                "height": 16,
                "width": 32,
                "num_frames": 13,
                "num_inference_steps": 3,
                "guidance_scale": 6.5,
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
    "odd": Case(
        seed=701,
        tokenizer=T5TokenizerFast,
        zeros_for_empty_prompt=True,
        transformer={
            "num_attention_heads": 5,
            "attention_head_dim": 10,
            "out_channels": 12,
            "num_layers": 2,
            "pooled_projection_dim": 17,
            "activation_fn": "geglu",
        },
        # Convolutions over four rows and columns, which overlap; an encoder with attention in its first
        # block.
        vae={
            "encoder_block_out_channels": (32, 32, 64),
            "decoder_block_out_channels": (32, 32, 32),
            "layers_per_block": (1, 1, 0, 1),
            "temporal_expansions": (3, 2),
            "spatial_expansions": (4, 2),
            "add_attention_block": (True, False, True, True),
            "latents_mean": None,
            "latents_std": None,
            "scaling_factor": 0.8,
        },
        scheduler={"invert_sigmas": True, "shift": 1.5},
        save={"max_shard_size": "200KB"},
        requests=[
            {
                "prompt": making.PROMPT,
                "height": 48,
                "width": 16,
                "num_frames": 7,
                "num_inference_steps": 4,
                "max_sequence_length": 24,
                "seed": 7,
            },
            {
                "prompt": "",
                "negative_prompt": "watermark",
                "height": 16,
                "width": 32,
                "num_frames": 7,
                "num_inference_steps": 3,
                "max_sequence_length": 24,
                "seed": 8,
            },
        ],
    ),
}


def build(case: Case, folder: Path) -> None:
    """Writes the case's checkpoint, with its last linear map scaled so that few pixels are clipped."""
    folder.mkdir(parents=True)
    tokenizer = making.t5_tokenizer(case.tokenizer, legacy=True, model_max_length=256)

    torch.manual_seed(case.seed)
    text_encoder = making.t5_encoder(tokenizer)
    transformer = MochiTransformer3DModel(**{**TRANSFORMER, **case.transformer})
    vae = AutoencoderKLMochi(**case.vae)
    for offset, module in enumerate((text_encoder, transformer, vae)):
        making.randomise(module, 1000 * case.seed + offset)
    # As they are saved; otherwise the last one's scale would be another's.
    for module in (text_encoder, transformer, vae):
        module.to(torch.bfloat16).to(torch.float32)

    pipeline = MochiPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(**case.scheduler),
        force_zeros_for_empty_prompt=case.zeros_for_empty_prompt,
    )
    pipeline.set_progress_bar_config(disable=True)
    decoded: list[torch.Tensor] = []
    with making.recorded(vae, "decode", lambda result, *_, **__: decoded.append(result[0])):
        for request in case.requests:
            render(pipeline, request)
    level = torch.cat([video.flatten(2) for video in decoded], dim=2)
    last = vae.decoder.proj_out
    with torch.no_grad():
        gain = 0.45 / level.std()
        last.weight *= gain
        last.bias.copy_((last.bias - level.mean((0, 2))) * gain + 0.05 * torch.randn(len(last.bias)))

    pipeline.to(torch.bfloat16)
    pipeline.save_pretrained(folder, safe_serialization=True, **case.save)


def render(pipeline: MochiPipeline, request: dict[str, Any]) -> np.ndarray:
    """Frames (F, H, W, 3), float32 in [0, 1], with the noise of the request's seed."""
    arguments = dict(request)
    with making.numpy_noise(arguments.pop("seed")):
        return pipeline(**arguments, output_type="np").frames[0].astype(np.float32)


def record_request(
    pipeline: MochiPipeline, request: dict[str, Any]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Renders a request and keeps the inputs and outputs of each model."""
    pieces: dict[str, np.ndarray] = {}
    steps: list[tuple[torch.Tensor, dict[str, Any]]] = []

    def text(result: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> None:
        which = "negative_prompt" if "text_encoder.prompt.input_ids" in pieces else "prompt"
        pieces[f"text_encoder.{which}.input_ids"] = making.numbers(input_ids)
        pieces[f"text_encoder.{which}.attention_mask"] = making.numbers(attention_mask)
        pieces[f"text_encoder.{which}.output"] = making.numbers(result[0])

    def positions(result: Any, *_: Any, **__: Any) -> None:
        pieces["transformer.rotary_cos"], pieces["transformer.rotary_sin"] = map(making.numbers, result)

    def decode(result: Any, latents: torch.Tensor, **_: Any) -> None:
        pieces["vae.decode.input"] = making.numbers(latents)
        pieces["vae.decode.output"] = making.numbers(result[0])

    with (
        making.recorded(pipeline.text_encoder, "forward", text),
        making.recorded(pipeline.transformer.rope, "forward", positions),
        making.recorded(pipeline.vae, "decode", decode),
        making.recorded(
            pipeline.transformer, "forward", lambda result, **inputs: steps.append((result[0], inputs))
        ),
    ):
        frames = render(pipeline, request)

    pieces |= making.first_and_last(
        steps, "hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask"
    )
    return frames, pieces


def record_vae(vae: AutoencoderKLMochi, seed: int, tiles: bool) -> dict[str, np.ndarray]:
    """A batch of two and a single frame, decoded and encoded; and, if requested, blended tiles."""
    recorder = making.VaePieces(vae, seed)
    recorder.decode("decode_two", 2, 12, 2, 1, 2)
    recorder.decode("decode_one", 1, 12, 1, 3, 2)
    recorder.encode("encode_clip", 1, 8, 16, 24)
    recorder.encode("encode_image", 1, 1, 24, 16)
    if tiles:
        vae.enable_tiling(
            tile_sample_min_height=32,
            tile_sample_min_width=24,
            tile_sample_stride_height=24,
            tile_sample_stride_width=16,
        )
        recorder.decode("tiled_decode", 1, 12, 1, 5, 4)
        recorder.encode("tiled_encode", 1, 7, 40, 32)
        vae.disable_tiling()
    return recorder.pieces


def make(name: str, case: Case) -> None:
    folder = HERE / "mochi" / name
    shutil.rmtree(folder, ignore_errors=True)
    build(case, folder / "checkpoint")
    pipeline = MochiPipeline.from_pretrained(
        folder / "checkpoint", torch_dtype=torch.float32, variant=case.save.get("variant")
    )
    pipeline.set_progress_bar_config(disable=True)

    frames, pieces = record_request(pipeline, case.requests[0])
    videos = [frames, *(render(pipeline, request) for request in case.requests[1:])]
    pieces |= record_vae(pipeline.vae, case.seed, case.tiles)
    making.save_reference(
        folder,
        task="text-to-video",
        variant=case.save.get("variant"),
        requests=case.requests,
        videos=videos,
        pieces=pieces,
        media={},
    )


if __name__ == "__main__":
    making.main(make, CASES)
