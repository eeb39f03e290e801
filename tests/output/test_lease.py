"""The lease: one run at a time on one output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
from moto.s3.responses import S3Response

from tests.output.holders import holder_of, policy_of, write_holder
from tests.waiting import PATIENCE, wait_until
from vidgen_dist.errors import Refused
from vidgen_dist.output import lease as leases
from vidgen_dist.output.lease import Holder, Lease, LeasePolicy, acquire, has_died, living_holder
from vidgen_dist.output_layout import LEASE_FILE, LEASE_LOCK
from vidgen_dist.storage import shared_files
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import Storage, open_storage
from vidgen_dist.storage.locks import _is_still, lock
from vidgen_dist.storage.shared_files import SharedFile, _write_if, open_shared_file

INTERVAL = 0.2


def take(output: Storage, run: str, lines: list[str] | None = None, interval: float = INTERVAL) -> Lease:
    return acquire(
        output, run, print_line=(lines if lines is not None else []).append, policy=policy_of(interval)
    )


def only_one_is_left(held: list[Lease]) -> bool:
    return sum(lease.lost is None for lease in held) == 1


@pytest.fixture
def one_put_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 compares and writes atomically; moto's server does so only if requests do not overlap."""
    put, turn = S3Response.put_object, threading.Lock()

    def put_object(self: S3Response) -> object:
        with turn:
            return put(self)

    monkeypatch.setattr(S3Response, "put_object", put_object)


@pytest.fixture
def s3_knows_no_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that treats conditional writes as plain ones."""
    put = S3Response.put_object

    def put_object(self: S3Response) -> object:
        self.headers = {
            k: v for k, v in self.headers.items() if k.lower() not in ("if-match", "if-none-match")
        }
        return put(self)

    monkeypatch.setattr(S3Response, "put_object", put_object)


@pytest.fixture(params=["local", "local-without-locks", "s3", "s3-without-conditions", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    kind = request.param
    if kind.startswith("s3"):
        bucket = request.getfixturevalue("s3_bucket")
        request.getfixturevalue("one_put_at_a_time" if kind == "s3" else "s3_knows_no_conditions")
        yield open_storage(f"s3://{bucket}/out")
    elif kind == "memory":
        yield open_storage(f"memory://{uuid.uuid4().hex}")
        fsspec.filesystem("memory").store.clear()
    else:
        if kind == "local-without-locks":
            request.getfixturevalue("monkeypatch").setattr(leases, "lock", lambda _path: None)
        yield open_storage(tmp_path / "out")


def test_a_second_run_is_refused_and_the_next_one_gets_the_lease(output: Storage) -> None:
    lines: list[str] = []
    with take(output, "first", lines), pytest.raises(Refused) as refused:
        take(output, "second")
    assert "run first (since 2" in str(refused.value)
    assert "last heartbeat 2" in str(refused.value)
    with take(output, "third", lines) as lease:
        assert holder_of(output).run == "third"
        assert lease.lost is None
    assert lines == []
    assert output.list() == []


def test_heartbeats_continue_and_leave_no_file(output: Storage) -> None:
    with take(output, "first") as lease:
        wait_until(lambda: holder_of(output).beats >= 4)
        assert lease.lost is None
    assert output.list() == []


def test_a_stale_lease_is_taken_over_with_a_message(output: Storage) -> None:
    write_holder(output)
    lines: list[str] = []
    with take(output, "second", lines):
        assert holder_of(output).run == "second"
    assert [line.split(" the lease of run gone")[0] for line in lines] == ["waiting for", "taking over"]
    assert "0.8 s" in lines[0]


def test_a_run_waits_for_a_damaged_lease_too(output: Storage) -> None:
    output.write_bytes(LEASE_FILE, b'{"run": "half')
    lines: list[str] = []
    take(output, "second", lines).release()
    assert "run of unknown name" in lines[0]


def test_a_run_that_waits_takes_a_lease_that_is_released(output: Storage) -> None:
    write_holder(output)
    lines: list[str] = []

    def give_back(line: str) -> None:
        lines.append(line)
        threading.Timer(INTERVAL, output.delete, [LEASE_FILE]).start()

    # By then the run that waits has read it.
    acquire(output, "second", print_line=give_back, policy=policy_of(1.0)).release()
    assert len(lines) == 1


def test_a_holder_learns_that_its_lease_was_taken_over_and_keeps_the_new_one(output: Storage) -> None:
    with take(output, "first") as lease:
        write_holder(output, run="usurper")
        wait_until(lambda: lease.lost)
        assert lease.lost is not None
        assert lease.lost.run == "usurper"
    assert holder_of(output).run == "usurper"


def test_a_holder_whose_lease_was_removed_writes_it_again(output: Storage) -> None:
    with take(output, "first") as lease:
        output.delete(LEASE_FILE)
        wait_until(lambda: output.exists(LEASE_FILE))
        assert holder_of(output).run == "first"
        assert lease.lost is None


def test_a_storage_that_is_unavailable_for_long_does_not_end_the_holder(
    output: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Semaphore(0)

    def refuse(*_: object) -> str:
        tried.release()
        raise StorageError("away")

    with take(output, "first") as lease:
        with monkeypatch.context() as patch:
            patch.setattr(SharedFile, "write", refuse)
            for _ in range(2 * LeasePolicy().stale_intervals):
                assert tried.acquire(timeout=PATIENCE)
        beats = holder_of(output).beats
        wait_until(lambda: holder_of(output).beats > beats)
        assert lease.lost is None


def test_a_lost_answer_does_not_lose_the_lease(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write succeeded, and its repetition is refused."""
    output = open_storage(f"s3://{s3_bucket}/out")
    write = _write_if

    def write_twice(uri: str, content: bytes, condition: dict[str, str]) -> str:
        write(uri, content, condition)
        return write(uri, content, condition)

    monkeypatch.setattr(shared_files, "_write_if", write_twice)
    with take(output, "first") as lease:
        wait_until(lambda: holder_of(output).beats >= 4)
        assert lease.lost is None


