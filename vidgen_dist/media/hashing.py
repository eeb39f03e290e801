"""Digests of files that need not fit into memory."""

from __future__ import annotations

from typing import IO, Any

BLOCK = 2**24
"""Bytes read at a time: on an object store each read is a request."""


def update_digest(digest: Any, file: IO[bytes]) -> int:
    """Feed the rest of a file to a hash; returns the number of bytes."""
    size = 0
    while block := file.read(BLOCK):
        digest.update(block)
        size += len(block)
    return size
