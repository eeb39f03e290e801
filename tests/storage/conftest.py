"""An empty folder on each kind of storage."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from vidgen_dist.storage import failures


class PlainFileSystem(LocalFileSystem):
    """Stands for a storage other than this machine's disk and object stores."""

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


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that calls to storages wait before they are repeated, instead of waiting."""
    waited: list[float] = []
    monkeypatch.setattr(failures, "time", SimpleNamespace(sleep=waited.append))
    return waited


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
