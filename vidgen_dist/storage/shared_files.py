"""Small files that several processes write: each writes only if the file is what it expects."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

from vidgen_dist.storage.clients import S3, filesystem_of
from vidgen_dist.storage.failures import (
    StorageError,
    WriteConflict,
    retry_transient,
    status_of,
    translate_errors,
)
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.local_files import make_folders
from vidgen_dist.storage.replacement import read_where_found, temporary_name
from vidgen_dist.storage.uris import is_local, redact, scheme_of


@dataclass(frozen=True)
class SharedFile:
    """A small file that several processes write; each writes only if the file is what it expects.

    A tag stands for the file's content and differs for every content. S3 compares and writes in one request,
    and only one process can create a local file. Everywhere else there is a moment between comparing and
    writing in which another process may write, too: the last content stays.

    Args:
        storage: The folder.
        path: The file in it.
        conditional: Whether comparing and writing are one request; see `open_shared_file`.
    """

    storage: Storage
    path: str
    conditional: bool

    def creates_exclusively(self) -> bool:
        """Whether only one of several processes can create the file."""
        return self.conditional or is_local(self.storage.root)

    @retry_transient
    def read(self) -> tuple[bytes, str] | None:
        """The content and its tag; None if there is no file.

        Raises:
            StorageError: It cannot be read.
        """
        uri = self.storage.uri(self.path)
        try:
            with translate_errors("read", uri):
                fs, target = filesystem_of(uri)
                fs.invalidate_cache()
                # The tag first: a write based on content that is newer than its tag will be refused.
                tag = fs.info(target)["ETag"] if self.conditional else ""
                content = bytes(read_where_found(fs, target, fs.cat_file))
        except FileNotFoundError:
            return None
        return content, tag or _tag(content)

    @retry_transient
    def write(self, content: bytes, tag: str | None) -> str:
        """Write the file if its tag is this one, or, with None, if there is no file; returns the new tag.

        Raises:
            WriteConflict: The file has another tag. Also where an answer was lost on the way and this call
                has written the file: read it to see.
            StorageError: It cannot be written.
        """
        uri = self.storage.uri(self.path)
        if self.conditional:
            return _write_if(uri, content, {"mode": "create"} if tag is None else {"IfMatch": tag})
        if tag is None and is_local(uri):
            with translate_errors("write", uri):
                make_folders(os.path.dirname(uri))
                try:
                    file = open(uri, "xb")  # noqa: SIM115 - whether it was there before must be known
                except FileExistsError:
                    raise WriteConflict(f"{redact(uri)}: is there already") from None
                try:
                    with file:
                        file.write(content)
                except OSError:
                    # A disk may have room for a name but not for content.
                    os.unlink(uri)
                    raise
            return _tag(content)
        found = self.read()
        if (found and found[1]) != tag:
            raise WriteConflict(f"{redact(uri)}: was changed by somebody else")
        self.storage.write_bytes(self.path, content)
        return _tag(content)

    def delete(self) -> None:
        """Remove the file, whatever it holds."""
        self.storage.delete(self.path)


def open_shared_file(storage: Storage, path: str) -> SharedFile:
    """A file for several writers.

    Some S3 services ignore the condition of a conditional write, so one is tried whose condition cannot hold.

    Raises:
        StorageError: The storage does not answer.
    """
    if scheme_of(storage.root) not in S3:
        return SharedFile(storage, path, conditional=False)
    probe = temporary_name()
    try:
        _write_if(storage.uri(probe), b"", {"IfMatch": _tag(b"")})
    except WriteConflict:
        return SharedFile(storage, path, conditional=True)
    except StorageError as error:
        if error.errno != errno.ENOSYS:
            raise
    else:
        storage.delete(probe)
    return SharedFile(storage, path, conditional=False)


@retry_transient
def _write_if(uri: str, content: bytes, condition: Mapping[str, str]) -> str:
    """Write to S3 under a condition; returns the new tag. Raises WriteConflict if it does not hold."""
    with translate_errors("write", uri):
        fs, target = filesystem_of(uri)
        try:
            return str(fs.pipe_file(target, content, **condition)["ETag"])
        except OSError as error:
            # 409: somebody else is writing at this moment; 404: the file to be replaced is gone.
            changed = (404, 409, 412) if "IfMatch" in condition else (409, 412)
            if status_of(error.__cause__ or error) in changed:
                raise WriteConflict(f"{redact(uri)}: was changed by somebody else") from None
            raise


def _tag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
