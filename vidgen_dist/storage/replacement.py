"""Whole files where there is neither a disk of this machine nor an object store: written aside, then moved.

A rename that overwrites is not to be had everywhere: WebHDFS answers `{"boolean": false}`, HDFS and SMB
raise, some clients copy. So each step is looked at, whatever the storage answered. Where a rename does not
overwrite, the old file is set aside, under a name that follows from its own, the new one takes its place, and
the old one is removed. A process that dies between these leaves no file of that name but the one that was set
aside, which is whole: those who read look there too (`read_where_found`), and the next writer removes it.
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
    """Where a file may be found, in this order: its place, and aside while or since it was being replaced."""
    # Once more its place, lest it be put there between the first two looks.
    return (path, _aside_path(path), path) if replaces_by_rename(fs) else (path,)


def read_where_found(fs: Any, path: str, read: Callable[[str], _T]) -> _T:
    """Call a function with the path where a file is.

    Raises:
        Exception: What the function raises.
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
    """What a storage says of a file or folder at this moment; None if there is none."""
    fs.invalidate_cache()
    try:
        return dict(fs.info(path))
    except Exception as error:
        if is_missing(error):
            return None
        raise


def remove(fs: Any, path: str) -> None:
    """Remove a file, and what was set aside of it; one that is not there is no error.

    Raises:
        Exception: What the client raises; OSError if the file is still there.
    """
    for name in (path, _aside_path(path)):
        if info_of(fs, name) is not None:
            _remove(fs, name)


@contextmanager
def moved_into_place(fs: Any, target: str, size: int) -> Iterator[str]:
    """A temporary path, whose file, of so many bytes, takes the place of `target` when the block ends.

    Raises:
        Exception: What the client raises; OSError where a step was not done although it said otherwise. Then
            the old file is where it was, or is set aside.
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
        # Another process may have made it just now.
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
        raise complaint or OSError("the storage says that it renamed the new file, and did not")
    else:
        _set_aside(fs, temporary, target, size)
    if info_of(fs, _aside_path(target)) is not None:
        _remove(fs, _aside_path(target))


def _set_aside(fs: Any, temporary: str, target: str, size: int) -> None:
    aside = _aside_path(target)
    if info_of(fs, aside) is not None:
        # Of a writer that died; what is in its place is newer.
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
    """Rename a file to a name that none has."""
    fs.mv(source, free)
    if not _has_moved(fs, source, free):
        raise OSError(f"the storage says that it renamed {source} to {free}, and did not")


def _has_moved(fs: Any, source: str, target: str) -> bool:
    """Whether a file has gone from one name to another; where it was copied, the first is removed."""
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
        raise OSError("the storage says that it wrote the file, and has none")
    if there["size"] is not None and there["size"] != size:
        raise OSError(f"the storage says that it wrote {size:,} bytes, and has {there['size']:,}")


def _delete(fs: Any, path: str) -> None:
    try:
        fs.rm_file(path)
    except NotImplementedError:
        # As Databricks' client.
        fs.rm(path)


def _remove(fs: Any, path: str) -> None:
    _delete(fs, path)
    if info_of(fs, path) is not None:
        raise OSError(f"the storage says that it deleted {path}, and did not")
