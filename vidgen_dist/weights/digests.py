"""Digests of the files that make up a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from vidgen_dist.weights.checkpoint_files import unreadable


def digest_of(parts: Mapping[str, str]) -> str:
    """SHA-256, as hex, of the parts' names and contents."""
    lines = "".join(f"{name}\0{value}\n" for name, value in sorted(parts.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256, as hex, of a file's content.

    Raises:
        Refused: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error
