"""Clients of storages that cannot be made, or that need additions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs
import pytest
import requests
from fsspec.implementations.local import LocalFileSystem

from vidgen_dist.cli import main
from vidgen_dist.errors import Refused
from vidgen_dist.manifest import open_manifest
from vidgen_dist.media import MediaError, read_image
from vidgen_dist.storage import failures
from vidgen_dist.storage.clients import filesystem_of
from vidgen_dist.storage.failures import PATIENCE, StorageError
from vidgen_dist.storage.files import open_input, read_bytes
from vidgen_dist.storage.folder import open_storage, open_writable
from vidgen_dist.storage.listing import expand


class OwnError(Exception):
    """An error as of clients that do not use OSError."""


class Unreachable(LocalFileSystem):
    """A client that connects when it is made."""

    protocol = "unreachable"
    cachable = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        raise OwnError("cannot log in at sftp://me:hunter2@host: wrong password")


class Silent(LocalFileSystem):
    """A client whose host does not answer."""

    protocol = "silent"
    cachable = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        raise TimeoutError("timed out")


for each in (Unreachable, Silent):
    fsspec.register_implementation(each.protocol, each, clobber=True)

CANNOT_BE_OPENED = [
    ("ftp://127.0.0.1:1/x", "cannot connect to ftp://127.0.0.1:1/x: Connection refused"),
    ("ftp://not-a-host.invalid/x", "cannot connect to ftp://not-a-host.invalid/x: "),
    ("hdfs://name:8020/x", "cannot connect to hdfs://name:8020/x: Unable to load libjvm"),
    (
        "unreachable://x/y",
        "cannot connect to unreachable://x/y: OwnError: cannot log in at sftp://host: wrong",
    ),
    ("nonsense://x/y", "nonsense://x/y: Protocol not known: nonsense"),
    ("dbfs:///x", "'token'; settings are given as FSSPEC_DBFS_NAME=VALUE"),
    ("sftp:///x", "sftp:///x: there is no host or bucket after sftp://"),
    ("s3:///bucket/x", "s3:///bucket/x: there is no host or bucket after s3://"),
    ("dbfs:/x", "dbfs:/x: it is neither an existing path nor a URI; write dbfs:///x"),
    ("file://host/x", "file://host/x: it names a host"),
    (
        "webhdfs://name/part-?.parquet",
        "what follows ? is not part of a path of webhdfs://; write * in a glob",
    ),
    ("webhdfs://name/x?delegation=hunter2", "webhdfs://name/x: what follows ? is not part of a path"),
]


@pytest.fixture(autouse=True)
def _without_hadoop(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(**_: Any) -> None:
        raise OSError("Unable to load libjvm: libjvm.so: cannot open shared object file")

    monkeypatch.setattr(pyarrow.fs, "HadoopFileSystem", no_library)


@pytest.mark.parametrize(("uri", "said"), CANNOT_BE_OPENED)
def test_what_cannot_be_opened_is_told_with_its_cause(uri: str, said: str) -> None:
    for call in (open_storage, open_manifest):
        with pytest.raises(Refused) as caught:
            call(uri)
        assert said in str(caught.value)
        assert "hunter2" not in str(caught.value)
    for read in (read_bytes, open_input, expand):
        with pytest.raises((StorageError, Refused)) as raised:
            read(uri)
        assert said in str(raised.value)
    with pytest.raises((MediaError, StorageError)):
        read_image(uri)


COMMANDS = [
    ["status", "ftp://127.0.0.1:1/x"],
    ["failures", "hdfs://name/x"],
    ["compact", "unreachable://x"],
    ["verify", "silent://x"],
    ["export", "unreachable://x", "--to", "hf", "out"],
    ["manifest", "check", "silent://x"],
    ["manifest", "build", "prompts.txt", "unreachable://x/m.parquet"],
    ["manifest", "build", "hdfs://name/prompts.txt", "m.parquet"],
    ["render", "ftp://127.0.0.1:1/run.yaml"],
    ["render", "unreachable://x", "out", "--model", "a/b"],
    ["render", "m.parquet", "hdfs://name/x", "--model", "a/b"],
    ["plan", "silent://x/run.yaml"],
]


@pytest.mark.usefixtures("waits")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_end_with_one_message(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a fox")
    monkeypatch.setattr(sys, "argv", ["vidgen", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("cannot connect to ")
    assert "hunter2" not in said


def test_a_connection_that_passes_is_tried_again(waits: list[float]) -> None:
    with pytest.raises(StorageError) as caught:
        read_bytes("silent://x/y")
    assert caught.value.transient
    assert len(waits) == PATIENCE.attempts - 1


def test_what_requests_wraps_is_seen() -> None:
    reset = ConnectionError("Connection aborted.", ConnectionResetError(104, "reset by peer"))
    assert failures.is_transient(requests.ConnectionError(reset))
    assert not failures.is_transient(requests.ConnectionError(ConnectionRefusedError(111, "refused")))


def test_hosts_with_an_address_of_ipv6_are_no_chains() -> None:
    with pytest.raises(StorageError, match=r"cannot read http://\[::1\]:1/x: .*"):
        read_bytes("http://[::1]:1/x")
    with pytest.raises(Refused, match="chained"):
        read_bytes("simplecache::http://host/x")


def test_settings_of_web_clients_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "https", {"client_kwargs": {"trust_env": False, "x": 1}})
    assert filesystem_of("https://host/a")[0].client_kwargs == {"trust_env": False, "x": 1}
    assert filesystem_of("http://host/a")[0].client_kwargs == {"trust_env": True}


def test_an_output_on_the_web_or_with_a_query_is_refused() -> None:
    with pytest.raises(Refused, match="https://host/out: https:// can only be read"):
        open_writable("https://host/out")
    with pytest.raises(Refused, match=r"what follows [?] is not part of a path"):
        open_writable("webhdfs://name/out?replication=2")
