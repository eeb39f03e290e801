"""Outputs whose ledger a test writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidgen_dist.storage.folder import Storage, open_storage


@pytest.fixture
def output(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "out")


@pytest.fixture(params=["local", "s3"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(tmp_path / "out")
    return open_storage(f"s3://{request.getfixturevalue('s3_bucket')}/run")