@pytest.mark.parametrize("stale", [False, True])
def test_of_several_that_start_at_once_one_wins(
    output: Storage, stale: bool, request: pytest.FixtureRequest
) -> None:
    """At once if the storage compares and writes atomically; otherwise with the next heartbeats."""
    at_once = {"local", "s3"} if stale else {"local", "s3", "local-without-locks"}
    certain = request.node.callspec.params["output"] in at_once
    # On a busy machine, a winner may be held up for longer than a short interval lets it live.
    runs, interval = 4, 3 * INTERVAL if certain and not stale else INTERVAL
    for _ in range(2 if stale else 5):
        if stale:
            write_holder(output)
        barrier = threading.Barrier(runs)

        def start(run: int, barrier: threading.Barrier = barrier) -> Lease | None:
            barrier.wait()
            try:
                return take(output, f"run-{run}", interval=interval)
            except Refused:
                return None

        with ThreadPoolExecutor(runs) as pool:
            held = [lease for lease in pool.map(start, range(runs)) if lease is not None]
        if certain:
            assert len(held) == 1
        wait_until(partial(only_one_is_left, held))
        (winner,) = (lease for lease in held if lease.lost is None)
        assert holder_of(output).run == winner.run
        for lease in held:
            lease.release()
        assert output.list() == []


def test_the_holder_sends_one_request_per_interval(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[str] = []
    output = open_storage(f"s3://{s3_bucket}/out")
    fs, _ = fsspec.core.url_to_fs(output.root)
    call = type(fs)._call_s3

    async def counted(self: object, method: str, *args: object, **kwargs: object) -> object:
        requests.append(method)
        return await call(self, method, *args, **kwargs)

    monkeypatch.setattr(type(fs), "_call_s3", counted)
    lease = take(output, "first")
    started = len(requests)
    assert started <= 6
    wait_until(lambda: len(requests) >= started + 4)
    assert requests[started:] == ["put_object"] * (len(requests) - started)
    lease.release()


def test_a_missing_bucket_is_refused(s3_bucket: str) -> None:
    with pytest.raises(Refused, match="cannot be used for output"):
        take(open_storage(f"s3://{s3_bucket}-not-there/out"), "first")


def test_a_folder_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="cannot be used for output"):
        take(open_storage(tmp_path / "file" / "out"), "first")


def test_the_lease_names_no_machine_and_no_user(output: Storage) -> None:
    with take(output, "first"):
        fields = json.loads(output.read_bytes(LEASE_FILE))
    assert fields.keys() == {"run", "since", "heartbeat", "machine", "beats"}
    # If runs had the same mark, it would show which of them shared a machine.
    assert fields["machine"] == "" or fields["machine"] != leases._machine_mark(output, "second")


HOLD = """
import sys, time
from vidgen_dist.output.lease import LeasePolicy, acquire
from vidgen_dist.storage.folder import open_storage
policy = LeasePolicy(interval_seconds=float(sys.argv[3]))
lease = acquire(open_storage(sys.argv[1]), sys.argv[2], print_line=print, policy=policy)
print("held", flush=True)
while lease.lost is None:
    time.sleep(0.02)
print(f"lost to {lease.lost.run}", flush=True)
"""


