"""Makes the AnimateDiff references: tiny random checkpoints and motion adapters, and what diffusers renders.

    python tests/references/make_animatediff.py [case ...]

Needs torch, diffusers, transformers 4 (README.md names the versions). Configs have the keys and, except
their sizes and what a case is for, the values of a Stable Diffusion 1.5 checkpoint and of the adapters
guoyww/animatediff-motion-adapter-v1-5-2 (with a middle) and -v1-5 (without).
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    MotionAdapter,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.numpy import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import making  # noqa: E402

UNET = {
    "sample_size": 8,
    # At least two channels per group: normalising a single channel would cancel its bias unseen.
    "block_out_channels": (8, 16, 24),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 20,
    # The number of heads, as in all checkpoints of Stable Diffusion 1.
    "attention_head_dim": 2,
}
ADAPTER = {
    "block_out_channels": (8, 16, 24),
    "motion_layers_per_block": 1,
    "motion_num_attention_heads": 4,
    "motion_norm_num_groups": 4,
    "motion_max_seq_length": 16,
    "use_motion_mid_block": True,
}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (4, 8, 8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "sample_size": 64,
}
TEXT = {
    "hidden_size": 20,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "hidden_act": "quick_gelu",
    "bos_token_id": 0,
    "eos_token_id": 2,
}
# As Stable Diffusion 1.5 has it.
PNDM = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
# As the guide has it.
DDIM = {
    "_class_name": "DDIMScheduler",
    "clip_sample": False,
    "timestep_spacing": "linspace",
    "beta_schedule": "linear",
    "steps_offset": 1,
}
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One checkpoint, an adapter for it, and the requests that are rendered with them.

    Args:
        of: Name of the case whose checkpoint and adapter are used; by default its own.
        scheduler: Changes to the checkpoint's scheduler config.
        whole: Whether the checkpoint contains its motion modules, as AnimateDiffPipeline saves it.
        checker: Whether it lists a safety checker, whose weights are unreadable.
        old_names: Whether the VAE's attention has the names of older releases.
    """

    seed: int = 0
    requests: list[dict[str, Any]]
    of: str | None = None
    scheduler: dict[str, Any] = field(default_factory=dict)
    shipped: dict[str, Any] = field(default_factory=lambda: PNDM)
    unet: dict[str, Any] = field(default_factory=dict)
    adapter: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    save: dict[str, Any] = field(default_factory=dict)
    whole: bool = False
    checker: bool = False
    old_names: bool = False


CASES = {
    # The guide's example: PNDM in the checkpoint, replaced by DDIM.
    "v1-5-2": Case(
        seed=131,
        scheduler=DDIM,
        checker=True,
        old_names=True,
        requests=[
            {
                # Five rows of latents: levels have sizes that are not halves of each other.
                "prompt": making.PROMPT,
                "negative_prompt": "bad quality, worse quality, low resolution",
                "height": 40,
                "width": 64,
                "num_frames": 5,
                "num_inference_steps": 4,
                "seed": 49,
            },
            {
                # An earlier layer for the prompt only, noise added again, chunks that do not divide the
                # frames.
                "prompt": "Ein Zug im Regen — 雨",
                "negative_prompt": "blurry",
                "height": 56,
                "width": 40,
                "num_frames": 3,
                "num_inference_steps": 3,
                "guidance_scale": 3.5,
                "clip_skip": 1,
                "eta": 0.6,
                "decode_chunk_size": 2,
                "seed": 2**62 + 11,
            },
            {
                # No guidance, a prompt that is cut, one frame, the size that the config says.
                "prompt": " ".join(making.SENTENCES),
                "num_frames": 1,
                "num_inference_steps": 2,
                "guidance_scale": 1.0,
                "seed": 0,
            },
        ],
    ),
    # The checkpoint's own scheduler: one prediction more than steps.
    "pndm": Case(
        of="v1-5-2",
        requests=[
            {
                "prompt": making.PROMPT,
                "height": 32,
                "width": 24,
                "num_frames": 4,
                "num_inference_steps": 5,
                "guidance_scale": 5.0,
                "seed": 3,
            }
        ],
    ),
    "lcm": Case(
        of="v1-5-2",
        scheduler={"_class_name": "LCMScheduler", "beta_schedule": "linear"},
        requests=[
            {
                "prompt": making.PROMPT,
                "height": 32,
                "width": 24,
                "num_frames": 4,
                "num_inference_steps": 4,
                "guidance_scale": 2.0,
                "seed": 4,
            }
        ],
    ),
    # An adapter without a middle; linear projections, heads per block, two layers; attention in the last
    # blocks only.
    "v1-4": Case(
        seed=132,
        scheduler={"_class_name": "EulerDiscreteScheduler", "beta_schedule": "linear"},
        unet={
            "block_out_channels": (8, 16),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 2,
            "attention_head_dim": (2, 4),
            "cross_attention_dim": 18,
            "use_linear_projection": True,
            "transformer_layers_per_block": (1, 2),
            "act_fn": "gelu",
            "time_cond_proj_dim": 6,
        },
        adapter={
            "block_out_channels": (8, 16),
            "motion_layers_per_block": 2,
            "motion_num_attention_heads": 2,
            "motion_max_seq_length": 24,
            "motion_transformer_layers_per_block": (2, 1),
            "use_motion_mid_block": False,
        },
        # A quarter of the size, not an eighth.
        vae={
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "block_out_channels": (4, 6, 8),
            "scaling_factor": 0.25,
        },
        text={"hidden_size": 18, "num_attention_heads": 3, "hidden_act": "gelu"},
        dtype=torch.float16,
        save={"variant": "fp16"},
        requests=[
            {
                "prompt": "A street musician",
                "negative_prompt": "not used",
                "height": 24,
                "width": 40,
                "num_frames": 7,
                "num_inference_steps": 3,
                "guidance_scale": 1.0,
                "seed": 9,
            },
            {
                "prompt": "",
                "height": 32,
                "width": 16,
                "num_frames": 2,
                "num_inference_steps": 2,
                "guidance_scale": 6.0,
                "seed": 10,
            },
        ],
    ),
    # As AnimateDiffPipeline saves it.
    "whole": Case(
        seed=133,
        whole=True,
        shipped=DDIM,
        scheduler={
            "_class_name": "DPMSolverMultistepScheduler",
            "algorithm_type": "dpmsolver++",
            "use_karras_sigmas": True,
        },
        unet={
            "block_out_channels": (8, 8),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "mid_block_scale_factor": 1.5,
        },
        adapter={"block_out_channels": (8, 8), "motion_transformer_layers_per_mid_block": 2},
        requests=[
            {
                "prompt": making.PROMPT,
                "negative_prompt": "watermark",
                "height": 32,
                "width": 32,
                "num_frames": 3,
                "num_inference_steps": 4,
                "seed": 12,
            }
        ],
    ),
}


