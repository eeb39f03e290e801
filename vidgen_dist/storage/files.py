"""Single files by URI: read, copied to this machine, opened, examined."""

from __future__ import annotations

import os
from typing import BinaryIO, cast

from vidgen_dist.storage.clients import filesystem_of, version_marks
from vidgen_dist.storage.failures import retry_transient, translate_errors
from vidgen_dist.storage.input_files import InputFile
from vidgen_dist.storage.replacement import read_where_found


@retry_transient
def read_bytes(uri: str) -> bytes:
    """The whole content of a file.

    Raises:
        Refused: The URI is not usable (see `clients.filesystem_of`).
        FileNotFoundError: There is no such file.
        StorageError: It cannot be read.
    """
    with translate_errors("read", uri):
        fs, path = filesystem_of(uri)
        # s3fs truncates a file that has grown to the size that it remembers.
        fs.invalidate_cache()
        return bytes(read_where_found(fs, path, fs.cat_file))


@retry_transient
def fetch(uri: str, local: str | os.PathLike[str]) -> None:
    """Copy a file to this machine's disk, replacing an existing one. Errors as `read_bytes`."""
    with translate_errors("read", uri):
        fs, path = filesystem_of(uri)
        # s3fs truncates a file that has grown to the size that it remembers.
        fs.invalidate_cache()
        read_where_found(fs, path, lambda name: fs.get_file(name, os.fspath(local)))


def open_input(uri: str) -> BinaryIO:
    """A file open for reading at any position; the caller closes it. It and its reads raise as `read_bytes`.

    Every read goes to the storage: this is for readers such as Parquet's, which know what they need.
    """
    return cast(BinaryIO, InputFile(uri))


@retry_transient
def size(uri: str) -> int:
    """The size of a file in bytes. Errors as `read_bytes`."""
    with translate_errors("look for", uri):
        fs, path = filesystem_of(uri)
        fs.invalidate_cache()
        return int(read_where_found(fs, path, fs.info)["size"])


@retry_transient
def stamp(uri: str) -> str:
    """A text that changes when the file is written again: its size and its ETag or time of change."""
    with translate_errors("look for", uri):
        fs, path = filesystem_of(uri)
        fs.invalidate_cache()
        info = read_where_found(fs, path, fs.info)
    return version_marks(info)
