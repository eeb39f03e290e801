"""A folder keeps its promises on a local disk, on S3 (the real client), in memory and elsewhere."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from tests.storage.conftest import PlainFileSystem
from vidgen_dist.errors import Refused
from vidgen_dist.storage import clients
from vidgen_dist.storage.files import fetch, open_input, read_bytes, size, stamp
from vidgen_dist.storage.folder import Storage, open_storage, open_writable_file
from vidgen_dist.storage.listing import expand
from vidgen_dist.storage.names import is_temporary


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


def test_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match=r"file/out cannot be used for output: cannot write .*Not a directory"):
        open_storage(tmp_path / "file" / "out").check_writable()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("nonsense://a/b", "nonsense://a/b: Protocol not known"),
        ("b://a/b", "b://a/b: Protocol not known"),
        ("s3://key:hunter2@bucket/out", "s3://bucket/out: the URI holds a password"),
        ("s3://KEY:hun/ter/hunter2@bucket/out", "s3://bucket/out: the URI holds a password"),
        ("simplecache::s3://bucket/out", "chained"),
        ("s3://", "does not name a folder"),
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
        ("s3://x.parquet", "s3://x.parquet: does not name a file"),
        ("s3://bucket/", "s3://bucket: does not name a file"),
        ("memory://x.parquet", "memory://x.parquet: each process has its own memory"),
        ("memory://a/x.parquet", "memory://a: each process has its own memory"),
        ("b://a/x.parquet", "b://a: Protocol not known: b"),
    ],
)
def test_files_that_cannot_be_written(uri: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        open_writable_file(uri)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_uri: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(clients, "url_to_fs", missing)
    with pytest.raises(Refused, match=r"s3://bucket/out: .*vidgen-dist\[s3\]"):
        open_storage("s3://bucket/out")