@pytest.fixture
def hold() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process that holds a lease."""
    started: list[subprocess.Popen[str]] = []

    def start(output: Storage, run: str, interval: float = INTERVAL) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, output.root, run, str(interval)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


Hold = Callable[..., subprocess.Popen[str]]


def test_a_local_run_can_follow_a_killed_one_at_once(tmp_path: Path, hold: Hold) -> None:
    """Intervals are an hour, so the test would hang if it waited for one."""
    output = open_storage(tmp_path)
    process = hold(output, "first", 3600.0)
    with pytest.raises(Refused, match=r"run first \(since"):
        take(output, "second", interval=3600.0)
    assert not has_died(output, "first")
    process.kill()
    process.wait()
    assert has_died(output, "first")
    lines: list[str] = []
    with take(output, "second", lines, interval=3600.0):
        assert holder_of(output).run == "second"
        assert (has_died(output, "first"), has_died(output, "second")) == (True, False)
    assert len(lines) == 1
    assert "run first" in lines[0]
    assert "which has died" in lines[0]


def test_a_run_waits_for_a_lease_of_another_machine_although_the_lock_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hold: Hold
) -> None:
    output = open_storage(tmp_path)
    hold(output, "far")
    monkeypatch.setattr(leases, "LEASE_LOCK", f"{LEASE_LOCK}.of-this-machine")
    here = tmp_path / "boot"
    here.write_text("another")
    monkeypatch.setattr(leases, "_BOOT", here)
    assert not has_died(output, "far")
    with pytest.raises(Refused, match="run far"):
        take(output, "near")


def test_a_run_that_was_suspended_for_too_long_stops(s3_bucket: str, hold: Hold) -> None:
    output = open_storage(f"s3://{s3_bucket}/out")
    process = hold(output, "first")
    process.send_signal(signal.SIGSTOP)
    with take(output, "second") as lease:
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=PATIENCE)[0] == "lost to second\n"
        assert process.returncode == 0
        assert lease.lost is None


def test_a_lock_file_that_its_holder_removes_gives_no_second_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    for _ in range(200):
        first = lock(path)
        assert first is not None
        with pytest.raises(BlockingIOError):
            lock(path)
        opened = os.open(path, os.O_RDWR)
        first.release()
        second = lock(path)
        assert second is not None
        assert not _is_still(path, opened)
        os.close(opened)
        second.release()


def test_moto_refuses_what_the_lease_relies_on(s3_bucket: str, s3_endpoint: str) -> None:
    """With a service without conditional writes, the tests on S3 would prove nothing."""
    assert open_shared_file(open_storage(f"s3://{s3_bucket}/out"), LEASE_FILE).conditional
    assert boto3.client("s3", endpoint_url=s3_endpoint).list_objects_v2(Bucket=s3_bucket)["KeyCount"] == 0


def test_a_full_disk_leaves_no_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk may have room for a file's name, and none for its content."""
    real = open

    def opened(path: str, mode: str = "r", **options: Any) -> Any:
        if mode != "xb":
            return real(path, mode, **options)
        real(path, mode).close()
        return real("/dev/full", "wb")

    file = open_shared_file(open_storage(str(tmp_path)), LEASE_FILE)
    monkeypatch.setattr(shared_files, "open", opened, raising=False)
    with pytest.raises(OSError, match="No space left on device"):
        file.write(b"held", None)
    assert list(tmp_path.iterdir()) == []


def test_the_living_holder_is_known_to_those_who_only_look(tmp_path: Path) -> None:
    output = open_storage(tmp_path)
    assert living_holder(output) is None
    with acquire(output, "mine", print_line=print):
        left = output.read_bytes(LEASE_FILE)
        holder = living_holder(output)
        assert holder is not None
        assert holder.run == "mine"
    assert living_holder(output) is None
    # It was killed, on this machine.
    output.write_bytes(LEASE_FILE, left)
    assert living_holder(output) is None
    # On another machine, its heartbeats tell.
    now = datetime.now(UTC)
    for silent, lives in ((10, True), (3600, False)):
        heartbeat = f"{now - timedelta(seconds=silent):%Y-%m-%d %H:%M:%S} UTC"
        output.write_bytes(LEASE_FILE, Holder("theirs", "then", heartbeat, "elsewhere").to_bytes())
        assert (living_holder(output) is not None) == lives
    output.write_bytes(LEASE_FILE, b"torn")
    assert living_holder(output) is None
