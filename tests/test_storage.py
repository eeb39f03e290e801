"""Storage keeps its promises on a local folder, on S3 (the real client), in memory and elsewhere."""

from __future__ import annotations

import http.server
import multiprocessing
import os
import pickle
import signal
import stat
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import boto3
import fsspec
import pytest
import s3fs
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st

from vidgen_dist.errors import Refused
from vidgen_dist.storage import clients
from vidgen_dist.storage import folder as storage_folder
from vidgen_dist.storage.faults import StorageError
from vidgen_dist.storage.files import fetch, open_input, read_bytes, size, stamp
from vidgen_dist.storage.folder import Storage, open_storage, open_writable_file
from vidgen_dist.storage.listing import expand, would_find
from vidgen_dist.storage.names import is_temporary, safe_name


class PlainFileSystem(LocalFileSystem):
    """Stands for a storage that is neither this machine's disk nor an object store."""

    protocol = "plain"
    visible: ClassVar[list[str]] = []

    def _open(self, path, mode="rb", block_size=None, **kwargs):
        if mode != "rb":
            self.visible.append(os.path.basename(path))
        return super()._open(path, mode, block_size, **kwargs)

    def put_file(self, path1, path2, callback=None, **kwargs):
        self.visible.append(os.path.basename(path2))
        super().put_file(path1, path2, callback, **kwargs)


fsspec.register_implementation("plain", PlainFileSystem, clobber=True)


