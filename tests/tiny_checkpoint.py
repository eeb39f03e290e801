"""A tiny CogVideoX checkpoint with random weights, in the published folder layout.

Its videos mean nothing: it is for measurements of what is around a model. The same version of this file makes
the same checkpoint everywhere.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from safetensors.numpy import save_file

from vidgen_dist import nn
from vidgen_dist.families.loader import build_models
from vidgen_dist.spec import ModelOptions
from vidgen_dist.weights.checkpoint import Checkpoint

_D_MODEL = 32
_TEXT_LENGTH = 32

_CONFIGS: dict[str, dict[str, Any]] = {
    "transformer": {
        "_class_name": "CogVideoXTransformer3DModel",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": 16,
        "dropout": 0.0,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "max_text_seq_length": _TEXT_LENGTH,
        "norm_elementwise_affine": True,
        "norm_eps": 1e-05,
        "num_attention_heads": 4,
        "num_layers": 2,
        "out_channels": 4,
        "patch_size": 2,
        "sample_frames": 17,
        "sample_height": 16,
        "sample_width": 24,
        "spatial_interpolation_scale": 1.875,
        "temporal_compression_ratio": 4,
        "temporal_interpolation_scale": 1.0,
        "text_embed_dim": _D_MODEL,
        "time_embed_dim": 64,
        "timestep_activation_fn": "silu",
        "use_learned_positional_embeddings": False,
        "use_rotary_positional_embeddings": True,
    },
    "vae": {
        "_class_name": "AutoencoderKLCogVideoX",
        "act_fn": "silu",
        "block_out_channels": [8, 16, 16, 16],
        "down_block_types": ["CogVideoXDownBlock3D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "latents_mean": None,
        "latents_std": None,
        "layers_per_block": 1,
        "norm_eps": 1e-06,
        "norm_num_groups": 4,
        "out_channels": 3,
        "sample_height": 128,
        "sample_width": 192,
        "scaling_factor": 0.7,
        "temporal_compression_ratio": 4,
        "up_block_types": ["CogVideoXUpBlock3D"] * 4,
    },
    "text_encoder": {
        "architectures": ["T5EncoderModel"],
        "d_ff": 64,
        "d_kv": 8,
        "d_model": _D_MODEL,
        "dense_act_fn": "gelu_new",
        "feed_forward_proj": "gated-gelu",
        "is_gated_act": True,
        "layer_norm_epsilon": 1e-06,
        "model_type": "t5",
        "num_heads": 4,
        "num_layers": 2,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "vocab_size": 256,
    },
}

_SCHEDULER = {
    "_class_name": "CogVideoXDPMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "sample_max_value": 1.0,
    "set_alpha_to_one": True,
    "snr_shift_scale": 1.0,
    "steps_offset": 0,
    "timestep_spacing": "trailing",
    "trained_betas": None,
}

_MODEL_INDEX = {
    "_class_name": "CogVideoXPipeline",
    "_diffusers_version": "0.35.2",
    "scheduler": ["diffusers", "CogVideoXDPMScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLCogVideoX"],
}

_WEIGHT_FILES = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}

_CONTRAST = 0.2
"""Keeps most pixels between black and white."""

_CORPUS = """
a red fox runs over fresh snow at dawn
waves break on black sand under a low sun
a paper boat drifts down a rainy street
city lights blur behind a window of a night train
a hummingbird hovers before an orange flower
steam rises from a bowl of noodles on a wooden table
the quick brown fox jumps over the lazy dog, and 0123456789 more!
"""


def make_checkpoint(folder: Path, transformer: Mapping[str, Any] | None = None) -> None:
    """Make the checkpoint in a new folder.

    Args:
        folder: The folder.
        transformer: Keys of the transformer's config that differ.
    """
    folder.mkdir()
    nn.set_device("cpu")
    for component, config in _CONFIGS.items():
        (folder / component).mkdir()
        changes = transformer if component == "transformer" and transformer else {}
        _write_json(folder / component / "config.json", {**config, **changes})
    (folder / "scheduler").mkdir()
    _write_json(folder / "scheduler" / "scheduler_config.json", _SCHEDULER)
    _write_tokenizer(folder / "tokenizer")
    _write_json(folder / "model_index.json", _MODEL_INDEX)
    for component, model in build_models(_without_weights(folder), ModelOptions(id=str(folder))).items():
        weights = dict(_random_weights(component, model))
        save_file(weights, folder / component / _WEIGHT_FILES[component], metadata={"format": "pt"})


def _without_weights(folder: Path) -> Checkpoint:
    """The checkpoint as `open_checkpoint` would return it, if it did not refuse a folder without weights."""
    return Checkpoint(
        model=str(folder),
        revision=None,
        folder=folder,
        variant=None,
        model_index=_MODEL_INDEX,
        components=tuple(_CONFIGS),
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _random_weights(component: str, model: nn.Module) -> Iterator[tuple[str, np.ndarray]]:
    for key, parameter in nn.named_parameters(model).items():
        shape = tuple(parameter.shape)
        digest = hashlib.sha256(f"{component}/{key}".encode()).digest()
        noise = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little")))
        values = noise.standard_normal(shape)
        if len(shape) == 1:
            # Norm weights near 1, biases near 0: keys tell them apart, shapes do not.
            values = values * 0.1 + (1.0 if key.endswith("weight") else 0.0)
        else:
            values /= np.sqrt(np.prod(shape[1:]))
        if key == "decoder.conv_out.conv.weight":
            values *= _CONTRAST
        yield key, values.astype(np.float32)


def _write_tokenizer(folder: Path) -> None:
    folder.mkdir()
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_CORPUS.strip().splitlines()),
        model_writer=model,
        vocab_size=100,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    specials = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    _write_json(folder / "special_tokens_map.json", specials)
    _write_json(
        folder / "tokenizer_config.json",
        {
            **specials,
            "tokenizer_class": "T5Tokenizer",
            "extra_ids": 0,
            "legacy": True,
            "model_max_length": _TEXT_LENGTH,
        },
    )