def build(case: Case, folder: Path) -> None:
    """Writes the case's checkpoint and adapter, its last convolution scaled to clip few pixels."""
    folder.mkdir(parents=True)
    tokenizer = making.clip_tokenizer()
    torch.manual_seed(case.seed)
    text_encoder = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), **{**TEXT, **case.text}))
    unet = UNet2DConditionModel(**{**UNET, **case.unet})
    adapter = MotionAdapter(**{**ADAPTER, **case.adapter})
    vae = AutoencoderKL(**{**VAE, **case.vae})
    for offset, module in enumerate((text_encoder, unet, adapter, vae)):
        making.randomise(module, 1000 * case.seed + offset)
        # The position table is not a parameter, and the checkpoint's table is used.
        for name, buffer in module.named_buffers():
            if name.endswith(".pe"):
                buffer.add_(0.3 * torch.randn(buffer.shape))
    components = {
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "scheduler": scheduler_of(case.shipped),
    }
    pipeline = AnimateDiffPipeline(**components, unet=unet, motion_adapter=adapter)
    pipeline.scheduler = scheduler_of(case.shipped, case.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    decoded: list[torch.Tensor] = []
    with making.recorded(vae, "decode", lambda result, *_, **__: decoded.append(result.sample)):
        for request in case.requests:
            render(pipeline, request)
    level = torch.cat([video.transpose(0, 1).flatten(1) for video in decoded], dim=1)
    conv_out = vae.decoder.conv_out
    with torch.no_grad():
        gain = 0.45 / level.std()
        conv_out.weight *= gain
        conv_out.bias.copy_((conv_out.bias - level.mean(1)) * gain + 0.05 * torch.randn(3))

    if case.whole:
        pipeline.scheduler = components["scheduler"]
        pipeline.to(case.dtype).save_pretrained(folder / "checkpoint", **case.save)
        return
    images = StableDiffusionPipeline(
        **components, unet=unet, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    images.to(case.dtype).save_pretrained(folder / "checkpoint", **case.save)
    adapter.to(case.dtype).save_pretrained(folder / "adapter", **case.save)
    if case.checker:
        add_checker(folder / "checkpoint")
    if case.old_names:
        rename_attention(folder / "checkpoint" / "vae" / "diffusion_pytorch_model.safetensors")


def scheduler_of(*configs: dict[str, Any]) -> Any:
    """The scheduler of the last class that is named, with keys over the earlier ones."""
    scheduler: Any = None
    for config in configs:
        if config:
            kind = getattr(diffusers, config["_class_name"])
            scheduler = kind.from_config({} if scheduler is None else scheduler.config, **_keys(config))
    return scheduler


def _keys(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "_class_name"}


def add_checker(checkpoint: Path) -> None:
    """Lists a safety checker and its image processor, as Stable Diffusion 1.5 does."""
    index = json.loads((checkpoint / "model_index.json").read_text(encoding="utf-8"))
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    making.write_json(checkpoint / "model_index.json", index)
    for name in ("safety_checker", "feature_extractor"):
        (checkpoint / name).mkdir()
    making.write_json(checkpoint / "safety_checker" / "config.json", {"architectures": ["nobody reads it"]})
    (checkpoint / "safety_checker" / "pytorch_model.bin").write_bytes(b"\x80nobody reads it")
    making.write_json(checkpoint / "feature_extractor" / "preprocessor_config.json", {"crop_size": 224})


def rename_attention(weights: Path) -> None:
    """Gives the attention's weights the names that older releases used."""
    renamed = {}
    for key, value in load_file(weights).items():
        if ".attentions." in key:
            for new, old in OLD_NAMES.items():
                key = key.replace(f".{new}.", f".{old}.")
        renamed[key] = value
    save_file(renamed, weights, metadata={"format": "pt"})


def render(pipeline: Any, request: dict[str, Any]) -> np.ndarray:
    """Frames (F, H, W, 3), float32 in [0, 1], with the noise of the request's seed."""
    arguments = dict(request)
    with making.numpy_noise(arguments.pop("seed")):
        return pipeline(**arguments, output_type="np").frames[0].astype(np.float32)


def load(case: Case, folder: Path) -> Any:
    """The pipeline as a user loads it."""
    variant = case.save.get("variant")
    parts: dict[str, Any] = {}
    if not case.whole:
        parts["motion_adapter"] = MotionAdapter.from_pretrained(
            folder / "adapter", variant=variant, torch_dtype=torch.float32
        )
    pipeline = AnimateDiffPipeline.from_pretrained(
        folder / "checkpoint", torch_dtype=torch.float32, variant=variant, **parts
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def put_over(pipeline: Any, folder: Path, override: dict[str, Any]) -> None:
    """Replaces the scheduler as the guide does: another class, read from the checkpoint's config."""
    if override:
        kind = getattr(diffusers, override["_class_name"])
        pipeline.scheduler = kind.from_pretrained(
            folder / "checkpoint", subfolder="scheduler", **_keys(override)
        )


def record_request(pipeline: Any, request: dict[str, Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Renders a request and keeps the inputs and outputs of each model."""
    pieces: dict[str, np.ndarray] = {}
    steps: list[tuple[torch.Tensor, dict[str, Any]]] = []

    def text(result: Any, input_ids: torch.Tensor, **_: Any) -> None:
        which = "negative_prompt" if "text_encoder.prompt.input_ids" in pieces else "prompt"
        pieces[f"text_encoder.{which}.input_ids"] = making.numbers(input_ids)
        pieces[f"text_encoder.{which}.output"] = making.numbers(result[0])

    def step(result: Any, sample: torch.Tensor, timestep: torch.Tensor, **inputs: Any) -> None:
        # Frames of a sample attend to the same prompt.
        text = inputs["encoder_hidden_states"][:: sample.shape[2]]
        told = {"sample": sample, "timestep": timestep, "encoder_hidden_states": text}
        steps.append((result.sample, told))

    def decode(result: Any, latents: torch.Tensor, **_: Any) -> None:
        pieces["vae.decode.input"] = making.numbers(latents)
        pieces["vae.decode.output"] = making.numbers(result.sample)

    with (
        making.recorded(pipeline.text_encoder, "forward", text),
        making.recorded(pipeline.unet, "forward", step),
        making.recorded(pipeline.vae, "decode", decode),
    ):
        frames = render(pipeline, request)
    inputs = ("sample", "timestep", "encoder_hidden_states")
    return frames, pieces | making.first_and_last(steps, *inputs, model="unet")


def make(name: str, case: Case) -> None:
    folder = HERE / "animatediff" / name
    shutil.rmtree(folder, ignore_errors=True)
    of = case if case.of is None else CASES[case.of]
    files = folder if case.of is None else HERE / "animatediff" / case.of
    if case.of is None:
        build(case, folder)
    folder.mkdir(exist_ok=True)
    pipeline = load(of, files)
    put_over(pipeline, files, case.scheduler)
    with torch.no_grad():
        frames, pieces = record_request(pipeline, case.requests[0])
        videos = [frames, *(render(pipeline, request) for request in case.requests[1:])]
    options: dict[str, Any] = {} if of.whole else {"adapter": f"../{files.name}/adapter"}
    making.save_reference(
        folder,
        task="text-to-video",
        variant=of.save.get("variant"),
        requests=case.requests,
        videos=videos,
        pieces=pieces,
        media={},
        checkpoint=f"../{files.name}/checkpoint",
        options=options | ({"scheduler": case.scheduler} if case.scheduler else {}),
        further_predictions=len(pipeline.scheduler.timesteps) - case.requests[-1]["num_inference_steps"],
    )


if __name__ == "__main__":
    making.main(make, CASES)
