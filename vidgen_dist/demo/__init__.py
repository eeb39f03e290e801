"""What `vidgen demo` renders: a manifest and a checkpoint that ship with the package.

`tests/demo_model/` has what made them: the checkpoint's training, its data, and how it is measured.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

SAMPLING: dict[str, Any] = {
    "num_frames": 9,
    "height": 64,
    "width": 64,
    "num_inference_steps": 6,
    "guidance_scale": 4.0,
    # It was trained with so many; a model without a mask for text also sees what fills up a prompt.
    "max_sequence_length": 16,
}
"""How the checkpoint is used, by the demo and where it is measured."""


def manifest_path() -> Path:
    """The manifest."""
    return _shipped("manifest.parquet")


def checkpoint_path() -> Path:
    """The checkpoint's folder, in the published layout; nothing is ever written there."""
    return _shipped("model")


def _shipped(name: str) -> Path:
    return Path(str(resources.files("vidgen_dist.demo").joinpath(name)))
