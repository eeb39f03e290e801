"""Files that are unreadable, broken links, or not what their names say."""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.weights.files import write_checkpoint
from vidgen_dist.errors import Refused
from vidgen_dist.weights.checkpoint import INDEX, open_checkpoint
from vidgen_dist.weights.checkpoint_files import read_json
from vidgen_dist.weights.repository import open_component
from vidgen_dist.weights.tensors import TensorFiles

ENCODER = Path("text_encoder", "model.safetensors")
SHARD = Path("transformer", "diffusion_pytorch_model-00002-of-00002.safetensors")
SHARDS = Path("transformer", "diffusion_pytorch_model.safetensors.index.json")
CONFIG = Path("text_encoder", "config.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


def forbid(monkeypatch: pytest.MonkeyPatch, forbidden: Path) -> None:
    """Let the system deny access to this path, and to everything below it, as to a user without permission.

    Tests may run as a user who may do everything.
    """

    def guarded(real: Callable[..., Any], of_itself: bool) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(path, str | os.PathLike):
                own = Path(path)
                if forbidden in own.parents or (own == forbidden and of_itself):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path, *args, **kwargs)

        return call

    for module, name in ((builtins, "open"), (io, "open"), (os, "listdir")):
        monkeypatch.setattr(module, name, guarded(getattr(module, name), of_itself=True))
    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name), of_itself=False))


@pytest.mark.parametrize("name", [Path(INDEX), ENCODER, SHARD, SHARDS, CONFIG])
def test_a_file_without_permission(folder: Path, monkeypatch: pytest.MonkeyPatch, name: Path) -> None:
    forbid(monkeypatch, folder / name)
    with pytest.raises(Refused) as refused:
        open_checkpoint(folder)
    assert str(refused.value).startswith(f"{folder / name}: no permission to read it for the user ")


@pytest.mark.parametrize("name", ["text_encoder", "tokenizer", "."])
def test_a_folder_without_permission(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    forbid(monkeypatch, folder / name)
    with pytest.raises(
        Refused, match=r"no permission to read it for the user .*or to enter a folder above it"
    ):
        open_checkpoint(folder)


def test_a_folder_above_without_permission(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch, folder.parent)
    for opened in (open_checkpoint, lambda path: open_component("adapter", str(path)), TensorFiles.open):
        with pytest.raises(Refused, match=rf"^{folder}: no permission to read it for the user"):
            opened(folder)


def test_weights_that_lose_their_permission_after_opening(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = TensorFiles.open(folder / "text_encoder")
    forbid(monkeypatch, folder / ENCODER)
    with pytest.raises(Refused, match=r"model.safetensors: no permission"):
        files.read("shared.weight")


@pytest.mark.parametrize("name", [Path(INDEX), ENCODER, SHARD, SHARDS, CONFIG, Path("text_encoder")])
def test_a_link_that_leads_nowhere(folder: Path, name: Path) -> None:
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to("../../blobs/0123abcd")
    with pytest.raises(Refused) as refused:
        open_checkpoint(folder)
    assert str(refused.value).startswith(
        f"{path}: it is a link to ../../blobs/0123abcd, which does not lead "
    )


def test_a_link_in_a_circle(folder: Path) -> None:
    (folder / ENCODER).unlink()
    (folder / ENCODER).symlink_to(ENCODER.name)
    with pytest.raises(
        Refused, match=r"model.safetensors: it is a link to model.safetensors, which does not"
    ):
        open_checkpoint(folder)


def test_links_that_nobody_needs_may_lead_nowhere(folder: Path) -> None:
    (folder / "text_encoder" / "pytorch_model.bin.bak").symlink_to("nowhere")
    open_checkpoint(folder).digest()


def test_a_folder_where_a_file_should_be(folder: Path) -> None:
    (folder / CONFIG).unlink()
    (folder / CONFIG).mkdir()
    with pytest.raises(Refused, match=r"config.json: it is a folder; a file is needed"):
        open_checkpoint(folder)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 11143990320\n"
BEGINNINGS = {
    LFS: "it is a git-lfs pointer: run `git lfs pull`",
    b"": "it is empty: copy or download it again",
    b"<!DOCTYPE html><html><head><title>Sign in</title>": "it is an HTML page, such as a login",
    b"\n <HTML>\n<body>404": "it is an HTML page",
    b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>": "it is an XML text",
    b"\0" * 600: "it is zeros, as a copy that was cut short leaves",
    b"\x1f\x8b\x08\0\0\0\0\0\0\0": "it is a compressed file",
}


@pytest.mark.parametrize(("content", "told"), BEGINNINGS.items(), ids=BEGINNINGS.values())
@pytest.mark.parametrize("name", [ENCODER, SHARD, CONFIG, SHARDS, Path(INDEX)])
def test_a_file_that_is_something_else(folder: Path, name: Path, content: bytes, told: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(Refused) as refused:
        open_checkpoint(folder)
    assert str(refused.value).startswith(str(folder / name))
    assert f"; {told}" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"GGUF\3\0\0\0" + bytes(64), "it is a GGUF file, whose weights are quantised"),
        (b"PK\3\4" + bytes(64), "it is a pickled PyTorch file: diffusers'"),
        (b"\x80\2\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "it is a pickled PyTorch file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "it is an HDF5 file"),
    ],
)
def test_weights_of_another_format_under_the_name(folder: Path, content: bytes, told: str) -> None:
    (folder / ENCODER).write_bytes(content)
    with pytest.raises(Refused, match=rf"model.safetensors: not a whole safetensors file .*; {told}"):
        open_checkpoint(folder)


@pytest.mark.parametrize("kept", [4, 8, 40, 200])
def test_weights_that_are_cut_short_anywhere(folder: Path, kept: int) -> None:
    whole = (folder / ENCODER).read_bytes()
    (folder / ENCODER).write_bytes(whole[:kept])
    with pytest.raises(Refused, match=r"model.safetensors: not a whole safetensors file"):
        open_checkpoint(folder)
    (folder / ENCODER).write_bytes(whole[:-3])
    with pytest.raises(Refused, match=rf"; it has {len(whole) - 3} of {len(whole)} bytes: copy or download"):
        open_checkpoint(folder)


def test_json_that_is_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(Refused, match=r"config.json: not JSON of a config: it is nested too deeply"):
        read_json(tmp_path / "config.json")
