"""A copy of the manifest in the output, for a manifest that will not stay where it is."""

from __future__ import annotations

import hashlib
from itertools import takewhile

from vidgen_dist.errors import Refused
from vidgen_dist.manifest import Manifest
from vidgen_dist.output_layout import MANIFEST_FOLDER
from vidgen_dist.storage.files import open_input
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.uris import redact

_PIECE_BYTES = 2**20


def keep_manifest(output: Storage, manifest: Manifest) -> str:
    """Copy a manifest's files into the output and return the copy's URI.

    The copy is named by the content: it is complete when each of its files is there, and the same manifest,
    kept again, is written no second time. A driver that dies half way leaves files for the next one.

    Args:
        output: The run's output.
        manifest: The run's manifest.

    Raises:
        Refused: The manifest cannot be read, or the output cannot be written to.
    """
    names = names_in_copy([file.uri for file in manifest.files])
    try:
        folder = f"{MANIFEST_FOLDER}/{_digest(names)}"
        there = output.sizes(folder)
        for name, uri in names.items():
            # Files are moved into place when they are whole: one that is there is not a torn one.
            if f"{folder}/{name}" not in there:
                output.copy_file(uri, f"{folder}/{name}")
    except OSError as error:
        raise Refused(f"{redact(manifest.uri)}: cannot be kept in {redact(output.root)}: {error}") from None
    return output.uri(f"{folder}/{next(iter(names))}" if len(names) == 1 else folder)


def names_in_copy(uris: list[str]) -> dict[str, str]:
    """Names of a manifest's files in a copy of it -> their URIs, in the manifest's order.

    Args:
        uris: The files, sorted.
    """
    folders = [uri.split("/")[:-1] for uri in (uris[0], uris[-1])]
    depth = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*folders, strict=False)))
    return {"/".join(uri.split("/")[depth:]): uri for uri in uris}


def _digest(names: dict[str, str]) -> str:
    """32 hex digits that stand for the files' names and contents."""
    digest = hashlib.sha256()
    for name, uri in names.items():
        with open_input(uri) as file:
            content = hashlib.sha256()
            while piece := file.read(_PIECE_BYTES):
                content.update(piece)
        digest.update(f"{name}\0".encode("utf-8", "surrogateescape") + content.digest())
    return digest.hexdigest()[:32]
