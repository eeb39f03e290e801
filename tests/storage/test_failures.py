"""Storages that fail: what is retried, what is raised at once, and what no message may hold."""

from __future__ import annotations

import errno
import ftplib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import fsspec
import pytest
import s3fs
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from fsspec.exceptions import FSTimeoutError
from hypothesis import given
from hypothesis import strategies as st
from s3fs.errors import translate_boto_error

from tests.web_servers import QuietHandler, WebServer
from vidgen_dist.errors import Refused
from vidgen_dist.storage import failures
from vidgen_dist.storage.failures import PATIENCE, StorageError, is_transient
from vidgen_dist.storage.files import open_input, read_bytes, stamp
from vidgen_dist.storage.folder import Storage, open_storage
from vidgen_dist.storage.listing import expand
from vidgen_dist.storage.uris import redact, redact_message


def s3_error(status: int, code: str = "SlowDown") -> BaseException:
    """What s3fs raises for this answer of a service."""
    answer = {"Error": {"Code": code, "Message": "please"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(ClientError(answer, "PutObject"))


def http_error(status: int) -> BaseException:
    request: Any = SimpleNamespace(real_url="https://host/a?sig=hunter2")
    return aiohttp.ClientResponseError(request, (), status=status, message="sorry")


# --- S3 ----------------------------------------------------------------------------------------------


OPERATIONS: dict[str, Callable[[Storage, Path], Any]] = {
    "write_bytes": lambda out, _: out.write_bytes("new", b"v"),
    "put_file": lambda out, local: out.put_file(local, "new"),
    "create": lambda out, _: created(out),
    "read_bytes": lambda out, _: out.read_bytes("old"),
    "exists": lambda out, _: out.exists("old"),
    "list": lambda out, _: out.list(),
    "delete": lambda out, _: out.delete("old"),
    "open_input": lambda out, _: open_input(out.uri("old")).read(),
    "expand": lambda out, _: expand(out.uri()),
    "stamp": lambda out, _: stamp(out.uri("old")),
}


def created(output: Storage) -> None:
    with output.create("new") as file:
        file.write(b"v")


class Refusing:
    """Stands in front of the S3 client and raises this many times instead of sending a request."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        self.times = 0
        ask = s3fs.S3FileSystem._call_s3

        async def call(fs: Any, *args: Any, **kwargs: Any) -> Any:
            if self.times > 0:
                self.times -= 1
                raise error
            return await ask(fs, *args, **kwargs)

        monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", call)


@pytest.fixture
def output(s3_bucket: str) -> Storage:
    out = open_storage(f"s3://{s3_bucket}/out")
    out.write_bytes("old", b"old")
    return out


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_storage_that_is_busy_is_asked_again(
    name: str, output: Storage, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "local").write_bytes(b"v")
    refusing = Refusing(monkeypatch, s3_error(503))
    refusing.times = PATIENCE.attempts - 1
    OPERATIONS[name](output, tmp_path / "local")
    assert refusing.times == 0
    assert len(waits) == PATIENCE.attempts - 1
    for attempt, waited in enumerate(waits):
        assert 0.75 <= waited / (PATIENCE.first_delay * 2**attempt) <= 1.25
    if name in ("write_bytes", "put_file", "create"):
        assert output.read_bytes("new") == b"v"


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_storage_that_stays_busy_is_given_up(
    name: str, output: Storage, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "local").write_bytes(b"v")
    refusing = Refusing(monkeypatch, s3_error(503))
    refusing.times = 1000
    with pytest.raises(StorageError, match=r"^cannot .*: please") as caught:
        OPERATIONS[name](output, tmp_path / "local")
    assert caught.value.transient
    assert len(waits) == PATIENCE.attempts - 1
    refusing.times = 0
    assert output.list() == ["old"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_storage_that_forbids_is_not_asked_again(
    name: str, output: Storage, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "local").write_bytes(b"v")
    refusing = Refusing(monkeypatch, s3_error(403, "AccessDenied"))
    refusing.times = 1000
    with pytest.raises(StorageError, match=r"^cannot ") as caught:
        OPERATIONS[name](output, tmp_path / "local")
    assert not caught.value.transient
    assert waits == []


def test_what_is_not_there_is_told_at_once(output: Storage, waits: list[float]) -> None:
    with pytest.raises(FileNotFoundError):
        output.read_bytes("nothing")
    assert not output.exists("nothing")
    assert waits == []


# --- HTTP --------------------------------------------------------------------------------------------


class Host(WebServer):
    """Answers `busy` requests with 503, then all with a file; `/missing` with 404, `/secret` with 403."""

    def __init__(self) -> None:
        super().__init__(_Answer)
        self.busy = 0


class _Answer(QuietHandler):
    server: Host

    def do_GET(self) -> None:
        if self.server.busy > 0:
            self.server.busy -= 1
            self.send_error(503)
        elif self.path.startswith(("/missing", "/secret")):
            self.send_error(404 if self.path.startswith("/missing") else 403)
        else:
            self.send_response(200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(b"data")

    do_HEAD = do_GET


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as server:
        yield server


READ: dict[str, Callable[[str], Any]] = {
    "read_bytes": read_bytes,
    "open_input": open_input,
    "expand": expand,
}


@pytest.mark.parametrize("name", READ)
def test_a_host_that_is_busy_is_asked_again(name: str, host: Host, waits: list[float]) -> None:
    host.busy = 2
    READ[name](f"{host.address}/a.png")
    assert host.busy == 0
    assert 1 <= len(waits) < PATIENCE.attempts


@pytest.mark.parametrize("name", READ)
def test_busy_missing_and_forbidden_are_told_apart(name: str, host: Host, waits: list[float]) -> None:
    url = host.address
    with pytest.raises(FileNotFoundError):
        READ[name](f"{url}/missing")
    with pytest.raises(StorageError, match="403") as forbidden:
        READ[name](f"{url}/secret?sig=hunter2")
    assert not forbidden.value.transient
    assert waits == []
    host.busy = 1000
    with pytest.raises(StorageError, match="503") as busy:
        READ[name](f"{url}/a.png?sig=hunter2")
    assert busy.value.transient
    assert "hunter2" not in f"{busy.value} {forbidden.value}"


# --- which faults pass -------------------------------------------------------------------------------


def chained(error: BaseException, outer: BaseException | None = None) -> BaseException:
    outer = outer or OSError(errno.EIO, "failed")
    outer.__cause__ = error
    return outer


class HubError(OSError):
    """As in huggingface_hub: the status is in the response."""

    def __init__(self, status: int) -> None:
        super().__init__("hub")
        self.response = SimpleNamespace(status_code=status)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        *((s3_error(status, "InternalError"), True) for status in (500, 502, 503, 504, 429)),
        (s3_error(403, "AccessDenied"), False),
        (s3_error(400, "InvalidRequest"), False),
        (s3_error(501, "NotImplemented"), False),
        (http_error(503), True),
        (http_error(401), False),
        (HubError(502), True),
        (HubError(403), False),
        (chained(http_error(500)), True),
        (chained(PermissionError("no")), False),
        (TimeoutError(), True),
        (FSTimeoutError(), True),
        (ReadTimeoutError(endpoint_url="http://host"), True),
        (aiohttp.ServerDisconnectedError(), True),
        (aiohttp.ClientPayloadError(), True),
        (ConnectionResetError(), True),
        (BrokenPipeError(), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (OSError(errno.EIO, "Input/output error"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (ConnectionRefusedError(), False),
        (EndpointConnectionError(endpoint_url="http://host"), False),
        (ValueError("bad"), False),
    ],
    ids=repr,
)
def test_faults_that_pass(
    error: BaseException, passes: bool, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(fsspec.filesystem("memory"), "cat_file", refuse)
    with pytest.raises(StorageError) as caught:
        read_bytes("memory://folder/file")
    assert caught.value.transient == passes
    assert len(waits) == (PATIENCE.attempts - 1 if passes else 0)


def test_errors_that_are_each_others_cause_end(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = OSError("one"), OSError("other")
    one.__cause__, other.__cause__ = other, one

    def refuse(*_: object, **__: object) -> None:
        raise one

    monkeypatch.setattr(fsspec.filesystem("memory"), "cat_file", refuse)
    with pytest.raises(StorageError):
        read_bytes("memory://folder/file")


# --- what no message holds ---------------------------------------------------------------------------


around = st.text(
    st.characters(exclude_characters="@/?#[]'\"<>", exclude_categories=["Cs", "Cc", "Z"]), max_size=8
)


@given(st.sampled_from(["https", "s3", "ftp", "abfs+x"]), around, around, st.booleans(), st.booleans())
def test_no_part_of_a_credential_is_shown(
    scheme: str, before: str, after: str, as_user: bool, slashed: bool
) -> None:
    secret = f"{before}{'hun/ter' if slashed else 'hunter'}2{after}"
    credential = secret.replace(":", "").replace("/", "") if as_user else f"user:{secret}"
    uri = f"{scheme}://{credential}@host/folder/a.mp4?sig={secret}"
    assert redact(uri) == f"{scheme}://host/folder/a.mp4"
    assert "ter2" not in redact_message(f"cannot read {uri}: no")


def test_secrets_of_the_environment_and_of_fsspec_are_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2/abc+def")
    monkeypatch.setenv("HF_TOKEN", "hf_hunter2hunter2")
    monkeypatch.setenv("VIDGEN_REGION", "eu-central-1")
    monkeypatch.setenv("SHORT_TOKEN", "the")
    monkeypatch.setitem(fsspec.config.conf, "abfs", {"account_key": "hunter2hunter2==", "anon": False})
    said = redact_message(
        "hunter2/abc+def in the eu-central-1, hf_hunter2hunter2 for https://u:hunter2@host/a?sig=hunter2 "
        "and AccountKey=hunter2hunter2=="
    )
    assert said == "*** in the eu-central-1, *** for https://host/a and AccountKey=***"


def test_a_client_that_prints_its_password(output: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("bad signature by hunter2hunter2 of https://host/x?X-Amz-Signature=hunter2")

    for name in ("pipe_file", "cat_file", "find"):
        monkeypatch.setattr(fsspec.filesystem("s3"), name, refuse)
    calls: list[Callable[[], Any]] = [
        lambda: output.write_bytes("a", b"v"),
        lambda: output.read_bytes("a"),
        output.list,
        output.check_writable,
    ]
    for call in calls:
        with pytest.raises((StorageError, Refused), match="bad signature") as caught:
            call()
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), errno.EDQUOT),
        (OSError(errno.EROFS, "Read-only file system"), errno.EROFS),
        (RuntimeError("The DiskSpace quota of /user/x is exceeded: quota = 1 KB but ..."), errno.ENOSPC),
        (
            OSError("org.apache.hadoop.hdfs.protocol.NSQuotaExceededException: of /x"),
            errno.ENOSPC,
        ),
        (OSError("File /x could only be written to 0 of the 1 minReplication nodes."), errno.ENOSPC),
        (chained(s3_error(507, "XMinioStorageFull")), errno.ENOSPC),
        (chained(s3_error(403, "QuotaExceeded")), errno.ENOSPC),
        (http_error(507), errno.ENOSPC),
        (ftplib.error_perm("552 Requested file action aborted: exceeded storage allocation"), errno.ENOSPC),
        (PermissionError("Access Denied"), errno.EACCES),
        (HubError(403), errno.EACCES),
        # It passes: a quota of requests.
        (chained(HubError(429), OSError("Quota exceeded for requests a minute")), None),
        (OSError(errno.EFBIG, "File too large"), None),
        (ValueError("bad"), None),
    ],
    ids=repr,
)
def test_storages_that_take_nothing_more(
    error: BaseException, number: int | None, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the clients call it."""

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(fsspec.filesystem("memory"), "pipe_file", refuse)
    with pytest.raises(StorageError) as caught:
        open_storage("memory://folder").write_bytes("file", b"")
    assert failures.is_unwritable(caught.value) == (number is not None)
    assert failures.is_full(caught.value) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert number in (None, caught.value.errno)
    assert bool(waits) == is_transient(error)
