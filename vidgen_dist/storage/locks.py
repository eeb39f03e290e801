"""The operating system's locks on local files."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

from vidgen_dist.storage.failures import translate_errors
from vidgen_dist.storage.local_files import make_folders


class FileLock:
    """The operating system's lock on a local file, which ends with the process that holds it.

    Whether processes on other machines see it depends on the file system.
    """

    def __init__(self, path: str, handle: int) -> None:
        self._path = path
        self._handle = handle

    def release(self) -> None:
        """Release the lock and remove the file."""
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        os.close(self._handle)


def lock(path: str) -> FileLock | None:
    """Lock a local file, creating it if needed; None if the file system has no locks.

    Raises:
        BlockingIOError: Another process, or another call in this one, holds it.
        StorageError: The file cannot be created.
    """
    with translate_errors("lock", path):
        make_folders(os.path.dirname(path))
    while True:
        with translate_errors("lock", path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, handle):
                return FileLock(path, handle)
        except BlockingIOError:
            os.close(handle)
            raise
        except OSError:
            os.close(handle)
            return None
        # Its holder removed it between the two calls.
        os.close(handle)


def is_locked(path: str) -> bool:
    """Whether somebody holds the lock of a local file, see `lock`; also True if that cannot be found out."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        # A shared lock, so that several may look; whoever wants the lock at that moment tries again.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def _is_still(path: str, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False
