"""`vidgen verify`: missing, torn and orphaned videos, and their repair."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.commands import Vidgen, run_apart
from tests.fake_engine import FAKE_ENGINE
from tests.maintenance.outputs import ODD_IDS, path_in_output, put_run, put_video, write_status
from tests.outputs import entries
from vidgen_dist import ledger, media
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import LedgerEntry, LedgerWriter, read_ledger
from vidgen_dist.maintenance import verification as verifying
from vidgen_dist.maintenance.status import read_status
from vidgen_dist.maintenance.verification import Verification, verify
from vidgen_dist.output import lease as leases
from vidgen_dist.output.status_file import read_status_file
from vidgen_dist.output_layout import LEASE_FILE
from vidgen_dist.runtime.driver.render import render
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.folder import Storage, open_storage

Make = Callable[..., Storage]


@pytest.fixture
def output(tmp_path: Path) -> Storage:
    return put_run(str(tmp_path / "out"))


def paths(output: Storage) -> list[Path]:
    return [Path(output.uri(name)) for name in output.list("videos")]


def counts(found: Verification) -> tuple[int, int, int, int]:
    return found.whole, found.missing, found.torn, found.orphaned


@pytest.mark.parametrize("format", media.FORMATS)
def test_a_whole_output(tmp_path: Path, format: str) -> None:
    output = put_run(str(tmp_path / "out"), format)
    for deep in (False, True):
        found = verify(output.root, deep=deep)
        assert counts(found) == (len(ODD_IDS), 0, 0, 0)
        assert (found.ok, found.findings, found.run) == (True, (), None)


def test_a_row_of_the_name_of_the_folder(tmp_path: Path) -> None:
    output = put_run(str(tmp_path / "videos" / "out"), "png", ids=("videos", "videos/a"))
    assert counts(verify(output.root)) == (2, 0, 0, 0)


def test_after_a_repair_nobody_counts_by_the_latest_run(output: Storage) -> None:
    """The status file did not know what was lost later."""
    write_status(Path(output.root), state="finished", counted="abc")
    paths(output)[0].unlink()
    assert verify(output.root, repair=True).lost == 1
    status = read_status_file(output)
    assert status is not None
    assert (status.counted, status.state, status.done) == ("", "finished", 5)


def test_missing_torn_and_orphaned(output: Storage) -> None:
    a, b, case = (path_in_output(output, row) for row in ("a", "../b/c", "Case"))
    Path(output.uri(a)).unlink()
    with open(output.uri(b), "ab") as file:
        file.write(b"more")
    shutil.copy(output.uri(case), output.uri("videos/stray.mp4"))
    Path(output.uri(f"{case.rpartition('/')[0]}/.{'0' * 32}.tmp")).write_bytes(b"half")
    found = verify(output.root)
    assert counts(found) == (len(ODD_IDS) - 2, 1, 1, 1)
    assert (found.temporary, found.lost, found.ok) == (1, 0, False)
    size = Path(output.uri(b)).stat().st_size
    findings = {(finding.kind, finding.path, finding.id): finding.message for finding in found.findings}
    assert findings == {
        ("missing", a, "a"): "there is no such file",
        ("torn", b, "../b/c"): f"{size:,} bytes, where the ledger says {size - 4:,}",
        ("orphaned", "videos/stray.mp4", None): "no ledger entry names it",
    }


def test_only_deep_sees_what_keeps_its_size(output: Storage) -> None:
    path = Path(output.uri(path_in_output(output, "a")))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert verify(output.root).ok
    (finding,) = verify(output.root, deep=True).findings
    assert (finding.kind, finding.id, "SHA-256" in finding.message) == ("torn", "a", True)


def test_deep_decodes(output: Storage) -> None:
    """Files whose size and SHA-256 match the ledger, but whose frames do not."""
    wrong_count = replace(put_video(output, "a", 0), frames=4)
    broken = put_video(output, "case", 1)
    data = Path(output.uri(path_in_output(output, "case"))).read_bytes()[:-300]
    output.write_bytes(path_in_output(output, "case"), data)
    broken = replace(broken, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    with LedgerWriter(output, "w1") as writer:
        for each in (wrong_count, broken):
            writer.append(replace(each, extra={}))
    assert verify(output.root).ok
    findings = {finding.id: finding.message for finding in verify(output.root, deep=True).findings}
    assert set(findings) == {"a", "case"}
    assert findings["a"] == "3 frames, where the ledger says 4"
    assert "does not decode" in findings["case"]


@pytest.mark.parametrize("format", ["mp4", "png"])
def test_a_video_that_was_rendered_again(tmp_path: Path, format: str) -> None:
    """Older entries of a row whose file was replaced are not reported, whatever they say."""
    output = put_run(str(tmp_path / "out"), format, ids=("a", "b"))
    with LedgerWriter(output, "w1") as writer:
        writer.append(replace(put_video(output, "a", 7, format), extra={}))
        writer.append(
            LedgerEntry(
                id="b",
                status="failed",
                fingerprint="g",
                attempt=2,
                finished_at=datetime.now(UTC) + timedelta(hours=1),
                error_class="OSError",
            )
        )
    found = verify(output.root, deep=True)
    assert counts(found) == (2, 0, 0, 0)
    assert found.superseded == (format == "png")


def test_frames_that_are_gone(tmp_path: Path) -> None:
    output = put_run(str(tmp_path / "out"), "png", ids=("a", "b", "c"))
    frames = {row: [path for path in paths(output) if path.parts[-3] == row] for row in "abc"}
    frames["a"][0].unlink()
    shutil.rmtree(frames["b"][0].parent)
    frames["c"][0].with_name("stray").mkdir()
    shutil.copytree(frames["c"][0].parent, frames["c"][0].parent.with_name("0" * 16))
    found = verify(output.root)
    assert counts(found) == (1, 1, 1, 1)
    assert [finding.message for finding in found.findings if finding.id == "a"] == [
        "2 frames, where the ledger says 3"
    ]


def test_an_output_that_was_moved(output: Storage, tmp_path: Path) -> None:
    shutil.move(output.root, tmp_path / "moved" / "videos" / "elsewhere")
    found = verify(str(tmp_path / "moved" / "videos" / "elsewhere"), deep=True)
    assert counts(found) == (len(ODD_IDS), 0, 0, 0)


def test_what_a_run_enters_meanwhile_is_in_order(output: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the reading of the ledger and the listing: a new row, and one that is rendered anew."""
    listing = Storage.entries

    def list_later(self: Storage, prefix: str = "") -> tuple:
        with LedgerWriter(output, "w1") as writer:
            for number, row in ((50, "new"), (51, "a")):
                writer.append(replace(put_video(output, row, number), extra={}))
        return listing(self, prefix)

    monkeypatch.setattr(Storage, "entries", list_later)
    assert counts(verify(output.root)) == (len(ODD_IDS), 0, 0, 0)


