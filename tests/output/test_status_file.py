"""`status.json`: it is written as a whole and in time, delays nothing, and is read whatever its content."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from vidgen_dist.output.status_file import (
    GangStatus,
    RunStatus,
    SlowGang,
    SlowRow,
    StatusFile,
    StatusPolicy,
    read_status_file,
)
from vidgen_dist.output_layout import STATUS_FILE
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import Storage, open_storage


def status(**fields: Any) -> RunStatus:
    now = datetime.now(UTC)
    counts = {"total": 8, "done": 3, "failed": 1, "pending": 4}
    return RunStatus(**{"run": "r", "state": "running", "since": now, "updated": now, **counts, **fields})


@pytest.fixture
def output(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "out")


def test_what_is_written_is_read_back(output: Storage) -> None:
    now = datetime.now(UTC)
    written = status(
        failures={"MediaError": 1},
        videos_per_minute=1.5,
        gangs=(
            GangStatus(gang="r-0001", replica=0, state="rendering", row="ünï\n", since=now, stage="decode"),
        ),
        slow_rows=(SlowRow("x", "r-0001", 10.0, 5.0),),
        slow_gangs=(SlowGang("r-0001", 2.0),),
        message="no UTF-8: \udcff",
    )
    file = StatusFile(output)
    file.put(status())
    file.close(written)
    found = read_status_file(output)
    assert found == written.model_copy(update={"message": "no UTF-8: ?"})
    assert not [name for name in output.list() if name != STATUS_FILE]


def test_a_storage_that_hangs_delays_nothing(output: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        asked.set()
        go.wait()

    monkeypatch.setattr(Storage, "write_bytes", hang)
    file = StatusFile(output, StatusPolicy(local_seconds=0.0, remote_seconds=0.0, end_seconds=0.0))
    assert file.due
    file.put(status())
    assert asked.wait(60)
    # Nothing accumulates meanwhile.
    assert not file.due
    file.close(status(state="finished"))
    go.set()


def test_after_a_failed_write_the_next_one_is_tried(output: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    write, refused = Storage.write_bytes, threading.Event()

    def refuse_once(self: Storage, path: str, data: bytes) -> None:
        if not refused.is_set():
            refused.set()
            raise StorageError("out of order")
        write(self, path, data)

    monkeypatch.setattr(Storage, "write_bytes", refuse_once)
    file = StatusFile(output)
    file.put(status())
    file.close(status(state="finished"))
    found = read_status_file(output)
    assert refused.is_set()
    assert found is not None
    assert found.state == "finished"


def whole() -> dict[str, Any]:
    return status().model_dump(mode="json")


def contents() -> Iterator[tuple[str, bytes, bool]]:
    yield "of a later release", json.dumps({**whole(), "mood": "good", "gangs": []}).encode(), True
    few = {name: value for name, value in whole().items() if name not in ("gangs", "slow_rows", "message")}
    yield "of an earlier release", json.dumps(few).encode(), True
    yield "half", json.dumps(whole()).encode()[:100], False
    yield "empty", b"", False
    yield "no object", b"[1, 2]", False
    yield "no text", b"\xff\x00", False
    yield "another state", json.dumps({**whole(), "state": "dancing"}).encode(), False
    yield "no time", json.dumps({**whole(), "updated": "2026-01-01T00:00:00"}).encode(), False


@pytest.mark.parametrize(
    ("content", "understood"), [c[1:] for c in contents()], ids=[c[0] for c in contents()]
)
def test_any_content_can_be_read(output: Storage, content: bytes, understood: bool) -> None:
    assert read_status_file(output) is None
    output.write_bytes(STATUS_FILE, content)
    assert (read_status_file(output) is not None) == understood


@pytest.mark.parametrize(
    ("age", "fields", "live", "stale"),
    [
        (10, {}, True, False),
        (100, {}, False, True),
        (100, {"refresh_seconds": 30.0}, True, False),
        (1000, {"refresh_seconds": 30.0}, False, True),
        (1000, {"state": "finished"}, False, False),
        # The writer's clock is ahead.
        (-1000, {}, True, False),
    ],
)
def test_a_run_is_stale_after_too_long_a_silence(
    age: float, fields: dict[str, Any], live: bool, stale: bool
) -> None:
    latest = status(updated=datetime.now(UTC) - timedelta(seconds=age), **fields)
    assert (latest.is_live, latest.is_stale) == (live, stale)


def test_writes_to_an_object_store_are_less_frequent(s3_bucket: str, tmp_path: Path) -> None:
    remote, local = StatusFile(open_storage(f"s3://{s3_bucket}/out")), StatusFile(open_storage(tmp_path))
    assert remote.seconds > local.seconds
    remote.close(status(refresh_seconds=remote.seconds))
    local.close(None)
    found = read_status_file(open_storage(f"s3://{s3_bucket}/out"))
    assert found is not None
    assert found.refresh_seconds == remote.seconds
    assert read_status_file(open_storage(tmp_path)) is None
