"""Listing the files of a folder or a glob."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from fsspec.spec import AbstractFileSystem
from fsspec.utils import glob_translate

from vidgen_dist.storage.clients import LOCAL, filesystem_of, has_protocol, open_filesystem
from vidgen_dist.storage.failures import is_missing, real_cause, retry_transient, translate_errors
from vidgen_dist.storage.names import is_hidden, is_temporary

_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Expansion:
    """What a file, a folder or a glob stands for.

    Args:
        kind: `file`, `directory` or `glob`; also `glob` if nothing matches.
        folder: URI of the folder, or of the one before a glob's pattern; for a file, its own URI.
        files: URIs of the files, sorted; without the hidden ones.
        paths: Paths of all files relative to the folder, including hidden ones; empty for a single file.
    """

    kind: str
    folder: str
    files: list[str]
    paths: list[str]


def expand(uri: str | os.PathLike[str]) -> list[str]:
    """The files that a file, a folder or a glob (``*``, ``**``, ``?``, ``[…]``) stands for, sorted.

    Hidden files and folders in a folder or a glob are left out, see `is_hidden`. A file with exactly this
    name takes precedence over a glob.

    Returns:
        URIs; empty if there is nothing.

    Raises:
        Refused, StorageError: As `read_bytes`.
    """
    return expansion(uri).files


@retry_transient
def expansion(uri: str | os.PathLike[str]) -> Expansion:
    """The same, with the files that are left out. Raises as `expand`."""
    text = os.fspath(uri)
    with translate_errors("list", text):
        fs, path = filesystem_of(text)
        fs.invalidate_cache()
        whole = path if has_protocol(fs, LOCAL) else text
        try:
            kind = fs.info(path)["type"]
        except Exception as error:
            if not is_missing(error) or real_cause(error, text) is not error:
                raise
            kind = "glob"
        if kind == "file":
            return Expansion(kind, whole, [whole], [])
        if kind == "directory":
            # The URI itself, not the client's path, which may lack what is needed to open it again.
            start, names = whole.rstrip("/"), files_below(fs, path)
        else:
            start, below = _folder_before_pattern(whole), _folder_before_pattern(path)
            found = fs.glob(path, detail=True) if _GLOB.search(path) else {}
            names = [name[len(below) + 1 :] for name, info in found.items() if info["type"] == "file"]
        files = sorted(f"{start}/{name}" for name in names if not is_hidden(name))
        return Expansion(kind, start, files, names)


def would_find(uri: str, file: str) -> bool:
    """Whether `expand` of a folder or a glob would find a file, given by its URI, if it existed."""
    fs, path = open_filesystem(uri)
    file_fs, file_path = open_filesystem(file)
    if _GLOB.search(path):
        below, fits = _folder_before_pattern(path), re.fullmatch(glob_translate(path), file_path) is not None
    else:
        below = path.rstrip("/")
        fits = file_path.startswith(f"{below}/")
    return file_fs == fs and fits and not is_hidden(file_path[len(below) + 1 :])


def _folder_before_pattern(glob: str) -> str:
    """The folder before a glob's pattern. It was named by the user: only what follows can be hidden."""
    return _GLOB.split(glob, maxsplit=1)[0].rpartition("/")[0]


def files_below(fs: Any, folder: str) -> list[str]:
    """Paths, relative to a folder, of the files in it and below, without temporary ones."""
    return [name for name in info_below(fs, folder) if not is_temporary(name)]


def info_below(fs: Any, folder: str) -> dict[str, Any]:
    """fsspec's information on the files in a folder and below, by their paths relative to it."""
    fs.invalidate_cache()
    # fsspec's own walk treats a folder that it may not read as empty.
    strict = {"on_error": "raise"} if type(fs).find is AbstractFileSystem.find else {}
    try:
        found = fs.find(folder, detail=True, **strict)
    except Exception as error:
        if not is_missing(error):
            raise
        return {}
    start = folder.rstrip("/") + "/"
    return {
        path[len(start) :]: info
        for path, info in found.items()
        if path.startswith(start) and not path.endswith("/")
    }