def test_repair_takes_the_ledgers_word_back(output: Storage) -> None:
    before = read_ledger(output)
    assert before.is_done("a", "f0")
    assert before.is_done("Case", "f5")
    Path(output.uri(path_in_output(output, "a"))).unlink()
    Path(output.uri(path_in_output(output, "Case"))).write_bytes(b"")
    found = verify(output.root, repair=True)
    assert (found.missing, found.torn, found.lost, found.ok) == (1, 1, 2, False)
    after = read_ledger(output)
    assert not after.is_done("a", "f0")
    assert not after.is_done("Case", "f5")
    assert (after.done, after.failed) == (len(ODD_IDS) - 2, 0)
    lost = {row["id"]: row for row in entries(output.root) if row["status"] == "lost"}
    assert {row: entry["error_class"] for row, entry in lost.items()} == {
        "a": "VideoMissing",
        "Case": "VideoTorn",
    }
    # Parts of one run share one schema.
    assert len({ledger.read_part(output, name).schema for name in output.list("ledger")}) == 1
    assert not output.exists(LEASE_FILE)

    again = verify(output.root, repair=True)
    assert (again.ok, again.lost, again.orphaned) == (True, 0, 1)
    assert [finding.message for finding in again.findings] == ["its row was marked as lost"]
    with LedgerWriter(output, "w1") as writer:
        for number, row in ((0, "a"), (5, "Case")):
            writer.append(replace(put_video(output, row, number), extra={}, attempt=2))
    assert counts(verify(output.root, deep=True)) == (len(ODD_IDS), 0, 0, 0)
    assert read_ledger(output).done == len(ODD_IDS)


