"""Outputs that earlier commits left when their runs were killed: `vidgen` goes on with them.

They are used as by a person: with the command; `status.json`, logs and ledger show what it did.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from tests.commands import Vidgen
from tests.old_outputs import OUTPUTS, OldOutput
from tests.outputs import entries

MEASURED = ("mean_luma", "motion", "clipped", "noisiness")


def by_run_file(old: OldOutput, folder: Path) -> list[str | Path]:
    """The output's own run file, with the manifest's present place."""
    settings = yaml.safe_load((folder / "out" / "run.yaml").read_text())
    settings["manifest"]["uri"] = str(folder / "manifest.parquet")
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return [folder / "run.yaml", folder / "out", "--model", old.checkpoint]


def by_flags(old: OldOutput, folder: Path) -> list[str | Path]:
    """The flags that it was begun with."""
    return [folder / "manifest.parquet", folder / "out", "--model", old.checkpoint, *old.flags(folder)]


def content(folder: Path) -> dict[str, tuple[int, str]]:
    """File -> when it was written, and the digest of its content."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def events(out: Path, kind: str) -> list[dict[str, Any]]:
    """Events in the workers' logs; the logs of earlier runs are not there."""
    lines = [line for log in sorted((out / "logs").iterdir()) for line in log.read_text().splitlines()]
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def assert_resumed(old: OldOutput, out: Path, release: str) -> None:
    """The saved rendering was resumed at its step; a state in another format is ignored."""
    (resumed,) = events(out, "resumed")
    assert resumed["row"] == old.expected["saved"]
    steps = [event["step"] for event in events(out, "saved") if event["row"] == old.expected["saved"]]
    if release == old.expected["release"]:
        assert "error" not in resumed
        assert resumed["step"] == old.expected["step"]
        assert min(steps) > old.expected["step"]
    else:
        assert f"is of release {old.expected['release']}" in resumed["message"]


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(("name", "begin"), [("cogvideox", by_run_file), ("ltx", by_flags)])
def test_only_pending_rows_are_rendered(
    vidgen: Vidgen, tmp_path: Path, name: str, begin: Callable[[OldOutput, Path], list[str | Path]]
) -> None:
    old = OUTPUTS[name]
    expected = old.expected
    done, failed, recovered = (set(expected[key]) for key in ("done", "failed", "adopted"))
    rows = {row["id"]: row for row in expected["rows"]}
    pending = rows.keys() - done - failed
    folder = old.copy(tmp_path)
    out = folder / "out"
    videos, parts, before = content(out / "videos"), content(out / "ledger"), entries(out)

    # The output is as the killed run left it.
    assert {entry["id"] for entry in before if entry["status"] == "done"} == done
    status = json.loads(vidgen("status", out, "--json").out)
    assert (status["done"], status["failed"], status["run"]["live"]) == (len(done), len(failed), False)
    verified = json.loads(vidgen("verify", out, "--deep", "--json").out)
    assert (verified["whole"], verified["missing"], verified["torn"]) == (len(done), 0, 0)
    assert verified["orphaned"] == len(recovered)

    assert vidgen("render", *begin(old, folder)).status == (1 if failed else 0)

    # Finished videos are unchanged.
    assert content(out / "videos").items() >= videos.items()
    assert content(out / "ledger").items() >= parts.items()
    new = [entry for entry in entries(out) if entry not in before]
    tried = {entry["id"]: (entry["status"], entry["attempt"]) for entry in new}
    assert tried == dict.fromkeys(pending, ("done", 1)) | dict.fromkeys(failed, ("failed", 2))
    assert len(new) == len(tried)
    assert {event["row"] for event in events(out, "adopted")} == recovered
    assert {event["row"] for event in events(out, "committed")} == pending - recovered
    assert_resumed(old, out, vidgen("--version").out.strip())
    assert not any(path.is_file() for path in (out / "scratch").rglob("*"))

    # The other videos are those of an uninterrupted run.
    found = {entry["id"]: entry for entry in entries(out)}
    for row_id, row in rows.items():
        assert_same_video(out, found[row_id], row, recovered=row_id in recovered)
    saved, twin = found[expected["saved"]], found[expected["twin"]]
    # Its first steps were computed on another processor, whose arithmetic rounds differently.
    for name in MEASURED:
        # Older entries lack newer columns.
        if twin.get(name) is not None:
            assert saved[name] == pytest.approx(twin[name], rel=1e-5, abs=1e-6), name
    if saved["uri"].endswith(".npy"):
        apart = np.load(saved["uri"]).astype(int) - np.load(twin["uri"])
        assert np.abs(apart).max() <= 1

    # Maintenance of the output.
    assert pq.read_table(out / "ledger").num_rows == len(before) + len(new)
    status = json.loads(vidgen("status", out, "--json").out)
    counts = [status[key] for key in ("counted", "total", "done", "failed", "pending")]
    assert counts == ["run", len(rows), len(rows) - len(failed), len(failed), 0]
    verified = json.loads(vidgen("verify", out, "--deep", "--json").out)
    assert (verified["whole"], verified["orphaned"]) == (len(rows) - len(failed), 0)
    assert {letter["id"] for letter in json.loads(vidgen("failures", out, "--json").out)} == failed


def assert_same_video(out: Path, entry: dict[str, Any], row: dict[str, Any], *, recovered: bool) -> None:
    """A row's entry agrees with that of an uninterrupted rendering, and the video agrees with the entry."""
    for name, value in row.items():
        if name in MEASURED and value is not None:
            # A recovered video is measured after encoding, which changes such small frames too much.
            assert recovered or entry[name] == pytest.approx(value, abs=1e-4)
        elif name != "sha256":
            assert entry[name] == value, (row["id"], name)
    if entry["status"] == "done":
        # Older entries name the output's old place.
        video = out / entry["uri"].partition("/out/")[2]
        # Not the values of then: another processor rounds differently, another encoder makes another mp4.
        assert hashlib.sha256(video.read_bytes()).hexdigest() == entry["sha256"]


@pytest.mark.usefixtures("local_ray", "unchecked")
def test_only_a_failed_row_that_was_corrected_is_rendered(vidgen: Vidgen, tmp_path: Path) -> None:
    old = OUTPUTS["ltx"]
    (failed,) = old.expected["failed"]
    folder = old.copy(tmp_path)
    out = folder / "out"
    scratch, before = content(out / "scratch"), entries(out)
    shutil.copy(folder / "fox.png", folder / "torn.png")
    assert vidgen("render", *by_flags(old, folder), "--retry", "failed:MediaError").status == 0
    (new,) = (entry for entry in entries(out) if entry not in before)
    # Another image gives another fingerprint, which has not been tried yet.
    assert (new["id"], new["status"], new["attempt"]) == (failed, "done", 1)
    assert content(out / "scratch") == scratch
    assert json.loads(vidgen("failures", out, "--json").out) == []
    status = json.loads(vidgen("status", out, "--json").out)
    counts = [status[key] for key in ("done", "failed", "pending")]
    assert counts == [3, 0, len(old.expected["rows"]) - 3]
