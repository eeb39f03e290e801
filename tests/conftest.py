"""Fixtures that many tests use: the command, manifests, specs, a local Ray, rank processes, an S3 service."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from hypothesis import settings
from moto.server import ThreadedMotoServer

from tests.commands import CommandResult, Vidgen
from tests.parallel.ranks import Ranks
from tests.ray_processes import leave_out_monitors
from tests.storage.s3_traffic import Traffic
from vidgen_dist import engine
from vidgen_dist.spec import RunSpec, spec_from_flags

# How long an example takes says more about the machine than about the code. Others are drawn in each run.
settings.register_profile("vidgen", deadline=None, max_examples=50)
settings.load_profile("vidgen")

# Tests run side by side: threads that wait for each other's cores cost a quarter of the suite's time. A
# process that was given another number before pytest started keeps it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

NPUS = 4
"""As many as the local Ray believes to have."""

_NOT_SECRET = {
    "AWS_ACCESS_KEY_ID": "test-key",
    "AWS_SECRET_ACCESS_KEY": "test-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture
def vidgen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Vidgen:
    """Runs a `vidgen` command in this process."""
    from vidgen_dist import cli

    def run(*arguments: str | Path) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["vidgen", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return CommandResult(int(exit_.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Processes that play the ranks of a gang."""
    processes = Ranks()
    yield processes
    processes.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[ThreadedMotoServer]:
    """A moto server on a free port."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3_traffic(s3_server: ThreadedMotoServer, s3_endpoint: str) -> Iterator[Traffic]:
    """All requests to `s3_endpoint`, which a test may count and spoil."""
    assert s3_endpoint
    server = s3_server._server
    assert server is not None
    app = server.app
    traffic = Traffic(app)
    server.app = traffic
    yield traffic
    server.app = app


@pytest.fixture(scope="session")
def s3_endpoint(s3_server: ThreadedMotoServer) -> Iterator[str]:
    """URL of the moto server.

    Client settings are put into the environment, as a user would, so that child processes find the
    server too; the settings are gone after the session.
    """
    host, port = s3_server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    settings = {
        **_NOT_SECRET,
        "AWS_ENDPOINT_URL": endpoint,
        # Neither a developer's own configuration nor a proxy may come between.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1,localhost",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        s3fs.S3FileSystem.clear_instance_cache()
        yield endpoint
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def s3_bucket(s3_endpoint: str) -> Iterator[str]:
    """Name of an empty bucket of this test's own; `f"s3://{s3_bucket}/…"` is its URI."""
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    name = f"test-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=name)
    yield name
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
        keys = [{"Key": item["Key"]} for item in page.get("Contents", [])]
        if keys:
            client.delete_objects(Bucket=name, Delete={"Objects": keys})
    client.delete_bucket(Bucket=name)
    client.close()


@pytest.fixture(scope="session")
def _ray_environment(s3_endpoint: str) -> Iterator[None]:
    """What every local Ray inherits; workers, the S3 server's address too."""
    assert s3_endpoint
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # As in a run's own Ray; else workers give way to the tests that run beside this one.
        patch.setenv("RAY_worker_niceness", "0")
        import ray

        leave_out_monitors(patch.setattr)
        yield
        ray.shutdown()


@pytest.fixture
def local_ray(_ray_environment: None) -> None:
    """A local Ray that runs share; starting one takes seconds."""
    import ray

    # Ray may keep the place of a worker that was ended while it started; the next run would wait for it.
    if ray.is_initialized() and not _becomes_free(seconds=20):
        ray.shutdown()
    # A test with a cluster of its own ends it.
    if not ray.is_initialized():
        ray.init(
            address="local",
            resources={"NPU": NPUS},
            namespace="vidgen",
            include_dashboard=False,
            object_store_memory=128 * 2**20,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


def _becomes_free(seconds: float) -> bool:
    """Whether no worker has a place in the local Ray, now or soon."""
    import ray

    end = time.monotonic() + seconds
    while ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]:
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run ends before Ray starts."""
    from vidgen_dist.runtime.driver import render

    def never(*_: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(render, "connected", never)


@pytest.fixture
def no_gang(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run ends before a gang starts; no Ray is started for it."""
    from vidgen_dist.runtime.driver import render

    def never(*_: Any) -> None:
        raise AssertionError("gangs were started")

    monkeypatch.setattr(render, "connected", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(render, "_render_pending", never)


@pytest.fixture
def make_manifest(tmp_path: Path) -> Callable[..., str]:
    """Writes rows, or prompts with the ids a, b, c, …, as a manifest and returns its path."""

    def make(*rows: dict[str, Any] | str, name: str = "manifest.parquet") -> str:
        whole = [
            {"id": chr(ord("a") + i), "prompt": row} if isinstance(row, str) else row
            for i, row in enumerate(rows)
        ]
        path = tmp_path / name
        pq.write_table(pa.Table.from_pylist(whole), path)
        return str(path)

    return make


@pytest.fixture
def make_spec(tmp_path: Path) -> Callable[..., RunSpec]:
    """A spec for a manifest; further dotted keys by flags."""

    def make(manifest: str, **flags: Any) -> RunSpec:
        defaults = {
            "model.id": "fake",
            "manifest.uri": manifest,
            "output.uri": str(tmp_path / "out"),
            "output.format": "npy",
            "topology.device": "cpu",
            "topology.replicas": 2,
        }
        return spec_from_flags(defaults | {key.replace("__", "."): value for key, value in flags.items()})

    return make


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """A folder for the marks that workers of the fake engine make after each step."""
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run does not check its model first, in a process of its own, which takes seconds."""
    monkeypatch.setattr(engine, "start_check", lambda _: lambda: None)
