"""Run files of outputs that were moved or copied."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml

from vidgen_dist.errors import Refused
from vidgen_dist.ledger import LedgerEntry, LedgerWriter
from vidgen_dist.output.run_file import load_run
from vidgen_dist.output_layout import LEDGER_FOLDER, RUN_FILE, STATUS_FILE
from vidgen_dist.storage.folder import Storage, open_storage


def make_output(uri: str | Path, *, names: str | None = None) -> Storage:
    """Create an output with one finished row, whose run.yaml names an output, itself by default."""
    output = open_storage(uri)
    with LedgerWriter(output, "w") as writer:
        writer.append(
            LedgerEntry(
                id="a",
                status="done",
                fingerprint="f",
                attempt=1,
                finished_at=datetime.now(UTC),
                uri="videos/00/a.mp4",
            )
        )
    spec = {"model": {"id": "m"}, "manifest": {"uri": "m.parquet"}, "output": {"uri": names or output.root}}
    output.write_bytes(RUN_FILE, yaml.safe_dump(spec).encode())
    return output


def output_of(run_file: str | Path, options: Mapping[str, Any] | None = None) -> str:
    return load_run(str(run_file), options or {}).output.uri


def test_an_output_in_its_place_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    make_output(out)
    assert output_of(out / RUN_FILE) == str(out)
    monkeypatch.chdir(out)
    for same in ("run.yaml", "../out/run.yaml", f"file://{out}/run.yaml"):
        assert output_of(same) == str(out)
    # Also by another name of the same folder.
    (tmp_path / "link").symlink_to(out)
    assert output_of(tmp_path / "link" / RUN_FILE) == str(out)


@pytest.mark.parametrize("change", [shutil.copytree, os.rename])
@pytest.mark.parametrize("lost", [LEDGER_FOLDER, STATUS_FILE])
def test_a_moved_output_is_refused(tmp_path: Path, change: Any, lost: str) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    make_output(old)
    now = "2026-01-01T00:00:00Z"
    counts = '"total": 1, "done": 1, "failed": 0, "pending": 0'
    (old / STATUS_FILE).write_text(
        f'{{"run": "r", "state": "finished", "since": "{now}", "updated": "{now}", {counts}}}'
    )
    change(old, new)
    # Each of these shows that a run was here.
    if lost == LEDGER_FOLDER:
        shutil.rmtree(new / lost)
    else:
        (new / lost).unlink()
    message = (
        f"^{re.escape(str(new / RUN_FILE))}: is in an output, but its output.uri is another place, {old}: "
    )
    with pytest.raises(Refused, match=message) as refused:
        output_of(new / RUN_FILE)
    assert f"{new} to go on with this one, or {old} for the other" in str(refused.value)
    with pytest.raises(Refused, match=message):
        output_of(new / RUN_FILE, {"output.crf": 20, "output": {"format": "gif"}})
    for given in (str(new), str(old), str(tmp_path / "third")):
        assert output_of(new / RUN_FILE, {"output.uri": given}) == given
        assert output_of(new / RUN_FILE, {"output": {"uri": given}}) == given


def test_a_relative_output_is_named_by_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_file = make_output(tmp_path / "out", names="out").uri(RUN_FILE)
    monkeypatch.chdir(tmp_path)
    assert output_of(run_file) == "out"
    monkeypatch.chdir(tmp_path / "out")
    with pytest.raises(Refused, match=rf"is another place, {tmp_path}/out/out: was"):
        output_of(run_file)


def test_a_run_file_outside_of_outputs_is_accepted(tmp_path: Path) -> None:
    make_output(tmp_path / "out")
    shutil.copy(tmp_path / "out" / RUN_FILE, tmp_path / RUN_FILE)
    # Files of other tools.
    (tmp_path / STATUS_FILE).write_text("{}")
    (tmp_path / LEDGER_FOLDER).mkdir()
    (tmp_path / LEDGER_FOLDER / "2026.csv").touch()
    assert output_of(tmp_path / RUN_FILE) == str(tmp_path / "out")
    # A run file for another output may be kept beside an output's own.
    make_output(tmp_path / "other")
    shutil.copy(tmp_path / "out" / RUN_FILE, tmp_path / "other" / "next.yaml")
    assert output_of(tmp_path / "other" / "next.yaml") == str(tmp_path / "out")


def test_a_copied_output_on_an_object_store_is_refused(s3_bucket: str) -> None:
    there = f"s3://{s3_bucket}/out"
    make_output(there)
    assert output_of(f"{there}/{RUN_FILE}") == there
    assert output_of(f"s3a://{s3_bucket}/out/{RUN_FILE}") == there
    make_output(f"s3://{s3_bucket}/copy", names=there)
    with pytest.raises(Refused, match=f"is in an output, but its output.uri is another place, {there}: "):
        output_of(f"s3://{s3_bucket}/copy/{RUN_FILE}")


@pytest.mark.parametrize("output", ["hdfs://nn.invalid/out", "sftp://host.invalid/out", "nowhere://x/out"])
def test_an_output_that_only_the_cluster_reaches_is_not_opened_here(tmp_path: Path, output: str) -> None:
    """The folder is no output: what the run file names need not be asked."""
    spec = {"model": {"id": "m"}, "manifest": {"uri": "m.parquet"}, "output": {"uri": output}}
    (tmp_path / RUN_FILE).write_text(yaml.safe_dump(spec))
    assert output_of(tmp_path / RUN_FILE) == output


def test_an_output_with_a_run_file_of_a_place_that_cannot_be_reached_is_refused(tmp_path: Path) -> None:
    make_output(tmp_path / "out", names="sftp://host.invalid/out")
    with pytest.raises(Refused, match=r"its output\.uri is another place, sftp://host\.invalid/out: "):
        output_of(tmp_path / "out" / RUN_FILE)


def test_a_run_file_at_the_root_of_a_storage_is_in_no_output() -> None:
    spec = {"model": {"id": "m"}, "manifest": {"uri": "m.parquet"}, "output": {"uri": "/data/out"}}
    file = f"memory://{RUN_FILE}"
    with fsspec.open(file, "wb") as target:
        target.write(yaml.safe_dump(spec).encode())
    try:
        assert output_of(file) == "/data/out"
    finally:
        fsspec.filesystem("memory").rm(f"/{RUN_FILE}")