@pytest.fixture(params=["local", "file", "s3", "memory", "plain"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URI of an empty folder on each kind of storage."""
    match request.param:
        case "local":
            yield str(tmp_path / "out")
        case "file" | "plain" as scheme:
            yield f"{scheme}://{tmp_path / 'out'}"
        case "s3":
            yield f"s3://{request.getfixturevalue('s3_bucket')}/out"
        case "memory":
            folder = f"memory://{uuid.uuid4().hex}"
            yield folder
            fsspec.filesystem("memory").store.clear()


def test_written_files_are_read_listed_and_deleted(root: str, tmp_path: Path) -> None:
    output = open_storage(root)
    (tmp_path / "clip.mp4").write_bytes(b"clip")
    output.write_bytes("ledger/part-1.parquet", b"one")
    output.write_bytes("ledger/part-1.parquet", b"once more")
    output.put_file(tmp_path / "clip.mp4", "videos/a/clip.mp4")
    with output.create("ledger/deep/er.parquet") as file:
        file.write(b"deep")
    everything = ["ledger/deep/er.parquet", "ledger/part-1.parquet", "videos/a/clip.mp4"]
    assert output.list() == everything
    assert output.list("ledger") == everything[:2]
    assert output.list("led") == []
    assert output.read_bytes("ledger/part-1.parquet") == b"once more"
    assert len(output.read_bytes("videos/a/clip.mp4")) == 4
    assert read_bytes(output.uri("ledger/deep/er.parquet")) == b"deep"
    with open_input(output.uri("ledger/part-1.parquet")) as file:
        file.seek(5)
        assert file.read() == b"more"
    assert output.exists("videos/a/clip.mp4")
    output.delete("videos/a/clip.mp4")
    output.delete("videos/a/clip.mp4")
    assert not output.exists("videos/a/clip.mp4")
    assert output.list() == everything[:2]


def test_sizes_and_what_lies_in_a_folder_itself(root: str) -> None:
    output = open_storage(root)
    assert output.sizes("videos") == {}
    assert output.entries("videos") == ({}, [])
    half = f"videos/ab/.{'0' * 32}.tmp"
    for path, num_bytes in (
        ("videos/x", 3),
        ("videos/ab/y", 0),
        ("videos/ab/c/z", 5),
        (half, 2),
        ("other", 1),
    ):
        output.write_bytes(path, b"." * num_bytes)
    assert output.sizes("videos") == {"videos/x": 3, "videos/ab/y": 0, "videos/ab/c/z": 5, half: 2}
    assert [path for path in output.sizes() if is_temporary(path)] == [half]
    assert output.entries("videos") == ({"videos/x": 3}, ["videos/ab"])
    assert output.entries() == ({"other": 1}, ["videos"])


def test_files_are_copied_from_anywhere(root: str, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"local")
    output = open_storage(root)
    output.copy_file(str(tmp_path / "local"), "a/b")
    output.copy_file(output.uri("a/b"), "c")
    output.write_bytes("c", b"anew")
    output.copy_file(output.uri("c"), "a/b")
    assert size(output.uri("a/b")) == 4
    fetch(output.uri("a/b"), tmp_path / "local")
    assert (tmp_path / "local").read_bytes() == b"anew"
    for call in (size, lambda uri: output.copy_file(uri, "d"), lambda uri: fetch(uri, "d")):
        with pytest.raises(FileNotFoundError):
            call(output.uri("nothing"))
    assert sorted(output.sizes()) == ["a/b", "c"]


def test_a_listing_is_fresh_also_after_another_writer(root: str) -> None:
    output = open_storage(root)
    assert output.list() == []
    assert not output.exists("late")
    fs, path = fsspec.core.url_to_fs(root, skip_instance_cache=True)
    fs.makedirs(path, exist_ok=True)
    fs.pipe_file(f"{path}/late", b"late")
    assert output.list() == ["late"]
    assert output.exists("late")
    assert len(output.read_bytes("late")) == 4
    before = stamp(output.uri("late"))
    fs.pipe_file(f"{path}/late", b"later")
    assert len(output.read_bytes("late")) == 5
    assert stamp(output.uri("late")) != before


def test_what_fails_half_way_leaves_nothing(root: str) -> None:
    output = open_storage(root)
    output.write_bytes("kept", b"kept")

    class Boom(Exception):
        pass

    def write_and_fail(name: str) -> None:
        with output.create(name) as file:
            file.write(b"half")
            raise Boom

    for name in ("kept", "new"):
        with pytest.raises(Boom):
            write_and_fail(name)
    assert output.list() == ["kept"]
    assert output.read_bytes("kept") == b"kept"


@pytest.mark.parametrize(
    "bad", ["../x", "a/../../x", "/etc/x", "a//b", "./a", "a/.", "..", "a\\..\\b", "a\0b", "a/"]
)
def test_no_path_leaves_the_folder(root: str, bad: str) -> None:
    output = open_storage(root)
    for call in (output.uri, output.read_bytes, output.exists, output.delete, output.list):
        with pytest.raises(ValueError, match="plain relative path"):
            call(bad)
    with pytest.raises(ValueError, match="plain relative path"):
        output.write_bytes(bad, b"")


def test_what_is_not_there_is_named(root: str) -> None:
    output = open_storage(root)
    with pytest.raises(FileNotFoundError) as caught:
        output.read_bytes("videos/none.mp4")
    assert output.uri("videos/none.mp4") in str(caught.value)
    assert expand(output.uri("none")) == []
    assert expand(output.uri("none") + "/*.parquet") == []


def test_files_folders_and_globs_expand(root: str) -> None:
    output = open_storage(root)
    for name in (
        "b.parquet",
        "a.parquet",
        "sub/c.parquet",
        "_SUCCESS",
        ".a.parquet.crc",
        "_temporary/d.parquet",
        "_committed_1",
        ".part=1/f.parquet",
        "sub/_part=1/g.parquet",
    ):
        output.write_bytes(name, b"x")
    assert expand(output.uri("a.parquet")) == [output.uri("a.parquet")]
    # As Spark has it, a partition may have such a name.
    all_of_them = ("a.parquet", "b.parquet", "sub/_part=1/g.parquet", "sub/c.parquet")
    assert expand(root) == [output.uri(name) for name in all_of_them]
    assert expand(root + "/") == expand(root)
    assert expand(root + "/*.parquet") == [output.uri("a.parquet"), output.uri("b.parquet")]
    assert expand(root + "/**/*.parquet") == expand(root)
    assert expand(root + "/?.parquet") == expand(root + "/[ab].parquet") == expand(root + "/*.parquet")
    for uri in expand(root):
        assert read_bytes(uri) == b"x"
    output.write_bytes("x[1].parquet", b"y")
    assert expand(output.uri("x[1].parquet")) == [output.uri("x[1].parquet")]
    output.write_bytes("_hidden/e.parquet", b"z")
    assert expand(output.uri("_hidden") + "/*") == [output.uri("_hidden/e.parquet")]


def test_what_would_be_found_is_what_expands(root: str) -> None:
    output = open_storage(root)
    names = ("a.parquet", "sub/b.parquet", "sub/sub/c.parquet", "_out/d.parquet", "subway/.e/f.parquet")
    for name in names:
        output.write_bytes(name, b"x")
    patterns = ("", "/", "/sub", "/su", "/*", "/*.parquet", "/*/*.parquet", "/**/*.parquet", "/**", "/_out")
    for pattern in patterns:
        found = [output.uri(name) for name in names if would_find(root + pattern, output.uri(name))]
        assert sorted(found) == expand(root + pattern), pattern
    assert not would_find("/elsewhere", "memory://elsewhere/a.parquet")


def test_storage_is_used_from_threads_and_sent_to_processes(root: str) -> None:
    output = pickle.loads(pickle.dumps(open_storage(root)))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: output.write_bytes(f"v/{n:02d}", bytes(n)), range(40)))
        sizes = list(pool.map(lambda n: len(output.read_bytes(f"v/{n:02d}")), range(40)))
    assert sizes == list(range(40))
    assert output.list("v") == [f"v/{n:02d}" for n in range(40)]


def test_output_that_can_be_used_is_left_as_it_was(root: str) -> None:
    output = open_storage(root)
    output.check_writable()
    assert output.list() == []


def test_a_plain_storage_sees_the_name_of_whole_files_only(tmp_path: Path) -> None:
    output = open_storage(f"plain://{tmp_path / 'out'}")
    (tmp_path / "clip.mp4").write_bytes(b"clip")
    PlainFileSystem.visible.clear()
    output.write_bytes("a", b"a")
    output.put_file(tmp_path / "clip.mp4", "b")
    assert len(PlainFileSystem.visible) == 2
    assert all(name.startswith(".") and name.endswith(".tmp") for name in PlainFileSystem.visible)
    assert output.list() == ["a", "b"]


# --- local -------------------------------------------------------------------------------------------


def _write_for_ever(folder: str, started: object) -> None:
    with open_storage(folder).create("video.mp4") as file:
        file.write(b"half a video")
        file.flush()
        started.set()
        signal.pause()


def test_a_killed_writer_leaves_nothing_that_is_listed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_write_for_ever, args=(str(tmp_path), started))
    process.start()
    assert started.wait(60)
    process.kill()
    process.join()
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".")
    assert open_storage(tmp_path).list() == []
    assert expand(tmp_path) == []


def test_a_local_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noting_fsync(handle: int) -> None:
        calls.append("fsync folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "fsync file")
        fsync(handle)

    def noting_replace(source: str, target: str) -> None:
        calls.append("rename")
        assert os.path.dirname(source) == os.path.dirname(target)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    open_storage(tmp_path).write_bytes("a.mp4", b"a")
    assert calls == ["fsync file", "rename", "fsync folder"]
    calls.clear()
    open_storage(tmp_path).write_bytes("new/folders/a.mp4", b"a")
    assert calls == ["fsync folder", "fsync folder", "fsync file", "rename", "fsync folder"]


def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = open_storage(tmp_path)
    output.write_bytes("a.mp4", b"old")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write .*a\.mp4: No space left on device"):
        output.write_bytes("a.mp4", b"new")
    with (
        pytest.raises(StorageError, match=r"a\.mp4: No space left on device"),
        output.create("a.mp4") as file,
    ):
        file.write(b"new")
    assert os.listdir(tmp_path) == ["a.mp4"]
    assert output.read_bytes("a.mp4") == b"old"


def test_local_files_have_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    open_storage(tmp_path).write_bytes("written", b"")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_local_paths_may_be_relative_and_odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert open_storage("out") == Storage(str(tmp_path / "out"))
    assert open_storage("~/out") == Storage(str(tmp_path / "home" / "out"))
    odd = "a::b #1?x=%20é"
    open_storage(odd).write_bytes("f", b"1")
    assert (tmp_path / odd / "f").read_bytes() == b"1"
    assert expand(odd) == [str(tmp_path / odd / "f")]


def test_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match=r"file/out cannot be used for output: cannot write .*Not a directory"):
        open_storage(tmp_path / "file" / "out").check_writable()


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = open_storage(tmp_path)
    output.write_bytes("ledger/a", b"1")

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(StorageError, match=r"cannot list .*ledger: Permission denied"):
        output.list("ledger")


# --- S3 ----------------------------------------------------------------------------------------------


@pytest.fixture
def s3_calls(s3_bucket: str) -> tuple[Storage, list[str]]:
    """Storage on S3, and the list of the requests that the client makes."""
    output = open_storage(f"s3://{s3_bucket}/out")
    output.list()
    calls: list[str] = []
    fs = fsspec.filesystem("s3")
    original = type(fs)._call_s3

    async def noting(self, method, *args, **kwargs):
        calls.append(method)
        return await original(self, method, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(fs), "_call_s3", noting)
        yield output, calls


def test_s3_gets_one_put_for_a_file_also_a_large_one(
    s3_calls: tuple[Storage, list[str]], s3_bucket: str, s3_endpoint: str, tmp_path: Path
) -> None:
    output, calls = s3_calls
    output.write_bytes("ledger/a.parquet", b"x")
    assert calls == ["put_object"]
    calls.clear()
    # Twice the size at which s3fs would send parts of its own accord.
    (tmp_path / "v.mp4").write_bytes(bytes(110 * 2**20))
    output.put_file(tmp_path / "v.mp4", "videos/v.mp4")
    assert calls == ["put_object"]
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    head = client.head_object(Bucket=s3_bucket, Key="out/videos/v.mp4")
    assert (head["ContentLength"], head["ContentType"]) == (110 * 2**20, "video/mp4")


def test_s3_file_beyond_one_put_is_sent_in_parts(
    s3_calls: tuple[Storage, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, calls = s3_calls
    monkeypatch.setattr(storage_folder, "_ONE_PUT_BYTES", 2**20)
    (tmp_path / "v.mp4").write_bytes(os.urandom(2**10) * (101 * 2**10))
    output.put_file(tmp_path / "v.mp4", "v.mp4")
    assert "put_object" not in calls
    assert calls[-1] == "complete_multipart_upload"
    assert output.read_bytes("v.mp4") == (tmp_path / "v.mp4").read_bytes()


def test_s3_that_refuses_a_part_leaves_nothing(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = open_storage(f"s3://{s3_bucket}/out")
    output.write_bytes("v.mp4", b"old")
    original = s3fs.S3FileSystem._call_s3

    async def refusing(self, method, *args, **kwargs):
        if method == "upload_part" and kwargs["PartNumber"] == 2:
            raise PermissionError("Access Denied")
        return await original(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", refusing)
    monkeypatch.setattr(storage_folder, "_ONE_PUT_BYTES", 2**20)
    (tmp_path / "v.mp4").write_bytes(bytes(101 * 2**20))
    for name in ("v.mp4", "new.mp4"):
        with pytest.raises(StorageError, match=f"cannot write s3://{s3_bucket}/out/{name}: Access Denied"):
            output.put_file(tmp_path / "v.mp4", name)
    assert output.list() == ["v.mp4"]
    assert output.read_bytes("v.mp4") == b"old"


def test_s3_listing_goes_beyond_one_page(
    s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    for n in range(25):
        client.put_object(Bucket=s3_bucket, Key=f"out/ledger/{n:05d}", Body=b"")
    client.put_object(Bucket=s3_bucket, Key="out/ledger/", Body=b"")  # a "folder" as the console makes it
    client.put_object(Bucket=s3_bucket, Key="out/ledger2/x", Body=b"")
    assert len(client.list_objects_v2(Bucket=s3_bucket)["Contents"]) == 10
    assert open_storage(f"s3://{s3_bucket}/out").list("ledger") == [f"ledger/{n:05d}" for n in range(25)]


@pytest.mark.usefixtures("s3_endpoint")
def test_a_bucket_that_is_not_there_is_refused() -> None:
    with pytest.raises(
        Refused, match=r"s3://no-such-bucket/out cannot be used for output: .*bucket does not exist"
    ):
        open_storage("s3://no-such-bucket/out").check_writable()


def test_storage_that_answers_no_one_is_refused(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied for https://user:hunter2@example.com/x?X-Amz-Signature=hunter2")

    monkeypatch.setattr(fsspec.filesystem("s3"), "pipe_file", no_answer)
    with pytest.raises(Refused) as caught:
        open_storage(f"s3://{s3_bucket}/out").check_writable()
    assert f"s3://{s3_bucket}/out cannot be used for output" in str(caught.value)
    assert "Access Denied for https://example.com/x" in str(caught.value)
    assert "hunter2" not in str(caught.value)


# --- URIs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("nonsense://a/b", "nonsense://a/b: Protocol not known"),
        ("b://a/b", "b://a/b: Protocol not known"),
        ("s3://key:hunter2@bucket/out", "s3://bucket/out: the URI holds a password"),
        ("s3://KEY:hun/ter/hunter2@bucket/out", "s3://bucket/out: the URI holds a password"),
        ("simplecache::s3://bucket/out", "chained"),
        ("s3://", "names no folder"),
        ("", "empty path"),
    ],
)
def test_uris_that_cannot_be_output(uri: str, said: str) -> None:
    with pytest.raises(Refused, match=said) as caught:
        open_storage(uri)
    assert "hunter2" not in str(caught.value)


def test_a_file_to_write_is_a_folder_and_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = Storage(str(tmp_path))
    assert open_writable_file("x.parquet") == open_writable_file(f"file://{tmp_path}/x.parquet")
    assert open_writable_file("x.parquet") == (here, "x.parquet")
    assert open_writable_file("/x.parquet") == (Storage("/"), "x.parquet")
    assert open_writable_file("s3://bucket/x.parquet") == (Storage("s3://bucket"), "x.parquet")
    assert open_writable_file("s3://bucket/a/x.parquet") == (Storage("s3://bucket/a"), "x.parquet")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://x.parquet", "s3://x.parquet: names no file"),
        ("s3://bucket/", "s3://bucket: names no file"),
        ("memory://x.parquet", "memory://x.parquet: each process has a memory of its own"),
        ("memory://a/x.parquet", "memory://a: each process has a memory of its own"),
        ("b://a/x.parquet", "b://a: Protocol not known: b"),
    ],
)
def test_files_that_cannot_be_written(uri: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        open_writable_file(uri)


class _Busy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(503)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Quiet."""


def test_a_host_that_is_busy_is_not_told_as_a_missing_file() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}/a.png"
        for call in (read_bytes, open_input, expand):
            with pytest.raises(OSError, match="503"):
                call(f"{uri}?sig=hunter2")
        server.shutdown()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_uri: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(clients, "url_to_fs", missing)
    with pytest.raises(Refused, match=r"s3://bucket/out: .*vidgen-dist\[s3\]"):
        open_storage("s3://bucket/out")


# --- names of rows -----------------------------------------------------------------------------------

ODD_IDS = [
    "a/b", "a\\b", "..", ".", "../../etc/passwd", "", " ", "a\nb", "a\0b", "x" * 1000, "x" * 1001, "🎬",
    "Row", "row", "ROW", "café", "cafe\u0301", "row--1", "con", "nul.mp4", "a.", ".hidden", "-rf", "~",
    "🎬🎬", "ı", "İ", "a:b", "a*b", "Ａ", "\ud800", "row-1", "row_1", "row.1", "_row", "videos",
]  # fmt: skip

ids = st.text(max_size=40) | st.text("aAbB./-_ 🎬", max_size=8) | st.sampled_from(ODD_IDS)


@given(ids)
def test_a_name_is_one_plain_part_of_a_path(row_id: str) -> None:
    name = safe_name(row_id)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert 1 <= len(name) <= 100
    assert name[0] not in ".-"
    assert name[-1] != "."
    assert Storage("/out").uri(f"videos/{name}.mp4") == f"/out/videos/{name}.mp4"


@given(ids, ids)
def test_two_ids_have_two_names(one: str, other: str) -> None:
    assert (safe_name(one) == safe_name(other)) == (one == other)


@given(ids)
def test_no_id_is_the_name_of_another(row_id: str) -> None:
    name = safe_name(row_id)
    assert name == row_id or safe_name(name) != name


def test_odd_ids_have_names_of_their_own() -> None:
    assert len({safe_name(row_id).casefold() for row_id in ODD_IDS}) == len(ODD_IDS)


def test_plain_ids_are_their_own_names_and_others_readable() -> None:
    for plain in ("prompts-000012", "a", "7", "clip_1.5b", "0123456789abcdef" * 2):
        assert safe_name(plain) == plain
    assert safe_name("Zoë's Cat / take 2").startswith("zoe-s-cat-take-2--")
    assert safe_name("🎬").startswith("row--")
    assert safe_name("videos").startswith("videos--")


@given(st.sampled_from(ODD_IDS))
def test_files_of_odd_ids_stay_in_their_folder(tmp_path_factory: pytest.TempPathFactory, row_id: str) -> None:
    folder = tmp_path_factory.mktemp("out")
    open_storage(folder / "out").write_bytes(f"videos/{safe_name(row_id)}.mp4", b"v")
    assert [p for p in folder.rglob("*") if p.is_file()] == [
        folder / "out" / "videos" / f"{safe_name(row_id)}.mp4"
    ]
