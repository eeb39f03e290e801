"""Files on this machine: written under a temporary name, flushed to the disk and renamed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from vidgen_dist.storage.replacement import temporary_name


@contextmanager
def create_local(path: str) -> Iterator[BinaryIO]:
    folder = os.path.dirname(path)
    make_folders(folder)
    temporary = os.path.join(folder, temporary_name())
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def make_folders(folder: str) -> None:
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
        if folder in missing:
            break
    if missing:
        os.makedirs(missing[0], exist_ok=True)
    for made in reversed(missing):
        _sync_folder(os.path.dirname(made))


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot sync a folder: a rename there is as durable as they make it.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(handle)
