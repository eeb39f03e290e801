"""Storages whose rename does not overwrite, and clients that report what was not done."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from tests.storage.webhdfs import WebHdfs
from vidgen_dist.errors import Refused
from vidgen_dist.output.lease import LeasePolicy, acquire, read_holder
from vidgen_dist.output_layout import LEASE_FILE, STATUS_FILE
from vidgen_dist.storage import failures, replacement
from vidgen_dist.storage.clients import filesystem_of
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.files import open_input
from vidgen_dist.storage.folder import Storage, open_storage
from vidgen_dist.storage.shared_files import open_shared_file


class _Fake(LocalFileSystem):
    """A folder of this machine, as a client of another storage."""

    # Steps that a test stops at, as a process does that is killed.
    stop_before: ClassVar[str] = ""

    def mv(self, path1: str, path2: str, **_: Any) -> Any:
        self._check("move aside" if self._is_hidden(path2) else "move in place")
        return self._move(self._strip_protocol(path1), self._strip_protocol(path2))

    def rm_file(self, path: str) -> None:
        self._check("remove")
        super().rm_file(path)

    def _check(self, step: str) -> None:
        if type(self).stop_before == step:
            raise KeyboardInterrupt(step)

    @staticmethod
    def _is_hidden(path: str) -> bool:
        return os.path.basename(path).startswith(".")

    def _move(self, source: str, target: str) -> Any:
        os.replace(source, target)


class SaysFalse(_Fake):
    """Like WebHDFS."""

    protocol = "saysfalse"

    def _move(self, source: str, target: str) -> Any:
        if os.path.exists(target):
            return False
        os.rename(source, target)
        return True


class Raises(_Fake):
    """Like SMB and HDFS."""

    protocol = "raises"

    def _move(self, source: str, target: str) -> Any:
        if os.path.exists(target):
            raise FileExistsError(17, "File exists", target)
        os.rename(source, target)


class _NoSuchFile(OSError):
    """Like SMB's client: not a FileNotFoundError."""


