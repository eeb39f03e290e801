"""Storage: what is written to and read from a URI, and how whole it is.

A URI is a local path, or whatever fsspec knows: ``file://``, ``s3://``, ``gs://``, ``memory://``,
``hf://``, ``https://``, … (`uris` says what is which). Credentials come from the environment or from fsspec's
configuration, never from a URI, and never enter a message.

Nobody sees a torn file. A local file is written under a hidden temporary name beside its final place,
flushed to the disk and renamed; an object store gets one PUT (or one multipart upload, which becomes
visible when it is complete); any other storage gets a temporary name and a move (`replacing`).

Faults that pass by themselves (a 5xx status, a time-out, a connection cut) are waited out, `faults.ATTEMPTS`
calls in all, before they are raised; every call here can be repeated. Callers that have more patience look at
`StorageError.transient`.

Every function may be called from any thread and, the file systems being made anew in each process, from
any process: a `Storage` is nothing but its URI.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import mimetypes
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from fsspec.spec import AbstractFileSystem
from fsspec.utils import glob_translate

from vidgen_dist import replacing
from vidgen_dist.clients import LOCAL, OBJECT_STORES, S3, WEB, marks_of, moves, open_place, place_of, speaks
from vidgen_dist.errors import Refused
from vidgen_dist.faults import Changed, StorageError, cause_of, is_missing, naming, patient, status_of
from vidgen_dist.input_files import InputFile
from vidgen_dist.replacing import info_of, moved_into_place, names_of, read_at, temporary_name
from vidgen_dist.uris import is_local, redact, scheme_of, split, to_record

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
_MEMORY = frozenset({"memory"})
# Up to here a local file is held in memory and sent by one request; beyond, in parts.
_ONE_PUT_BYTES = 2**30


# --- names -----------------------------------------------------------------------------------------


_SAFE_NAME = re.compile(r"(?!.*--)[a-z0-9]([a-z0-9._-]{0,98}[a-z0-9_-])?")
# Names that Windows keeps for devices, with any extension.
_DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
# A video's path in its output is what follows the last `/videos/`: no part of it may have that name.
_FOLDER_NAME = "videos"


def safe_name(row_id: str) -> str:
    """The file name of a row: one for each id, also where case does not count.

    An id of up to 100 lower-case ASCII letters, digits, ``_``, ``-`` and ``.`` is its own name, but for
    ``videos`` and what Windows keeps for devices. Any other id becomes a readable part of at most 60
    characters, ``--`` and 100 bits of its SHA-256; as an id with ``--`` in it is not its own name, the two
    kinds never meet. The name holds no separator, does not begin with a dot and is never a name such as
    ``..``, so that a path made from it stays in its folder.
    """
    taken = row_id == _FOLDER_NAME or _DEVICE_NAME.fullmatch(row_id)
    if _SAFE_NAME.fullmatch(row_id) and not taken:
        return row_id
    ascii_text = unicodedata.normalize("NFKD", row_id[:1000]).encode("ascii", "ignore").decode().lower()
    readable = re.sub(r"[^a-z0-9_]+", "-", ascii_text)[:60].strip("-") or "row"
    digest = hashlib.sha256(row_id.encode("utf-8", "surrogatepass")).digest()
    return f"{readable}--{base64.b32encode(digest).decode().lower()[:20]}"


def is_temporary(path: str) -> bool:
    """Whether a path is the temporary name under which a file is written before it appears."""
    return _TEMPORARY.fullmatch(path.rpartition("/")[2]) is not None


def is_hidden(path: str) -> bool:
    """Whether readers of data sets pass over a relative path: a part of it begins with ``_`` or ``.``.

    As for Spark, ``_name=value``, a folder of a partition, is not hidden.
    """
    return any(part[:1] == "." or (part[:1] == "_" and "=" not in part) for part in path.split("/"))


def _inside(path: str) -> str:
    """`path`, when it is a relative path that cannot leave its folder."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or "\0" in path:
        raise ValueError(f"{path!r} is not a plain relative path")
    return path