@pytest.mark.usefixtures("local_ray")
def test_the_next_run_renders_what_was_lost(
    make_spec: Callable[..., RunSpec], make_manifest: Callable[..., str], tmp_path: Path
) -> None:
    spec = make_spec(make_manifest("one", "two", "three", "four"))
    console = Console(file=io.StringIO())
    assert render(spec, console, engine=FAKE_ENGINE).done == 4
    output = open_storage(tmp_path / "out")
    contents = {path: output.read_bytes(path) for path in output.list("videos")}
    Path(output.uri(path_in_output(output, "b"))).unlink()
    output.write_bytes(path_in_output(output, "d"), b"torn")
    assert verify(output.root, repair=True).lost == 2
    found = read_status(output.root)
    assert (found["done"], found["failed"], found["pending"]) == (2, 0, 2)
    again = render(spec, console, engine=FAKE_ENGINE)
    assert (again.done_before, again.done, again.exit_status) == (2, 2, 0)
    assert {path: output.read_bytes(path) for path in output.list("videos")} == contents
    assert counts(verify(output.root, deep=True)) == (4, 0, 0, 0)
    tried = [(entry["id"], entry["attempt"], entry["status"]) for entry in entries(output.root)]
    assert sorted(row for row in tried if row[0] == "b") == [
        ("b", 1, "done"),
        ("b", 1, "lost"),
        ("b", 2, "done"),
    ]


def test_repair_refuses_an_output_that_a_run_holds(output: Storage) -> None:
    policy = leases.LeasePolicy(interval_seconds=0.1)
    Path(output.uri(path_in_output(output, "a"))).unlink()
    with leases.acquire(output, "run-1", print_line=print, policy=policy):
        with pytest.raises(Refused, match=r"run run-1 .* is rendering into it"):
            verify(output.root, repair=True, policy=policy)
        found = verify(output.root)
    assert (found.missing, found.lost) == (1, 0)
    assert found.run is not None
    assert "run-1" in found.run


def test_repair_refuses_where_all_videos_are_gone(output: Storage) -> None:
    """As if a disk were not mounted."""
    shutil.rmtree(output.uri("videos"))
    assert verify(output.root).missing == len(ODD_IDS)
    parts = output.list("ledger")
    with pytest.raises(Refused, match="there is no file in it, and the ledger names 8"):
        verify(output.root, repair=True)
    assert output.list("ledger") == parts


def test_on_s3(s3_bucket: str) -> None:
    output = put_run(f"s3://{s3_bucket}/run")
    torn, gone = path_in_output(output, "case"), path_in_output(output, "a")
    data = bytearray(output.read_bytes(torn))
    data[len(data) // 2] ^= 1
    output.write_bytes(torn, bytes(data))
    output.delete(gone)
    # As some tools leave it for a folder.
    fsspec.filesystem("s3").pipe_file(f"{s3_bucket}/run/videos/", b"")
    found = verify(output.root, deep=True, repair=True)
    assert (found.whole, found.missing, found.torn, found.orphaned, found.lost) == (6, 1, 1, 0, 2)
    assert read_ledger(output).done == 6


def folder_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:2]


@pytest.mark.parametrize(
    ("files", "folders", "listers"),
    [(0, 0, 1), (100, 256, 16), (10**7, 256, 13), (10**8, 256, 1), (10**9, 256, 1)],
)
def test_large_folders_are_listed_one_after_the_other(files: int, folders: int, listers: int) -> None:
    assert verifying._listers(files, folders) == listers


