"""Published checkpoints as their configs alone, for plans."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from vidgen_dist.families.rules import load_rules
from vidgen_dist.planner.planned_run import PlannedRun, read_planned_run
from vidgen_dist.spec import RunSpec, spec_from_flags
from vidgen_dist.weights.checkpoint import Checkpoint
from vidgen_dist.weights.repository import ComponentRepository

_SHARED = {"in_channels": 16, "out_channels": 16, "text_embed_dim": 4096, "time_embed_dim": 512}

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "2b": {**_SHARED, "num_attention_heads": 30, "num_layers": 30},
    "5b": {
        **_SHARED,
        "num_attention_heads": 48,
        "num_layers": 42,
        "use_rotary_positional_embeddings": True,
    },
    "1.5-5b": {
        **_SHARED,
        "num_attention_heads": 48,
        "num_layers": 42,
        "use_rotary_positional_embeddings": True,
        "patch_size_t": 2,
        "patch_bias": False,
        "sample_height": 96,
        "sample_width": 170,
        "sample_frames": 81,
    },
}
_BESIDE_IMAGE = {"in_channels": 32, "use_learned_positional_embeddings": True}
TRANSFORMERS["5b-i2v"] = {**TRANSFORMERS["5b"], **_BESIDE_IMAGE}
TRANSFORMERS["1.5-5b-i2v"] = {**TRANSFORMERS["1.5-5b"], "in_channels": 32, "ofs_embed_dim": 512}

_T5_XXL = {
    "text_encoder": {
        "vocab_size": 32128,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
    },
    "tokenizer": {},
}

_OTHERS: dict[str, dict[str, Any]] = {
    "vae": {"block_out_channels": [128, 256, 256, 512], "layers_per_block": 3},
    **_T5_XXL,
    "scheduler": {},
}

_T5_INDEX = {
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
}

_INDEX = {
    "_class_name": "CogVideoXPipeline",
    "scheduler": ["diffusers", "CogVideoXDPMScheduler"],
    **_T5_INDEX,
    "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLCogVideoX"],
}

# What decoders from 0.9.1 on share.
_LTX_TOLD = {
    "decoder_block_out_channels": [256, 512, 1024],
    "decoder_spatio_temporal_scaling": [True] * 3,
    "timestep_conditioning": True,
    "upsample_factor": [2] * 3,
    "upsample_residual": [True] * 3,
}

LTX_VAES: dict[str, dict[str, Any]] = {
    "0.9.0": {
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": [4, 3, 3, 3, 4],
        "spatio_temporal_scaling": [True, True, True, False],
    },
    "0.9.1": {
        **_LTX_TOLD,
        "decoder_inject_noise": [True, True, True, False],
        "decoder_layers_per_block": [5, 6, 7, 8],
    },
    "0.9.8": {
        **_LTX_TOLD,
        "block_out_channels": [128, 256, 512, 1024, 2048],
        "decoder_inject_noise": [False] * 4,
        "decoder_layers_per_block": [5] * 4,
        "down_block_types": ["LTXVideo095DownBlock3D"] * 4,
        "downsample_type": ["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
        "layers_per_block": [4, 6, 6, 2, 2],
        "spatio_temporal_scaling": [True] * 4,
        "spatial_compression_ratio": 32,
        "temporal_compression_ratio": 8,
    },
}

_LTX_SCHEDULER = {
    "base_image_seq_len": 1024,
    "base_shift": 0.95,
    "max_image_seq_len": 4096,
    "max_shift": 2.05,
    "shift_terminal": 0.1,
    "use_dynamic_shifting": True,
}

_LTX_INDEX = {
    "_class_name": "LTXPipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    **_T5_INDEX,
    "transformer": ["diffusers", "LTXVideoTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLLTXVideo"],
}

HUNYUAN_VIDEO: dict[str, dict[str, Any]] = {
    "transformer": {"guidance_embeds": True, "rope_axes_dim": [16, 56, 56]},
    "vae": {},
    "text_encoder": {
        "vocab_size": 128320,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
    },
    "text_encoder_2": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "eos_token_id": 2,
    },
    "tokenizer": {},
    "tokenizer_2": {},
    "scheduler": {"shift": 7.0},
}

_HUNYUAN_VIDEO_INDEX = {
    "_class_name": "HunyuanVideoPipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "LlamaModel"],
    "text_encoder_2": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "LlamaTokenizerFast"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "transformer": ["diffusers", "HunyuanVideoTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLHunyuanVideo"],
}


_MOCHI: dict[str, dict[str, Any]] = {
    "transformer": {},
    "vae": {},
    **_T5_XXL,
    "scheduler": {"invert_sigmas": True},
}

_MOCHI_INDEX = {
    "_class_name": "MochiPipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    **_T5_INDEX,
    "transformer": ["diffusers", "MochiTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLMochi"],
}


CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "eos_token_id": 2,
}

_IMAGE_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}

_STABLE_DIFFUSION: dict[str, dict[str, Any]] = {
    "text_encoder": CLIP_L,
    "tokenizer": {},
    "unet": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "vae": _IMAGE_VAE,
    "scheduler": {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
    },
}

_STABLE_DIFFUSION_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


# OpenCLIP's ViT-H/14.
_CLIP_VISION = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "patch_size": 14,
    "projection_dim": 1024,
}

_STABLE_VIDEO_DIFFUSION: dict[str, dict[str, Any]] = {
    "feature_extractor": {},
    "image_encoder": _CLIP_VISION,
    "unet": {"num_frames": 25, "sample_size": 96},
    "vae": {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "layers_per_block": 2,
        "force_upcast": True,
        "sample_size": 768,
    },
    "scheduler": {
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "interpolation_type": "linear",
        "prediction_type": "v_prediction",
        "set_alpha_to_one": False,
        "sigma_max": 700.0,
        "sigma_min": 0.002,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "timestep_type": "continuous",
        "use_karras_sigmas": True,
    },
}

_STABLE_VIDEO_DIFFUSION_INDEX = {
    "_class_name": "StableVideoDiffusionPipeline",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
    "vae": ["diffusers", "AutoencoderKLTemporalDecoder"],
}

_I2VGEN_XL: dict[str, dict[str, Any]] = {
    "tokenizer": {},
    "text_encoder": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
        "eos_token_id": 2,
    },
    "image_encoder": _CLIP_VISION,
    "feature_extractor": {"crop_size": {"height": 224, "width": 224}},
    "unet": {"sample_size": 32},
    "vae": {**_IMAGE_VAE, "sample_size": 768},
    "scheduler": {
        "beta_schedule": "squaredcos_cap_v2",
        "clip_sample": False,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "steps_offset": 1,
    },
}

_I2VGEN_XL_INDEX = {
    "_class_name": "I2VGenXLPipeline",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "I2VGenXLUNet"],
    "vae": ["diffusers", "AutoencoderKL"],
}


NAMES = {
    "zai-org/CogVideoX-2b": "2b",
    "zai-org/CogVideoX-5b": "5b",
    "zai-org/CogVideoX-5b-I2V": "5b-i2v",
    "zai-org/CogVideoX1.5-5B": "1.5-5b",
    "zai-org/CogVideoX1.5-5B-I2V": "1.5-5b-i2v",
    "hunyuanvideo-community/HunyuanVideo": "hunyuan-video",
    "Lightricks/LTX-Video": "ltx-0.9.0",
    "a-r-r-o-w/LTX-Video-0.9.1-diffusers": "ltx-0.9.1",
    "Lightricks/LTX-Video-0.9.8-13B-distilled": "ltx-0.9.8",
    "genmo/mochi-1-preview": "mochi",
    "emilianJR/epiCRealism": "animatediff",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "animatediff",
    "stabilityai/stable-video-diffusion-img2vid": "stable-video-diffusion-14",
    "stabilityai/stable-video-diffusion-img2vid-xt": "stable-video-diffusion",
    "stabilityai/stable-video-diffusion-img2vid-xt-1-1": "stable-video-diffusion",
    "ali-vilab/i2vgen-xl": "i2vgen-xl",
}
"""`checkpoint`'s hub ids."""


