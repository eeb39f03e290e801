"""What `vidgen demo` renders: a manifest that ships with the package, a checkpoint made on the spot."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path


def cache_folder() -> Path:
    """Where the demo's checkpoint is kept: `vidgen` in `$XDG_CACHE_HOME`, or in `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "vidgen" if base else Path.home() / ".cache" / "vidgen"


def manifest_path() -> Path:
    """The manifest that ships with the package."""
    return Path(str(resources.files("vidgen_dist.demo").joinpath("manifest.parquet")))


def checkpoint_path() -> Path:
    """The tiny checkpoint, made at the first call."""
    from vidgen_dist.demo.checkpoint import make_checkpoint

    return make_checkpoint(cache_folder())
