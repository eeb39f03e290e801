"""Checkpoints as published, their configs alone: what a plan is made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vidgen_dist.pipelines.rules import load_rules
from vidgen_dist.sizing.checkpoints import Job, read_job
from vidgen_dist.spec import RunSpec, spec_from_flags
from vidgen_dist.weights.checkpoint import Checkpoint

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

_OTHERS: dict[str, dict[str, Any]] = {
    "vae": {"block_out_channels": [128, 256, 256, 512], "layers_per_block": 3},
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
    "scheduler": {},
}

_INDEX = {
    "_class_name": "CogVideoXPipeline",
    "scheduler": ["diffusers", "CogVideoXDPMScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLCogVideoX"],
}


def checkpoint(folder: Path, name: str) -> Checkpoint:
    """A published checkpoint of which only the configs were downloaded."""
    configs = {"transformer": TRANSFORMERS[name], **_OTHERS}
    for component, config in configs.items():
        (folder / component).mkdir(parents=True)
        (folder / component / "config.json").write_text(json.dumps(config))
    return Checkpoint(f"CogVideoX-{name}", "0" * 40, folder, None, _INDEX, tuple(configs))


def spec(**flags: Any) -> RunSpec:
    """A run; flags with two underscores for the dot."""
    given = {key.replace("__", "."): value for key, value in flags.items()}
    return spec_from_flags({"model.id": "none", "manifest.uri": "none", "output.uri": "none", **given})


def job(folder: Path, name: str) -> Job:
    """A run of a published checkpoint on a 910B, its videos the model's own."""
    opened = checkpoint(folder, name)
    return read_job(opened, load_rules(opened), spec(), "910B")
