"""What `vidgen demo` renders: a manifest that ships with the package, and a checkpoint that it makes."""

from __future__ import annotations

import os
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from vidgen_dist.errors import Refused

CHECKPOINT_VERSION = 1
"""Part of the name of the checkpoint's folder; to be raised when `demo.tiny_checkpoint` changes."""


SAMPLING: dict[str, Any] = {
    "num_frames": 9,
    "height": 64,
    "width": 64,
    "num_inference_steps": 20,
    "guidance_scale": 4.0,
    # It was trained with so many; a model without a mask for text also sees what fills up a prompt.
    "max_sequence_length": 16,
}
"""How the checkpoint is used, by the demo and where it is measured."""


def cache_folder() -> Path:
    """Where the demo's checkpoint is kept: `vidgen` in `$XDG_CACHE_HOME`, or in `~/.cache`.

    For a user without a writable home it is a temporary folder.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "vidgen"
    home = os.path.expanduser("~")
    if os.access(home, os.W_OK | os.X_OK):
        return Path(home) / ".cache" / "vidgen"
    return Path(tempfile.gettempdir()) / f"vidgen-{os.getuid()}"


def manifest_path() -> Path:
    """The manifest that ships with the package."""
    return Path(str(resources.files("vidgen_dist.demo").joinpath("manifest.parquet")))


def checkpoint_path() -> Path:
    """The tiny checkpoint, made at the first call.

    Raises:
        Refused: The cache folder cannot be written to.
    """
    folder = cache_folder() / f"tiny-cogvideox-{CHECKPOINT_VERSION}"
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            # Loads MindSpore, which takes seconds and which nothing else in the driver needs.
            from vidgen_dist.demo.tiny_checkpoint import make_checkpoint

            make_checkpoint(folder)
        except OSError as error:
            raise Refused(
                f"{folder}: the demo's checkpoint cannot be kept there ({error.strerror or error}); "
                "set XDG_CACHE_HOME to another cache folder"
            ) from None
    return folder
