"""A folder on some storage, as a value: a file written to it is whole or not there."""

from __future__ import annotations

import mimetypes
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from vidgen_dist.errors import Refused
from vidgen_dist.storage import files, replacement
from vidgen_dist.storage.clients import (
    LOCAL,
    OBJECT_STORES,
    S3,
    WEB,
    filesystem_of,
    has_protocol,
    open_filesystem,
    replaces_by_rename,
)
from vidgen_dist.storage.failures import StorageError, is_missing, retry_transient, translate_errors
from vidgen_dist.storage.listing import files_below, info_below
from vidgen_dist.storage.local_files import create_local
from vidgen_dist.storage.names import check_relative_path
from vidgen_dist.storage.replacement import candidate_paths, info_of, moved_into_place, temporary_name
from vidgen_dist.storage.uris import is_local, redact, scheme_of, split, to_record

_MEMORY = frozenset({"memory"})
_ONE_PUT_BYTES = 2**30
"""Up to this size a local file is held in memory and sent in one request; a larger one in parts."""


@dataclass(frozen=True)
class Storage:
    """A folder on some storage; paths are relative to it, with ``/`` between their parts.

    Made by `open_storage`. It is only its URI, so it can be sent to other processes.

    Methods raise ValueError for a path that would leave the folder, FileNotFoundError where there is
    nothing to read, and `StorageError` for all other failures; the last two name the URI.
    """

    root: str

    def uri(self, path: str = "") -> str:
        """The URI of a path; without one, of the folder itself."""
        if not path:
            return self.root
        # The root of a storage without hosts is `scheme:///`.
        folder = self.root if self.root.endswith("://") else self.root.rstrip("/")
        return f"{folder}/{check_relative_path(path)}"

    @contextmanager
    def create(self, path: str) -> Iterator[BinaryIO]:
        """A file to write. It appears, whole, when the block ends, and not at all if the block raises."""
        uri = self.uri(path)
        if is_local(uri):
            with translate_errors("write", uri, OSError), create_local(filesystem_of(uri)[1]) as file:
                yield file
            return
        with tempfile.TemporaryDirectory(prefix="vidgen-") as folder:
            local = os.path.join(folder, "file")
            with open(local, "xb") as file:
                yield file
            self.put_file(local, path)

    @retry_transient
    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a whole file, replacing one of the same name."""
        uri = self.uri(path)
        with translate_errors("write", uri):
            fs, target = filesystem_of(uri)
            if has_protocol(fs, LOCAL):
                with create_local(target) as file:
                    file.write(data)
            elif has_protocol(fs, OBJECT_STORES):
                fs.pipe_file(target, data, **_put_options(fs, target, len(data)))
            else:
                with moved_into_place(fs, target, len(data)) as temporary:
                    fs.pipe_file(temporary, data)

    @retry_transient
    def put_file(
        self, local: str | os.PathLike[str], path: str, *, one_put_bytes: int = _ONE_PUT_BYTES
    ) -> None:
        """Copy a local file here, replacing one of the same name.

        Args:
            local: The file.
            path: Where to.
            one_put_bytes: To an object store, a file of up to this size is held in memory and sent in one
                request; a larger one is sent in parts.
        """
        uri = self.uri(path)
        with translate_errors("write", uri):
            fs, target = filesystem_of(uri)
            if has_protocol(fs, LOCAL):
                with open(local, "rb") as source, create_local(target) as file:
                    shutil.copyfileobj(source, file, 2**20)
            elif has_protocol(fs, OBJECT_STORES):
                size = os.path.getsize(local)
                if size > one_put_bytes and not has_protocol(fs, _MEMORY):
                    fs.put_file(os.fspath(local), target)
                else:
                    with open(local, "rb") as source:
                        fs.pipe_file(target, source.read(), **_put_options(fs, target, size))
            else:
                with moved_into_place(fs, target, os.path.getsize(local)) as temporary:
                    fs.put_file(os.fspath(local), temporary)

    def copy_file(self, source: str, path: str) -> None:
        """Copy a file from any storage here, replacing one of the same name.

        Within one object store, the store makes the copy.

        Args:
            source: The file's URI.
            path: Where to.
        """
        if is_local(source):
            self.put_file(filesystem_of(source)[1], path)
            return
        if not self._copy_within(source, path):
            with tempfile.TemporaryDirectory(prefix="vidgen-") as folder:
                local = os.path.join(folder, "file")
                files.fetch(source, local)
                self.put_file(local, path)

    @retry_transient
    def _copy_within(self, source: str, path: str) -> bool:
        """Let an object store copy one of its own files; False if that is not possible."""
        with translate_errors(f"copy {redact(source)} to", self.uri(path)):
            fs, target = filesystem_of(self.uri(path))
            source_fs, source_path = filesystem_of(source)
            if source_fs is not fs or not has_protocol(fs, OBJECT_STORES):
                return False
            fs.invalidate_cache()
            fs.cp_file(source_path, target)
            return True

    def read_bytes(self, path: str) -> bytes:
        """The whole content of a file."""
        return files.read_bytes(self.uri(path))

    @retry_transient
    def exists(self, path: str) -> bool:
        """Whether there is a file (or a folder) of this name."""
        uri = self.uri(path)
        with translate_errors("look for", uri):
            fs, target = filesystem_of(uri)
            return any(info_of(fs, name) is not None for name in candidate_paths(fs, target))

    @retry_transient
    def list(self, prefix: str = "") -> list[str]:
        """All files in the folder `prefix` and the folders in it, sorted; none if there is no such folder.

        The listing is fresh. Files that are still being written, or whose writer died, are never in it.
        """
        uri = self.uri(prefix)
        with translate_errors("list", uri):
            fs, folder = filesystem_of(uri)
            found = files_below(fs, folder)
        before = f"{prefix}/" if prefix else ""
        return sorted(before + name for name in found)

    @retry_transient
    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Path -> bytes of all files in the folder `prefix` and the folders in it, at this moment.

        Files that are still being written, or whose writer died, are among them; see `is_temporary`. Object
        stores need no request for each file beyond the listing.
        """
        with translate_errors("list", self.uri(prefix)):
            fs, folder = filesystem_of(self.uri(prefix))
            found = info_below(fs, folder)
        before = f"{prefix}/" if prefix else ""
        return {before + name: int(info["size"]) for name, info in found.items()}

    @retry_transient
    def entries(self, prefix: str = "") -> tuple[dict[str, int], Sequence[str]]:
        """What is directly in the folder `prefix`: path -> bytes of its files, and the paths of its folders.

        Both are empty if there is no such folder.
        """
        with translate_errors("list", self.uri(prefix)):
            fs, folder = filesystem_of(self.uri(prefix))
            fs.invalidate_cache()
            try:
                found = fs.ls(folder, detail=True)
            except Exception as error:
                if not is_missing(error):
                    raise
                return {}, []
        before, start = f"{prefix}/" if prefix else "", folder.rstrip("/") + "/"
        # An object store may hold an empty object with the folder's own name.
        there = {info["name"][len(start) :].rstrip("/"): info for info in found}
        files = {before + name: int(i["size"]) for name, i in there.items() if name and i["type"] == "file"}
        return files, sorted(before + name for name, i in there.items() if name and i["type"] == "directory")

    @retry_transient
    def delete(self, path: str) -> None:
        """Remove a file; a missing one is no error."""
        uri = self.uri(path)
        with translate_errors("delete", uri):
            fs, target = filesystem_of(uri)
            if replaces_by_rename(fs):
                replacement.remove(fs, target)
                return
            with suppress(FileNotFoundError):
                fs.rm_file(target)
            fs.invalidate_cache()

    def check_writable(self) -> None:
        """Write, replace, read, list and delete a small file that no listing shows.

        Raises:
            Refused: One of these fails, or was not done although the storage says so; the message has the URI
                and the reason.
        """
        name = temporary_name()
        try:
            self.write_bytes(name, b"vidgen")
            self._check_content(name, b"vidgen", "what is read back is not what was written")
            with tempfile.NamedTemporaryFile(prefix="vidgen-") as local:
                local.write(b"nedgiv")
                local.flush()
                self.put_file(local.name, name)
            self._check_content(name, b"nedgiv", "it does not replace files: the old one stays")
            self.list(".vidgen")
            self.delete(name)
            if self.exists(name):
                raise StorageError("it does not delete files: the file is still there afterwards")
        except OSError as error:
            raise Refused(f"{redact(self.root)} cannot be used for output: {error}") from None

    def _check_content(self, name: str, content: bytes, otherwise: str) -> None:
        if self.read_bytes(name) != content:
            raise StorageError(otherwise)