class SaysMissingItsWay(Raises):
    """Reports a missing file with an error class of its own."""

    protocol = "saysmissingitsway"

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        with self._own_error():
            return super().info(path, **kwargs)

    def ls(self, path: str, detail: bool = False, **kwargs: Any) -> list[Any]:
        with self._own_error():
            return super().ls(path, detail, **kwargs)

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
        with self._own_error():
            return super().cat_file(path, *args, **kwargs)

    @contextmanager
    def _own_error(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise _NoSuchFile(errno.ENOENT, "STATUS_OBJECT_NAME_NOT_FOUND") from error


class RaisesItsOwn(_Fake):
    """With an error that is not an OSError."""

    protocol = "raisesitsown"

    def _move(self, source: str, target: str) -> Any:
        if os.path.exists(target):
            raise RuntimeError("STATUS_OBJECT_NAME_COLLISION")
        os.rename(source, target)


class Copies(_Fake):
    """Leaves the source where it is."""

    protocol = "copies"

    def _move(self, source: str, target: str) -> Any:
        Path(target).write_bytes(Path(source).read_bytes())


class CopiesOnce(_Fake):
    """Leaves the source where it is, and does not overwrite."""

    protocol = "copiesonce"

    def _move(self, source: str, target: str) -> Any:
        if not os.path.exists(target):
            Path(target).write_bytes(Path(source).read_bytes())


class HasNoRmFile(Raises):
    """Like Databricks' client."""

    protocol = "hasnormfile"

    def rm_file(self, path: str) -> None:
        raise NotImplementedError

    def rm(self, path: str, *_: Any, **__: Any) -> None:
        os.unlink(self._strip_protocol(path))


class DoesNotOverwrite(SaysFalse):
    """Replaces files neither by a rename nor by a write."""

    protocol = "doesnotoverwrite"

    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:
        if not os.path.exists(self._strip_protocol(path)):
            super().pipe_file(path, value, **kwargs)

    def put_file(self, path1: str, path2: str, *args: Any, **kwargs: Any) -> None:
        if not os.path.exists(self._strip_protocol(path2)):
            super().put_file(path1, path2, *args, **kwargs)


class NeverRenames(_Fake):
    """Says that it does."""

    protocol = "neverrenames"

    def mv(self, *_: Any, **__: Any) -> Any:
        return True


class NeverDeletes(_Fake):
    """Says that it does."""

    protocol = "neverdeletes"

    def rm_file(self, path: str) -> None:
        """Does nothing."""


class WritesShort(_Fake):
    """Loses the end of written data."""

    protocol = "writesshort"

    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:
        super().pipe_file(path, value[:-1], **kwargs)


class Forgets(_Fake):
    """Reads back something else."""

    protocol = "forgets"

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
        return bytes(len(super().cat_file(path, *args, **kwargs)))


USABLE = (
    SaysFalse,
    Raises,
    RaisesItsOwn,
    SaysMissingItsWay,
    Copies,
    CopiesOnce,
    HasNoRmFile,
    DoesNotOverwrite,
)
UNUSABLE = (NeverRenames, NeverDeletes, WritesShort, Forgets)

for each in (*USABLE, *UNUSABLE):
    fsspec.register_implementation(each.protocol, each, clobber=True)


@pytest.fixture(params=[*(each.protocol for each in USABLE), "webhdfs"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """A folder on each storage that can be used."""
    if request.param == "webhdfs":
        with WebHdfs() as server:
            yield open_storage(f"webhdfs://127.0.0.1:{server.server_port}/user/me/out")
    else:
        yield open_storage(f"{request.param}://{tmp_path}/out")


def test_files_are_replaced_whatever_a_rename_does(output: Storage, tmp_path: Path) -> None:
    output.check_writable()
    assert output.sizes() == {}
    for content in (b"first", b"other", b"longer than before"):
        output.write_bytes("videos/a", content)
        assert output.read_bytes("videos/a") == content
        (tmp_path / "local").write_bytes(content[::-1])
        output.put_file(tmp_path / "local", "videos/a")
        assert output.read_bytes("videos/a") == content[::-1]
        # Not a temporary file either.
        assert output.sizes() == {"videos/a": len(content)}
    output.delete("videos/a")
    output.delete("videos/a")
    assert output.sizes() == output.sizes("nothing") == {}
    assert output.entries("nothing") == ({}, [])
    assert not output.exists("videos/a")
    with pytest.raises(FileNotFoundError):
        output.read_bytes("videos/a")


def test_small_files_of_a_run_are_replaced(output: Storage) -> None:
    output.write_bytes(STATUS_FILE, b"first")
    output.write_bytes(STATUS_FILE, b"second")
    assert output.read_bytes(STATUS_FILE) == b"second"
    shared = open_shared_file(output, "shared")
    tag = shared.write(b"one", None)
    tag = shared.write(b"two", tag)
    assert shared.read() == (b"two", tag)
    with pytest.raises(failures.WriteConflict):
        shared.write(b"three", "another")


def test_heartbeats_are_seen(output: Storage) -> None:
    with acquire(
        output, "one", print_line=lambda _: None, policy=LeasePolicy(interval_seconds=0.05)
    ) as lease:
        first = read_holder(output.read_bytes(LEASE_FILE))
        while read_holder(output.read_bytes(LEASE_FILE)).beats < first.beats + 2:
            assert lease.lost is None
    assert not output.exists(LEASE_FILE)


@pytest.mark.parametrize("step", ["move aside", "move in place", "remove"])
@pytest.mark.parametrize("kind", [SaysFalse, Raises, CopiesOnce], ids=lambda kind: kind.protocol)
def test_a_writer_that_dies_half_way_leaves_a_whole_file(
    kind: type[_Fake], step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = open_storage(f"{kind.protocol}://{tmp_path}/out")
    out.write_bytes("run.yaml", b"old")
    real = kind._move

    def dying(self: _Fake, source: str, target: str) -> Any:
        done = real(self, source, target)
        if os.path.basename(target).startswith("."):
            # From here on only what another process can do is done.
            monkeypatch.setattr(kind, "stop_before", "move in place")
        return done

    if step == "move in place":
        monkeypatch.setattr(kind, "_move", dying)
    else:
        monkeypatch.setattr(kind, "stop_before", step)
    with pytest.raises(KeyboardInterrupt):
        out.write_bytes("run.yaml", b"new")
    monkeypatch.setattr(kind, "stop_before", "")
    monkeypatch.setattr(kind, "_move", real)
    assert out.exists("run.yaml")
    assert out.read_bytes("run.yaml") in (b"old", b"new")
    with open_input(out.uri("run.yaml")) as file:
        assert file.read() in (b"old", b"new")
    out.write_bytes("run.yaml", b"newer")
    assert out.read_bytes("run.yaml") == b"newer"
    out.delete("run.yaml")
    assert not out.exists("run.yaml")


def test_a_file_that_was_set_aside_does_not_come_back(tmp_path: Path) -> None:
    out = open_storage(f"saysfalse://{tmp_path}/out")
    out.write_bytes("a", b"old")
    aside = replacement.candidate_paths(*filesystem_of(out.uri("a")))[1]
    os.rename(tmp_path / "out" / "a", aside)
    assert out.read_bytes("a") == b"old"
    assert out.list() == []
    out.write_bytes("a", b"new")
    os.unlink(tmp_path / "out" / "a")
    assert not out.exists("a")
    with pytest.raises(FileNotFoundError):
        out.read_bytes("a")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (NeverRenames, "the storage reported that it renamed the new file, but did not"),
        (NeverDeletes, "the storage reported that it deleted .*, but did not"),
        (WritesShort, "the storage reported that it wrote 6 bytes, but has 5"),
        (Forgets, "what is read back is not what was written"),
    ],
    ids=lambda kind: getattr(kind, "protocol", ""),
)
def test_a_storage_that_cannot_be_used_is_refused_by_name(
    kind: type[_Fake], said: str, tmp_path: Path
) -> None:
    uri = f"{kind.protocol}://{tmp_path}/out"
    with pytest.raises(Refused, match=f"^{uri} cannot be used for output: .*{said}"):
        open_storage(uri).check_writable()


def test_an_object_store_that_keeps_what_was_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    pipe = type(memory).pipe_file

    def once(self: Any, path: str, value: bytes, **kwargs: Any) -> None:
        if not self.exists(path):
            pipe(self, path, value, **kwargs)

    monkeypatch.setattr(type(memory), "pipe_file", once)
    with pytest.raises(Refused, match=r"memory://keeps .*it does not replace files"):
        open_storage("memory://keeps").check_writable()
    monkeypatch.undo()
    monkeypatch.setattr(type(memory), "rm_file", lambda *_: None)
    with pytest.raises(Refused, match=r"memory://keeps .*it does not delete files"):
        open_storage("memory://keeps").check_writable()


# --- WebHDFS -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("waits")
def test_a_data_node_that_fails_is_not_taken_for_the_file() -> None:
    with WebHdfs() as server:
        out = open_storage(f"webhdfs://127.0.0.1:{server.server_port}/out")
        out.write_bytes("a", b"content")
        server.data_node_status = 503
        with pytest.raises(StorageError, match="503"):
            out.read_bytes("a")
        server.data_node_status = 403
        with pytest.raises(StorageError, match="not yours"):
            out.read_bytes("a")
        server.data_node_status = 200
        assert out.read_bytes("a") == b"content"
        with pytest.raises(FileNotFoundError):
            out.read_bytes("b")
