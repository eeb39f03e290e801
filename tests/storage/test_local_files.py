"""Files on this machine are on the disk, whole, before they get their names."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
from pathlib import Path

import pytest

from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import Storage, open_storage
from vidgen_dist.storage.listing import expand


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
