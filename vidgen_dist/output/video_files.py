"""Copies of a video's files on this machine, wherever they are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from vidgen_dist.media.hashing import update_digest
from vidgen_dist.output_layout import VIDEOS_FOLDER
from vidgen_dist.storage.files import fetch
from vidgen_dist.storage.uris import is_local


def fetch_video(uris: Sequence[str], folder: Path) -> tuple[list[Path], str]:
    """Copy a video's files into a folder; files on this machine are linked instead.

    Args:
        uris: The file, or the frames in their order.
        folder: An empty folder.

    Returns:
        The files, and the SHA-256 of their concatenated content, as in the ledger.

    Raises:
        FileNotFoundError: A file is missing.
        OSError: The storage failed.
    """
    digest = hashlib.sha256()
    files = []
    for uri in uris:
        local = folder / uri.rpartition("/")[2]
        if is_local(uri):
            local.symlink_to(uri)
        else:
            fetch(uri, local)
        with local.open("rb") as file:
            update_digest(digest, file)
        files.append(local)
    return files, digest.hexdigest()


def path_in_output(uri: str) -> str:
    """A video's path in its output, which may have been moved since."""
    return f"{VIDEOS_FOLDER}/{uri.rpartition(f'/{VIDEOS_FOLDER}/')[2]}"
