"""Whole files on storages other than this machine's disk and object stores: written aside, then moved.

Not every storage has a rename that overwrites: WebHDFS answers `{"boolean": false}`, HDFS and SMB raise, some
clients copy. So the result of each step is checked, whatever the storage answered. Where a rename does not
overwrite, the old file is moved aside, to a name derived from its own; the new file takes its place, and the
old one is removed. If the process dies in between, there is no file of that name, but the one moved aside is
whole: readers look there too (`read_where_found`), and the next writer removes it.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from vidgen_dist.storage.clients import replaces_by_rename
from vidgen_dist.storage.failures import is_missing, is_transient

_BLOCK = 2**20

_T = TypeVar("_T")


def temporary_name() -> str:
    """A name that no listing shows, for a file that is being written."""
    return f".{uuid.uuid4().hex}.tmp"


def candidate_paths(fs: Any, path: str) -> tuple[str, ...]:
    """Where a file may be, in this order: its place, or aside if its replacement has not finished."""
    # Its place once more: it may have been put there between the first two looks.
    return (path, _aside_path(path), path) if replaces_by_rename(fs) else (path,)


def read_where_found(fs: Any, path: str, read: Callable[[str], _T]) -> _T:
    """Call a function with the path where a file is.

    Raises:
        Exception: Whatever the function raises.
    """
    *tried, last = candidate_paths(fs, path)
    for name in tried:
        try:
            return read(name)
        except Exception as error:
            if not is_missing(error):
                raise
    return read(last)


def _aside_path(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.tmp"


def info_of(fs: Any, path: str) -> dict[str, Any] | None:
    """The storage's current information on a file or folder; None if there is none."""
    fs.invalidate_cache()
    try:
        return dict(fs.info(path))
    except Exception as error:
        if is_missing(error):
            return None
        raise


def remove(fs: Any, path: str) -> None:
    """Remove a file and its copy aside; a missing file is no error.

    Raises:
        Exception: Whatever the client raises; OSError if the file is still there.
    """
    for name in (path, _aside_path(path)):
        if info_of(fs, name) is not None:
            _remove(fs, name)


@contextmanager
def moved_into_place(fs: Any, target: str, size: int) -> Iterator[str]:
    """A temporary path. When the block ends, its file, of `size` bytes, takes the place of `target`.

    Raises:
        Exception: Whatever the client raises; OSError if a step was not done although the client said so.
            Then the old file is where it was, or aside.
    """
    folder = target.rpartition("/")[0]
    temporary = f"{folder}/{temporary_name()}"
    _make_folder(fs, folder)
    try:
        yield temporary
        _check_size(fs, temporary, size)
        _replace(fs, temporary, target, size)
    except BaseException:
        with suppress(Exception):
            _delete(fs, temporary)
        raise


def _make_folder(fs: Any, folder: str) -> None:
    try:
        fs.makedirs(folder, exist_ok=True)
    except Exception:
        # Another process may have made it in the meantime.
        if info_of(fs, folder) is None:
            raise


def _replace(fs: Any, temporary: str, target: str, size: int) -> None:
    complaint: Exception | None = None
    try:
        fs.mv(temporary, target)
    except Exception as error:
        if is_transient(error):
            raise
        complaint = error
    if _has_moved(fs, temporary, target):
        _check_size(fs, target, size)
    elif info_of(fs, target) is None:
        raise complaint or OSError("the storage reported that it renamed the new file, but did not")
    else:
        _set_aside(fs, temporary, target, size)
    if info_of(fs, _aside_path(target)) is not None:
        _remove(fs, _aside_path(target))


def _set_aside(fs: Any, temporary: str, target: str, size: int) -> None:
    aside = _aside_path(target)
    if info_of(fs, aside) is not None:
        # Left by a writer that died; the file in its place is newer.
        _remove(fs, aside)
    _move(fs, target, aside)
    try:
        _move(fs, temporary, target)
        _check_size(fs, target, size)
    except BaseException:
        with suppress(Exception):
            if info_of(fs, target) is None:
                fs.mv(aside, target)
        raise


def _move(fs: Any, source: str, free: str) -> None:
    """Rename a file to an unused name."""
    fs.mv(source, free)
    if not _has_moved(fs, source, free):
        raise OSError(f"the storage reported that it renamed {source} to {free}, but did not")


def _has_moved(fs: Any, source: str, target: str) -> bool:
    """Whether a file has moved from one name to another; if it was copied, the first is removed."""
    if info_of(fs, source) is None:
        return True
    if info_of(fs, target) is None or not _same(fs, source, target):
        return False
    _remove(fs, source)
    return True


def _same(fs: Any, one: str, other: str) -> bool:
    with fs.open(one, "rb") as first, fs.open(other, "rb") as second:
        while True:
            block = first.read(_BLOCK)
            if block != second.read(_BLOCK):
                return False
            if not block:
                return True


def _check_size(fs: Any, path: str, size: int) -> None:
    there = info_of(fs, path)
    if there is None:
        raise OSError("the storage reported that it wrote the file, but has none")
    if there["size"] is not None and there["size"] != size:
        raise OSError(f"the storage reported that it wrote {size:,} bytes, but has {there['size']:,}")


def _delete(fs: Any, path: str) -> None:
    try:
        fs.rm_file(path)
    except NotImplementedError:
        # For example Databricks' client.
        fs.rm(path)


def _remove(fs: Any, path: str) -> None:
    _delete(fs, path)
    if info_of(fs, path) is not None:
        raise OSError(f"the storage reported that it deleted {path}, but did not")
