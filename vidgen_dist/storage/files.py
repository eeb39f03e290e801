"""Any file, by its URI: read, copied here, opened, looked at."""

from __future__ import annotations

import os
from typing import BinaryIO, cast

from vidgen_dist.storage.clients import marks_of, place_of
from vidgen_dist.storage.failures import naming, patient
from vidgen_dist.storage.input_files import InputFile
from vidgen_dist.storage.replacement import read_at


@patient
def read_bytes(uri: str) -> bytes:
    """The whole content of a file.

    Raises:
        Refused: The URI cannot be understood (see `open_storage`).
        FileNotFoundError: There is no such file.
        StorageError: It cannot be read.
    """
    with naming("read", uri):
        fs, path = place_of(uri)
        # s3fs cuts a file that has grown at the size that it remembers.
        fs.invalidate_cache()
        return bytes(read_at(fs, path, fs.cat_file))


@patient
def fetch(uri: str, local: str | os.PathLike[str]) -> None:
    """Copy a file to this machine's disk, replacing what is there. Errors as `read_bytes`."""
    with naming("read", uri):
        fs, path = place_of(uri)
        # s3fs cuts a file that has grown at the size that it remembers.
        fs.invalidate_cache()
        read_at(fs, path, lambda name: fs.get_file(name, os.fspath(local)))


def open_input(uri: str) -> BinaryIO:
    """A file open for reading at any position; the caller closes it. It and its reads raise as `read_bytes`.

    Reads go to the storage as they are asked for: for readers such as Parquet's, that know what they want.
    """
    return cast(BinaryIO, InputFile(uri))


@patient
def size(uri: str) -> int:
    """Bytes of a file. Errors as `read_bytes`."""
    with naming("look for", uri):
        fs, path = place_of(uri)
        fs.invalidate_cache()
        return int(read_at(fs, path, fs.info)["size"])


@patient
def stamp(uri: str) -> str:
    """A text that differs when the file was written anew: its size and its ETag or time of change."""
    with naming("look for", uri):
        fs, path = place_of(uri)
        fs.invalidate_cache()
        info = read_at(fs, path, fs.info)
    return marks_of(info)