def open_storage(uri: str | os.PathLike[str]) -> Storage:
    """A folder to write to and read from. The storage is not accessed yet.

    Raises:
        Refused: As `clients.open_filesystem`; or the URI does not name a folder.
    """
    text = os.fspath(uri)
    fs, path = open_filesystem(text)
    if has_protocol(fs, LOCAL):
        return Storage(path)
    if "?" in text and "?" not in path:
        raise Refused(f"{redact(text)}: the URI of a folder ends with its path; leave out ? and what follows")
    if not path.strip("/"):
        raise Refused(f"{redact(text)}: does not name a folder; give a bucket or a folder")
    return Storage(text.rstrip("/"))


def open_writable(uri: str | os.PathLike[str]) -> Storage:
    """`open_storage` for a folder that is to outlive this process.

    Raises:
        Refused: As `open_storage`; also for ``memory://`` and ``https://``, and for a URI with a secret.
    """
    storage = open_storage(uri)
    kind = scheme_of(storage.root)
    if kind in WEB:
        raise Refused(f"{redact(storage.root)}: {kind}:// can only be read; give a folder or an object store")
    if to_record(storage.root) != storage.root:
        raise Refused(
            f"{redact(storage.root)}: the URI holds a secret, and every ledger entry would hold it; give "
            "credentials through the environment or fsspec's configuration"
        )
    if kind in _MEMORY:
        raise Refused(
            f"{redact(storage.root)}: each process has its own memory; give a folder or an object store"
        )
    return storage


