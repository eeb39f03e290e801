"""Weight files as publishers lay them out, for the tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write_sharded(
    folder: Path,
    shards: list[dict[str, np.ndarray]],
    *,
    stem: str = "model",
    variant: str | None = None,
) -> Path:
    """Write the shards and their index, named as diffusers and transformers name them; returns the index."""
    infix = f".{variant}" if variant else ""
    weight_map = {}
    for number, tensors in enumerate(shards, start=1):
        name = f"{stem}{infix}-{number:05}-of-{len(shards):05}.safetensors"
        save_file(tensors, folder / name)
        weight_map |= dict.fromkeys(tensors, name)
    index = folder / f"{stem}.safetensors.index{infix}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return index