def test_requests_are_by_folder_not_by_video(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    output = open_storage(f"s3://{s3_bucket}/run")
    put_run(output.root, ids=())
    names = [name for name in map(str, range(10_000)) if folder_of(name) in ("00", "7f")][:50]
    now = datetime.now(UTC)
    with LedgerWriter(output, "w") as writer:
        writer._last_part = 0.0
        for name in names:
            path = f"videos/{folder_of(name)}/{name}.mp4"
            output.write_bytes(path, b"video")
            entry = {"uri": output.uri(path), "bytes": 5, "sha256": "0" * 64, "frames": 1}
            writer.append(
                LedgerEntry(id=name, status="done", fingerprint="f", attempt=1, finished_at=now, **entry)
            )
    requests: list[str] = []
    call = s3fs.S3FileSystem._call_s3

    async def counted(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        requests.append(method)
        return await call(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    pages = s3fs.S3FileSystem._iterdir
    monkeypatch.setattr(
        s3fs.S3FileSystem, "_iterdir", lambda *a, **options: requests.append("list") or pages(*a, **options)
    )
    found = verify(output.root)
    assert counts(found) == (50, 0, 0, 0)
    assert requests.count("list") >= 3, "the folder, and the two in it"
    assert len(requests) < len(names) / 2


# What a row's entries may say: (status, when, bytes); and what lies in its place: bytes, or nothing.
histories = st.lists(
    st.tuples(st.sampled_from(["done", "failed", "lost"]), st.integers(0, 3), st.integers(1, 2)), max_size=4
)
rows = st.dictionaries(st.sampled_from("abcd"), st.tuples(histories, st.none() | st.integers(1, 2)))


@settings(max_examples=30)
@given(rows=rows)
def test_whatever_the_ledger_says(
    tmp_path_factory: pytest.TempPathFactory,
    rows: dict[str, tuple[list[tuple[str, int, int]], int | None]],
) -> None:
    folder = tmp_path_factory.mktemp("out")
    output = put_run(str(folder), ids=())
    noon = datetime(2026, 1, 1, tzinfo=UTC)
    expected = dict.fromkeys(("whole", "missing", "torn", "orphaned"), 0)
    with LedgerWriter(output, "w") as writer:
        for row, (history, stored) in rows.items():
            path = f"videos/{folder_of(row)}/{row}.mp4"
            if stored is not None:
                output.write_bytes(path, b"." * stored)
            for status, at, size in history:
                writer.append(
                    LedgerEntry(
                        id=row,
                        status=status,
                        fingerprint="f",
                        attempt=size,
                        finished_at=noon + timedelta(seconds=at),
                        uri=None if status == "failed" else output.uri(path),
                        bytes=size if status == "done" else None,
                        sha256=str(size) * 64 if status == "done" else None,
                        error_class=None if status == "done" else "OSError",
                    )
                )
            settled = [(at, size, status == "lost") for status, at, size in history if status != "failed"]
            _, size, lost = max(settled, default=(0, 0, True))
            if lost:
                verdict = None if stored is None else "orphaned"
            elif stored is None:
                verdict = "missing"
            else:
                verdict = "whole" if size == stored else "torn"
            if verdict is not None:
                expected[verdict] += 1
    found = verify(output.root)
    assert {name: getattr(found, name) for name in expected} == expected
    state = read_ledger(output)
    assert found.videos == sum(state.is_done(row, "f") for row in rows)
    if expected["missing"] + expected["torn"] and (output.list("videos")):
        assert verify(output.root, repair=True).lost == expected["missing"] + expected["torn"]
        assert read_ledger(output).done == found.whole == verify(output.root).videos


def test_the_command(output: Storage, vidgen: Vidgen) -> None:
    status, shown, _ = vidgen("verify", output.root, "--deep")
    assert status == 0
    assert ["whole", "8", "read", "and", "decoded"] in [line.split() for line in shown.splitlines()]
    Path(output.uri(path_in_output(output, "line\nbreak"))).unlink()
    status, shown, said = vidgen("verify", output.root)
    assert status == 1
    assert r"(id 'line\nbreak'): there is no such file" in shown
    assert "vidgen verify --repair" in said
    status, shown, _ = vidgen("verify", output.root, "--json")
    report = json.loads(shown)
    assert (status, report["whole"], report["missing"], report["findings"][0]["kind"]) == (
        1,
        7,
        1,
        "missing",
    )
    status, shown, _ = vidgen("verify", output.root, "--repair")
    assert (status, "1 marked as lost" in shown) == (1, True)
    assert vidgen("verify", output.root)[0] == 0


def test_many_findings_are_counted_and_the_first_named(output: Storage) -> None:
    for path in paths(output)[:5]:
        path.unlink()
    found = verify(output.root, limit=2)
    assert (found.missing, len(found.findings)) == (5, 2)


def test_neither_mindspore_nor_ray_is_loaded(output: Storage) -> None:
    assert run_apart("verify", "--deep", output.root)[1] == "[]"
