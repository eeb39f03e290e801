"""Any file, by its URI: read, copied here, opened, looked at."""

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
        Refused: The URI cannot be understood (see `open_storage`).
        FileNotFoundError: There is no such file.
        StorageError: It cannot be read.
    """
    with translate_errors("read", uri):
        fs, path = filesystem_of(uri)
        # s3fs cuts a file that has grown at the size that it remembers.
        fs.invalidate_cache()
        return bytes(read_where_found(fs, path, fs.cat_file))


@retry_transient
def fetch(uri: str, local: str | os.PathLike[str]) -> None:
    """Copy a file to this machine's disk, replacing what is there. Errors as `read_bytes`."""
    with translate_errors("read", uri):
        fs, path = filesystem_of(uri)
        # s3fs cuts a file that has grown at the size that it remembers.
        fs.invalidate_cache()
        read_where_found(fs, path, lambda name: fs.get_file(name, os.fspath(local)))


def open_input(uri: str) -> BinaryIO:
    """A file open for reading at any position; the caller closes it. It and its reads raise as `read_bytes`.

    Reads go to the storage as they are asked for: for readers such as Parquet's, that know what they want.
    """
    return cast(BinaryIO, InputFile(uri))


@retry_transient
def size(uri: str) -> int:
    """Bytes of a file. Errors as `read_bytes`."""
    with translate_errors("look for", uri):
        fs, path = filesystem_of(uri)
        fs.invalidate_cache()
        return int(read_where_found(fs, path, fs.info)["size"])


@retry_transient
def stamp(uri: str) -> str:
    """A text that differs when the file was written anew: its size and its ETag or time of change."""
    with translate_errors("look for", uri):
        fs, path = filesystem_of(uri)
        fs.invalidate_cache()
        info = read_where_found(fs, path, fs.info)
    return version_marks(info)