# --- a folder ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Storage:
    """A folder on some storage; paths are relative to it, with ``/`` between their parts.

    Made by `open_storage`. It is its URI and no more, so it can be sent to other processes.

    Methods raise ValueError for a path that would leave the folder, FileNotFoundError where there is
    nothing to read, and `StorageError` for all else; both errors name the URI.
    """

    root: str

    def uri(self, path: str = "") -> str:
        """The URI of a path; of the folder itself without one."""
        if not path:
            return self.root
        # The root of a storage without hosts is `scheme:///`.
        folder = self.root if self.root.endswith("://") else self.root.rstrip("/")
        return f"{folder}/{_inside(path)}"

    @contextmanager
    def create(self, path: str) -> Iterator[BinaryIO]:
        """A file to write; it appears, whole, when the block ends, and not at all if the block raises."""
        uri = self.uri(path)
        if is_local(uri):
            with naming("write", uri, OSError), _create_local(place_of(uri)[1]) as file:
                yield file
            return
        with tempfile.TemporaryDirectory(prefix="vidgen-") as folder:
            local = os.path.join(folder, "file")
            with open(local, "xb") as file:
                yield file
            self.put_file(local, path)

    @patient
    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a whole file, replacing one of that name."""
        uri = self.uri(path)
        with naming("write", uri):
            fs, target = place_of(uri)
            if speaks(fs, LOCAL):
                with _create_local(target) as file:
                    file.write(data)
            elif speaks(fs, OBJECT_STORES):
                fs.pipe_file(target, data, **_put_options(fs, target, len(data)))
            else:
                with moved_into_place(fs, target, len(data)) as temporary:
                    fs.pipe_file(temporary, data)

    @patient
    def put_file(self, local: str | os.PathLike[str], path: str) -> None:
        """Copy a local file here, replacing one of that name."""
        uri = self.uri(path)
        with naming("write", uri):
            fs, target = place_of(uri)
            if speaks(fs, LOCAL):
                with open(local, "rb") as source, _create_local(target) as file:
                    shutil.copyfileobj(source, file, 2**20)
            elif speaks(fs, OBJECT_STORES):
                size = os.path.getsize(local)
                if size > _ONE_PUT_BYTES and not speaks(fs, _MEMORY):
                    fs.put_file(os.fspath(local), target)
                else:
                    with open(local, "rb") as source:
                        fs.pipe_file(target, source.read(), **_put_options(fs, target, size))
            else:
                with moved_into_place(fs, target, os.path.getsize(local)) as temporary:
                    fs.put_file(os.fspath(local), temporary)

    def copy_file(self, source: str, path: str) -> None:
        """Copy a file of any storage here, replacing one of that name; object stores do it by themselves.

        Args:
            source: The file's URI.
            path: Where to.
        """
        if is_local(source):
            self.put_file(place_of(source)[1], path)
            return
        if not self._copy_within(source, path):
            with tempfile.TemporaryDirectory(prefix="vidgen-") as folder:
                local = os.path.join(folder, "file")
                fetch(source, local)
                self.put_file(local, path)

    @patient
    def _copy_within(self, source: str, path: str) -> bool:
        """Have an object store copy one of its own files; False if it is none."""
        with naming(f"copy {redact(source)} to", self.uri(path)):
            fs, target = place_of(self.uri(path))
            source_fs, source_path = place_of(source)
            if source_fs is not fs or not speaks(fs, OBJECT_STORES):
                return False
            fs.invalidate_cache()
            fs.cp_file(source_path, target)
            return True

    def read_bytes(self, path: str) -> bytes:
        """The whole content of a file."""
        return read_bytes(self.uri(path))

    @patient
    def exists(self, path: str) -> bool:
        """Whether there is a file (or a folder) of that name."""
        uri = self.uri(path)
        with naming("look for", uri):
            fs, target = place_of(uri)
            return any(info_of(fs, name) is not None for name in names_of(fs, target))

    @patient
    def list(self, prefix: str = "") -> list[str]:
        """All files in the folder `prefix` and the folders in it, sorted; none if there is no such folder.

        The listing is fresh, and never holds a file that is still being written, or was when its
        writer died.
        """
        uri = self.uri(prefix)
        with naming("list", uri):
            fs, folder = place_of(uri)
            found = _files_below(fs, folder)
        before = f"{prefix}/" if prefix else ""
        return sorted(before + name for name in found)

    @patient
    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Path -> bytes of all files in the folder `prefix` and the folders in it, at this moment.

        Files that are still being written, or were when their writer died, are among them; see
        `is_temporary`. The listing is what costs: there is no request for each file on object stores.
        """
        with naming("list", self.uri(prefix)):
            fs, folder = place_of(self.uri(prefix))
            found = _below(fs, folder)
        before = f"{prefix}/" if prefix else ""
        return {before + name: int(info["size"]) for name, info in found.items()}

    @patient
    def entries(self, prefix: str = "") -> tuple[dict[str, int], Sequence[str]]:
        """What lies in the folder `prefix` itself: path -> bytes of its files, and the paths of its folders.

        None where there is no such folder.
        """
        with naming("list", self.uri(prefix)):
            fs, folder = place_of(self.uri(prefix))
            fs.invalidate_cache()
            try:
                found = fs.ls(folder, detail=True)
            except Exception as error:
                if not is_missing(error):
                    raise
                return {}, []
        before, start = f"{prefix}/" if prefix else "", folder.rstrip("/") + "/"
        # Object stores may have an empty object of the folder's own name in it.
        there = {info["name"][len(start) :].rstrip("/"): info for info in found}
        files = {before + name: int(i["size"]) for name, i in there.items() if name and i["type"] == "file"}
        return files, sorted(before + name for name, i in there.items() if name and i["type"] == "directory")

    @patient
    def delete(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""
        uri = self.uri(path)
        with naming("delete", uri):
            fs, target = place_of(uri)
            if moves(fs):
                replacing.remove(fs, target)
                return
            with suppress(FileNotFoundError):
                fs.rm_file(target)
            fs.invalidate_cache()

    def check_writable(self) -> None:
        """Write, replace, read, list and delete a small file that no listing shows.

        Raises:
            Refused: One of these is not possible, or not done although the storage says so; names the URI and
                the reason.
        """
        name = temporary_name()
        try:
            self.write_bytes(name, b"vidgen")
            self._check_content(name, b"vidgen", "what was written is not what is read back")
            with tempfile.NamedTemporaryFile(prefix="vidgen-") as local:
                local.write(b"nedgiv")
                local.flush()
                self.put_file(local.name, name)
            self._check_content(name, b"nedgiv", "it does not replace files: an old one stays")
            self.list(".vidgen")
            self.delete(name)
            if self.exists(name):
                raise StorageError("it does not delete files: one is still there afterwards")
        except OSError as error:
            raise Refused(f"{redact(self.root)} cannot be used for output: {error}") from None

    def _check_content(self, name: str, content: bytes, otherwise: str) -> None:
        if self.read_bytes(name) != content:
            raise StorageError(otherwise)


def open_storage(uri: str | os.PathLike[str]) -> Storage:
    """A folder to write to and read from. Nothing is asked of the storage yet.

    Raises:
        Refused: As `clients.open_place`; or it names no folder.
    """
    text = os.fspath(uri)
    fs, path = open_place(text)
    if speaks(fs, LOCAL):
        return Storage(path)
    if "?" in text and "?" not in path:
        raise Refused(f"{redact(text)}: a folder's URI ends with its path; leave out what follows ?")
    if not path.strip("/"):
        raise Refused(f"{redact(text)}: names no folder; give a bucket or a folder")
    return Storage(text.rstrip("/"))


def open_writable(uri: str | os.PathLike[str]) -> Storage:
    """`open_storage` of a folder that is to outlive this process.

    Raises:
        Refused: As `open_storage`; also ``memory://`` and ``https://``, and a URI with a secret.
    """
    storage = open_storage(uri)
    kind = scheme_of(storage.root)
    if kind in WEB:
        raise Refused(f"{redact(storage.root)}: {kind}:// can only be read; give a folder or an object store")
    if to_record(storage.root) != storage.root:
        raise Refused(
            f"{redact(storage.root)}: the URI holds a secret, and each ledger entry would hold it; give "
            "credentials through the environment or fsspec's configuration"
        )
    if kind in _MEMORY:
        raise Refused(
            f"{redact(storage.root)}: each process has a memory of its own; give a folder or an object store"
        )
    return storage


def open_writable_file(uri: str | os.PathLike[str]) -> tuple[Storage, str]:
    """The folder, and the name in it, of a file that is to outlive this process.

    Raises:
        Refused: As `open_writable`; also a bucket alone.
    """
    folder, name = split(os.fspath(uri))
    storage = open_writable(folder)
    if not name:
        raise Refused(f"{redact(folder)}: names no file; give a name in a bucket or a folder")
    return storage, name


def open_export(uri: str) -> tuple[Storage, str]:
    """`open_writable_file` of a Parquet file that `--export` names.

    Raises:
        Refused: As `open_writable_file`; or by its name it is none.
    """
    if not uri.lower().endswith(".parquet"):
        raise Refused(f"--export {redact(uri)}: is no name of a Parquet file; allowed: *.parquet")
    return open_writable_file(uri)


# --- one file, several writers -----------------------------------------------------------------------


@dataclass(frozen=True)
class SharedFile:
    """A small file that several processes write, each only in place of what it knows to be there.

    What is there is named by a tag, which differs for every content. S3 compares and writes in one request,
    and a local file that is not there is made by one alone. Everywhere else there is a moment between
    comparing and writing, in which another may write too: the last one's content stays.

    Args:
        storage: The folder.
        path: The file in it.
        conditional: Whether comparing and writing are one; see `share`.
    """

    storage: Storage
    path: str
    conditional: bool

    def makes_alone(self) -> bool:
        """Whether only one of several can make the file where there is none."""
        return self.conditional or is_local(self.storage.root)

    @patient
    def read(self) -> tuple[bytes, str] | None:
        """The content and its tag; None if there is no file.

        Raises:
            StorageError: It cannot be read.
        """
        uri = self.storage.uri(self.path)
        try:
            with naming("read", uri):
                fs, target = place_of(uri)
                fs.invalidate_cache()
                # The tag first: of a content that is newer than its tag, no write can come.
                tag = fs.info(target)["ETag"] if self.conditional else ""
                content = bytes(read_at(fs, target, fs.cat_file))
        except FileNotFoundError:
            return None
        return content, tag or _tag(content)

    @patient
    def write(self, content: bytes, tag: str | None) -> str:
        """Write the file where its tag is this one, None where there is no file; returns the new tag.

        Raises:
            Changed: It is another one. Also, where an answer was lost on the way, of a file that this very
                call has written: read it to see.
            StorageError: It cannot be written.
        """
        uri = self.storage.uri(self.path)
        if self.conditional:
            return _write_if(uri, content, {"mode": "create"} if tag is None else {"IfMatch": tag})
        if tag is None and is_local(uri):
            with naming("write", uri):
                _make_folders(os.path.dirname(uri))
                try:
                    file = open(uri, "xb")  # noqa: SIM115 - whether it was there before must be known
                except FileExistsError:
                    raise Changed(f"{redact(uri)}: is there already") from None
                try:
                    with file:
                        file.write(content)
                except OSError:
                    # A disk may have room for a name alone.
                    os.unlink(uri)
                    raise
            return _tag(content)
        found = self.read()
        if (found and found[1]) != tag:
            raise Changed(f"{redact(uri)}: was changed by somebody else")
        self.storage.write_bytes(self.path, content)
        return _tag(content)

    def delete(self) -> None:
        """Remove the file, whatever is in it."""
        self.storage.delete(self.path)


def share(storage: Storage, path: str) -> SharedFile:
    """A file for several writers.

    Services that speak S3 but do not know conditional writes ignore the condition, so it is tried: with one
    that cannot hold.

    Raises:
        StorageError: The storage does not answer.
    """
    if scheme_of(storage.root) not in S3:
        return SharedFile(storage, path, conditional=False)
    probe = temporary_name()
    try:
        _write_if(storage.uri(probe), b"", {"IfMatch": _tag(b"")})
    except Changed:
        return SharedFile(storage, path, conditional=True)
    except StorageError as error:
        if error.errno != errno.ENOSYS:
            raise
    else:
        storage.delete(probe)
    return SharedFile(storage, path, conditional=False)


@patient
def _write_if(uri: str, content: bytes, condition: Mapping[str, str]) -> str:
    """Write to S3 under a condition; the new tag. Raises Changed where it does not hold."""
    with naming("write", uri):
        fs, target = place_of(uri)
        try:
            return str(fs.pipe_file(target, content, **condition)["ETag"])
        except OSError as error:
            # 409: somebody else is writing at this moment; 404: what was to be replaced is gone.
            changed = (404, 409, 412) if "IfMatch" in condition else (409, 412)
            if status_of(error.__cause__ or error) in changed:
                raise Changed(f"{redact(uri)}: was changed by somebody else") from None
            raise


def _tag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class FileLock:
    """The operating system's lock on a local file, which ends with the process that holds it.

    Whether processes on other machines see it is up to the file system.
    """

    def __init__(self, path: str, handle: int) -> None:
        self._path = path
        self._handle = handle

    def release(self) -> None:
        """Let go, and remove the file."""
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        os.close(self._handle)


def lock(path: str) -> FileLock | None:
    """Lock a local file, which is made if it is not there; None where the file system knows no locks.

    Raises:
        BlockingIOError: Another process, or another call in this one, holds it.
        StorageError: The file cannot be made.
    """
    with naming("lock", path):
        _make_folders(os.path.dirname(path))
    while True:
        with naming("lock", path):
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
    """Whether somebody holds the lock of a local file, see `lock`; also True where that does not show."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        # Beside others that only look; whoever wants the lock just then asks again.
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


# --- any URI -----------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class Expansion:
    """What a file, a folder or a glob stands for.

    Args:
        kind: `file`, `directory` or `glob`; of a glob that matches nothing too.
        folder: URI of the folder, or of the one before a glob's pattern; of a file its own URI.
        files: URIs of the files, sorted; without the hidden ones.
        paths: Paths of all files relative to the folder, also of hidden ones; none of a single file.
    """

    kind: str
    folder: str
    files: list[str]
    paths: list[str]


def expand(uri: str | os.PathLike[str]) -> list[str]:
    """The files that a file, a folder or a glob (``*``, ``**``, ``?``, ``[…]``) stands for, sorted.

    In a folder or a glob, hidden files and folders are left out, see `is_hidden`. A file of the very name
    goes before a glob.

    Returns:
        URIs; none if there is nothing.

    Raises:
        Refused, StorageError: As `read_bytes`.
    """
    return expansion(uri).files


@patient
def expansion(uri: str | os.PathLike[str]) -> Expansion:
    """The same, and what it takes to look at the files that were left out. Raises as `expand`."""
    text = os.fspath(uri)
    with naming("list", text):
        fs, path = place_of(text)
        fs.invalidate_cache()
        whole = path if speaks(fs, LOCAL) else text
        try:
            kind = fs.info(path)["type"]
        except Exception as error:
            if not is_missing(error) or cause_of(error, text) is not error:
                raise
            kind = "glob"
        if kind == "file":
            return Expansion(kind, whole, [whole], [])
        if kind == "directory":
            # The URI itself, not the client's path: that may lack what it takes to open it again.
            start, names = whole.rstrip("/"), _files_below(fs, path)
        else:
            start, below = _plain_start(whole), _plain_start(path)
            found = fs.glob(path, detail=True) if _GLOB.search(path) else {}
            names = [name[len(below) + 1 :] for name, info in found.items() if info["type"] == "file"]
        files = sorted(f"{start}/{name}" for name in names if not is_hidden(name))
        return Expansion(kind, start, files, names)


def would_find(uri: str, file: str) -> bool:
    """Whether `expand` of a folder or a glob would find a file, given by its URI, if it were there."""
    fs, path = open_place(uri)
    file_fs, file_path = open_place(file)
    if _GLOB.search(path):
        below, fits = _plain_start(path), re.fullmatch(glob_translate(path), file_path) is not None
    else:
        below = path.rstrip("/")
        fits = file_path.startswith(f"{below}/")
    return file_fs == fs and fits and not is_hidden(file_path[len(below) + 1 :])


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


# --- how ---------------------------------------------------------------------------------------------


_GLOB = re.compile(r"[*?\[]")


def _plain_start(glob: str) -> str:
    """The folder before a glob's pattern. It was asked for by name: only what comes after can be hidden."""
    return _GLOB.split(glob, maxsplit=1)[0].rpartition("/")[0]


@contextmanager
def _create_local(path: str) -> Iterator[BinaryIO]:
    folder = os.path.dirname(path)
    _make_folders(folder)
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


def _make_folders(folder: str) -> None:
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
        # Some network file systems cannot sync a folder: their rename is as durable as they make it.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(handle)


def _put_options(fs: Any, target: str, size: int) -> dict[str, Any]:
    if not speaks(fs, S3):
        return {}
    # s3fs sends less than two chunks as one PUT.
    options: dict[str, Any] = {"chunksize": max(size, 50 * 2**20)} if size <= _ONE_PUT_BYTES else {}
    content_type, _ = mimetypes.guess_type(target)
    return options | ({"ContentType": content_type} if content_type else {})


def _files_below(fs: Any, folder: str) -> list[str]:
    """Paths, relative to a folder, of the files in it and below; temporary ones left out."""
    return [name for name in _below(fs, folder) if not is_temporary(name)]


def _below(fs: Any, folder: str) -> dict[str, Any]:
    """What fsspec knows of the files in a folder and below, by their paths relative to it."""
    fs.invalidate_cache()
    # fsspec's own walk takes a folder that it may not read for an empty one.
    strict = {"on_error": "raise"} if type(fs).find is AbstractFileSystem.find else {}
    try:
        found = fs.find(folder, detail=True, **strict)
    except Exception as error:
        if not is_missing(error):
            raise
        return {}
    start = folder.rstrip("/") + "/"
    return {
        path[len(start) :]: info
        for path, info in found.items()
        if path.startswith(start) and not path.endswith("/")
    }
