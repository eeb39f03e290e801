"""Files of any storage open for reading: failed reads are repeated, and errors name the file."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, BinaryIO, cast

from vidgen_dist.errors import Refused
from vidgen_dist.storage.clients import OBJECT_STORES, WEB, filesystem_of, has_protocol, version_marks
from vidgen_dist.storage.failures import (
    StorageError,
    is_full,
    retry_transient,
    translate_errors,
    truncated_read_error,
)
from vidgen_dist.storage.replacement import read_where_found
from vidgen_dist.storage.uris import redact

MAX_COPY_BYTES = 8 * 2**30
"""The largest file that is copied to this machine if its server sends no parts of it."""


class InputFile(io.RawIOBase):
    """A file open for reading at any position.

    If a read fails for a transient reason, or ends before the file does, the file is opened again. The file's
    size stays what it was at the start.

    Args:
        uri: The file.

    Raises:
        FileNotFoundError: There is no such file.
        StorageError: It cannot be read.
        Refused: The URI is not usable; or its server sends no parts of files, and the file is too large to be
            copied.
    """

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri = uri
        self._position = 0
        self._source: BinaryIO | None = None
        self._source, self._size, self._marks = retry_transient(self._open)()

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position of the next byte to read."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As `io.IOBase.seek`."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """As many bytes as are asked for, or as are left."""
        if self.closed:
            raise ValueError("read of a closed file")
        left = max(0, self._size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        data = self._read(wanted) if wanted else b""
        self._position += len(data)
        return data

    def readall(self) -> bytes:
        """The rest of the file."""
        return self.read()

    def readinto(self, buffer: Any) -> int:
        """As `io.RawIOBase.readinto`."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """As `io.IOBase.close`."""
        if not self.closed:
            self._close_source()
        super().close()

    def _open(self) -> tuple[BinaryIO, int, str]:
        """The client's file, its size, and its version marks if the client has any."""
        with translate_errors("read", self._uri):
            fs, path = filesystem_of(self._uri)
            fs.invalidate_cache()
            if has_protocol(fs, WEB):
                return _open_web(fs, path, self._uri)
            if has_protocol(fs, frozenset({"memory"})):
                # Its `open` gives all readers the same object, with one position.
                content = bytes(fs.cat_file(path))
                return io.BytesIO(content), len(content), ""
            uncached = {"cache_type": "none"} if has_protocol(fs, OBJECT_STORES) else {}
            file = read_where_found(fs, path, lambda name: fs.open(name, "rb", **uncached))
            file.seek(0, os.SEEK_END)
            # Not all clients return the position from `seek`.
            known = version_marks(getattr(file, "details", {})) if has_protocol(fs, OBJECT_STORES) else ""
            return file, file.tell(), known

    @retry_transient
    def _read(self, size: int) -> bytes:
        with translate_errors("read", self._uri):
            try:
                if self._source is None:
                    self._source, *now = self._open()
                    if now != [self._size, self._marks]:
                        raise StorageError(
                            f"cannot read {redact(self._uri)}: it was changed while it was read"
                        )
                return self._from_source(size)
            except Exception:
                self._close_source()
                raise

    def _from_source(self, size: int) -> bytes:
        assert self._source is not None
        self._source.seek(self._position)
        pieces: list[bytes] = []
        missing = size
        while missing:
            piece = self._source.read(missing)
            if not piece:
                raise truncated_read_error("read", self._uri, f"it ended {missing:,} bytes early")
            pieces.append(piece)
            missing -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _close_source(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            # Nothing is lost if closing a failed file fails.
            with suppress(Exception):
                source.close()


def _open_web(fs: Any, path: str, uri: str) -> tuple[BinaryIO, int, str]:
    info = fs.info(path)
    size, marks = info["size"], version_marks(info)
    if size == 0:
        return io.BytesIO(), 0, marks
    if size is None or not info.get("partial", True):
        copy = _local_copy(fs, path, uri, info)
        return copy, os.fstat(copy.fileno()).st_size, marks
    return cast(BinaryIO, _RangedFile(fs, path, uri, info)), size, marks


class _RangedFile:
    """A file of a web server: read in parts if the server sends parts, otherwise copied whole."""

    def __init__(self, fs: Any, path: str, uri: str, info: Mapping[str, Any]) -> None:
        self._of = (fs, path, uri, info)
        self._file: BinaryIO = fs.open(path, "rb", size=info["size"])

    def seek(self, position: int) -> None:
        self._position = position

    def read(self, size: int) -> bytes:
        try:
            self._file.seek(self._position)
            return self._file.read(size)
        except ValueError:
            # fsspec raises this when the whole file comes instead of the requested part.
            self._file.close()
            self._file = _local_copy(*self._of)
            self._file.seek(self._position)
            return self._file.read(size)

    def close(self) -> None:
        self._file.close()


def _local_copy(fs: Any, path: str, uri: str, info: Mapping[str, Any]) -> BinaryIO:
    """A file of a server that sends no parts of it, copied to this machine.

    Args:
        fs, path, uri: The file.
        info: What the server said about it.
    """
    size = info["size"]
    if size is not None and size > MAX_COPY_BYTES:
        raise Refused(
            f"{redact(uri)}: its server sends no parts of files (Range), and it is too large to be copied "
            f"({size:,} bytes; allowed: {MAX_COPY_BYTES:,}); copy it to a disk or an object store"
        )
    copy = _download(fs, path, uri, size, version_marks(info))
    return open(f"/proc/self/fd/{copy.fileno()}", "rb")


# Row groups of a manifest are read one by one, and the file is opened again for each.
@lru_cache(maxsize=4)
def _download(fs: Any, path: str, uri: str, size: int | None, _marks: str) -> BinaryIO:
    """A temporary file without a name, which is gone when nobody holds it any more."""
    copy = tempfile.TemporaryFile(prefix="vidgen-")  # noqa: SIM115
    try:
        fs.get_file(path, copy)
        copy.flush()
    except OSError as error:
        if is_full(error):
            where = f"{tempfile.gettempdir()}, since its server sends no parts of files"
            raise StorageError(f"cannot copy {redact(uri)} to {where}: {error.strerror}") from None
        raise
    got = copy.tell()
    if size is not None and got != size:
        raise truncated_read_error("read", uri, f"{got:,} bytes came, of {size:,}")
    return cast(BinaryIO, copy)
