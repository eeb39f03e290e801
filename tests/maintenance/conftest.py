"""A wide terminal; an output to export."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.maintenance.exports import put_failure, put_manifest
from tests.maintenance.outputs import put_run
from vidgen_dist.storage.folder import Storage


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal so wide that no line is wrapped."""
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def output(tmp_path: Path) -> Storage:
    """Ten rows: eight done, one failed, one pending."""
    output = put_run(str(tmp_path / "out"), manifest=put_manifest(tmp_path / "manifest.parquet"))
    put_failure(output, "bad")
    return output


@pytest.fixture
def place(tmp_path: Path) -> str:
    """The destination of an export."""
    return str(tmp_path / "exported")