def checkpoint(folder: Path, name: str) -> Checkpoint:
    """A published checkpoint of which only the configs are downloaded.

    Args:
        folder: The configs are written to it.
        name: One of `TRANSFORMERS`, or `ltx-` and one of `LTX_VAES`, or `hunyuan-video`, or `mochi`, or
            `stable-video-diffusion` (25 frames) or `stable-video-diffusion-14`, or `i2vgen-xl`; or
            `animatediff`, with the motion adapter v1-5-2.
    """
    if name == "stable-video-diffusion":
        return _written(folder, name, _STABLE_VIDEO_DIFFUSION_INDEX, _STABLE_VIDEO_DIFFUSION)
    if name == "stable-video-diffusion-14":
        shorter = {**_STABLE_VIDEO_DIFFUSION["unet"], "num_frames": 14}
        configs = {**_STABLE_VIDEO_DIFFUSION, "unet": shorter}
        return _written(folder, name, _STABLE_VIDEO_DIFFUSION_INDEX, configs)
    if name == "i2vgen-xl":
        return _written(folder, name, _I2VGEN_XL_INDEX, _I2VGEN_XL)
    if name == "animatediff":
        images = _written(folder, name, _STABLE_DIFFUSION_INDEX, _STABLE_DIFFUSION)
        adapter = folder / "motion_adapter"
        adapter.mkdir()
        (adapter / "config.json").write_text(json.dumps({"motion_mid_block_layers_per_block": 1}))
        single = ComponentRepository("adapter", "0" * 40, adapter, None, "MotionAdapter")
        return dataclasses.replace(images, separate={"motion_adapter": single})
    if name == "mochi":
        return _written(folder, name, _MOCHI_INDEX, _MOCHI)
    if name == "hunyuan-video":
        return _written(folder, name, _HUNYUAN_VIDEO_INDEX, HUNYUAN_VIDEO)
    if name.startswith("ltx-"):
        vae = LTX_VAES[name.removeprefix("ltx-")]
        return _written(
            folder, name, _LTX_INDEX, {"transformer": {}, "vae": vae, **_T5_XXL, "scheduler": _LTX_SCHEDULER}
        )
    return _written(folder, f"CogVideoX-{name}", _INDEX, {"transformer": TRANSFORMERS[name], **_OTHERS})


def _written(
    folder: Path, name: str, index: dict[str, Any], configs: dict[str, dict[str, Any]]
) -> Checkpoint:
    for component, config in configs.items():
        (folder / component).mkdir(parents=True)
        (folder / component / "config.json").write_text(json.dumps(config))
    return Checkpoint(name, "0" * 40, folder, None, index, tuple(configs))


def spec(**flags: Any) -> RunSpec:
    """A run; two underscores in a flag stand for the dot."""
    given = {key.replace("__", "."): value for key, value in flags.items()}
    return spec_from_flags({"model.id": "none", "manifest.uri": "none", "output.uri": "none", **given})


def run(folder: Path, name: str) -> PlannedRun:
    """A run of a published checkpoint on a 910B, with videos of the model's own size."""
    opened = checkpoint(folder, name)
    return read_planned_run(opened, load_rules(opened), spec(), "910B")