def open_writable_file(uri: str | os.PathLike[str]) -> tuple[Storage, str]:
    """The folder, and the name in it, of a file that is to outlive this process.

    Raises:
        Refused: As `open_writable`; also for a bucket without a name in it.
    """
    folder, name = split(os.fspath(uri))
    storage = open_writable(folder)
    if not name:
        raise Refused(f"{redact(folder)}: does not name a file; give a name in a bucket or a folder")
    return storage, name


def open_export(uri: str) -> tuple[Storage, str]:
    """`open_writable_file` for the Parquet file that `--export` names.

    Raises:
        Refused: As `open_writable_file`; or the name does not end in ``.parquet``.
    """
    if not uri.lower().endswith(".parquet"):
        raise Refused(f"--export {redact(uri)}: is not the name of a Parquet file; allowed: *.parquet")
    return open_writable_file(uri)


def _put_options(fs: Any, target: str, size: int) -> dict[str, Any]:
    if not has_protocol(fs, S3):
        return {}
    # s3fs sends anything smaller than two chunks as one PUT.
    options: dict[str, Any] = {"chunksize": max(size, 50 * 2**20)} if size <= _ONE_PUT_BYTES else {}
    # WebP is not among the strict ones before Python 3.13.
    content_type, _ = mimetypes.guess_type(target, strict=False)
    return options | ({"ContentType": content_type} if content_type else {})
