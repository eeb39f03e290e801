"""Digests of files that need not fit into memory."""

from __future__ import annotations

from typing import IO, Any

BLOCK = 2**24
"""Bytes asked for at a time: on an object store each is a request."""


def update_digest(digest: Any, file: IO[bytes]) -> int:
    """Give a hash all that is left of a file; how many bytes that was."""
    size = 0
    while block := file.read(BLOCK):
        digest.update(block)
        size += len(block)
    return size
