"""Checkpoints and weight files as publishers lay them out, for the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save, save_file

MODEL_INDEX: dict[str, Any] = {
    "_class_name": "CogVideoXPipeline",
    "_diffusers_version": "0.35.2",
    "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "scheduler": ["diffusers", "CogVideoXDDIMScheduler"],
    "safety_checker": [None, None],
    "requires_safety_checker": False,
}


def write_sharded(
    folder: Path,
    shards: list[dict[str, np.ndarray]],
    *,
    stem: str = "model",
    variant: str | None = None,
) -> Path:
    """Write the shards and their index, named as diffusers and transformers name them; returns the index."""
    infix = f".{variant}" if variant else ""
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, start=1):
        name = f"{stem}{infix}-{number:05}-of-{len(shards):05}.safetensors"
        save_file(tensors, folder / name)
        weight_map |= dict.fromkeys(tensors, name)
    index = folder / f"{stem}.safetensors.index{infix}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return index


def checkpoint_files() -> dict[str, bytes]:
    """A checkpoint's files by name: plain and fp16 weights, and many other files that publishers add.

    The transformer has both variants, sharded when plain; the text encoder is plain only.
    """
    first, second = save({"a": np.zeros(3, np.float32)}), save({"b": np.ones((2, 2), np.float32)})
    shards = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    both = {"a": np.zeros(3, np.float16), "b": np.ones((2, 2), np.float16)}
    return {
        "model_index.json": _json(MODEL_INDEX),
        "transformer/config.json": _json({"num_layers": 2}),
        "transformer/diffusion_pytorch_model.safetensors.index.json": _json(
            {"metadata": {}, "weight_map": {"a": shards[0], "b": shards[1]}}
        ),
        f"transformer/{shards[0]}": first,
        f"transformer/{shards[1]}": second,
        "transformer/diffusion_pytorch_model.fp16.safetensors": save(both),
        "text_encoder/config.json": _json({"d_model": 8}),
        "text_encoder/model.safetensors": save({"shared.weight": np.zeros((4, 8), np.float32)}),
        "tokenizer/tokenizer_config.json": _json({"tokenizer_class": "T5Tokenizer"}),
        "tokenizer/spiece.model": b"\0vocabulary",
        "scheduler/scheduler_config.json": _json({"beta_schedule": "scaled_linear"}),
    } | dict.fromkeys(NOT_NEEDED, b"not read")


NOT_NEEDED = (
    "README.md",
    ".gitattributes",
    "sample.mp4",
    "original.safetensors",
    "transformer/diffusion_pytorch_model.bin",
    "transformer/diffusion_pytorch_model.bin.index.json",
    "text_encoder/pytorch_model.fp16.bin",
    "text_encoder/flax_model.msgpack",
    "text_encoder/model.onnx",
    "safety_checker/model.safetensors",
    "vae_decoder/model.onnx",
)
"""The files of `checkpoint_files` that are not read."""


def write_checkpoint(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    for name, data in (checkpoint_files() if files is None else files).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode()
