"""Clusters of `ray start --head`, with a dashboard, whose `vidgen` renders with the fast fake engine."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.commands import fake_vidgen
from tests.processes import descendants
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]

_TOKENS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Args:
        address: Its dashboard.
        environment: Of a command that may use it.
        commands: Those that were started; they end with the cluster.
    """

    address: str
    environment: Mapping[str, str]
    commands: list[subprocess.Popen[str]] = field(default_factory=list)

    def vidgen(self, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
        """Start a `vidgen` command, in the environment of one who may use the cluster."""
        command = subprocess.Popen(
            [*fake_vidgen(), *map(str, arguments), "--address", self.address],
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.commands.append(command)
        return command

    def submit(self, command: str) -> str:
        """Submit a job that is not one of `vidgen submit`, and return its id."""
        token = self.environment.get("RAY_AUTH_TOKEN")
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {token}"} if token else {}
        )
        data = json.dumps({"entrypoint": command}).encode()
        request = urllib.request.Request(f"{self.address}/api/jobs/", data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(json.load(answer)["submission_id"])


@contextmanager
def ray_cluster(token: str | None) -> Iterator[Cluster]:
    """Start a cluster of this machine, and end it and all that it has started.

    Args:
        token: What it requires; None for no token.
    """
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="v", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield from _started(Path(folder), token)


def _started(folder: Path, token: str | None) -> Iterator[Cluster]:
    command = folder / "bin" / "vidgen"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.join(fake_vidgen())} "$@"\n')
    command.chmod(0o755)
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    environment = {name: value for name, value in os.environ.items() if name not in _TOKENS} | auth
    environment |= {
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    flags = [f"--{name}={port}" for name, port in ports.items()]
    with open(folder / "head.log", "w", encoding="utf-8") as log:
        head = subprocess.Popen(
            [
                *("ray", "start", "--head", "--block", *flags, "--min-worker-port=0", "--max-worker-port=0"),
                *(f"--temp-dir={folder / 'ray'}", "--num-cpus=2", f"--object-store-memory={128 * 2**20}"),
                *("--node-ip-address=127.0.0.1", "--disable-usage-stats"),
            ],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    try:
        wait_until(lambda: head.poll() is not None or _answers(address), every=0.2)
        assert head.poll() is None, (folder / "head.log").read_text()
        cluster = Cluster(address, environment)
        try:
            yield cluster
        finally:
            for each in cluster.commands:
                each.kill()
                each.communicate()
    finally:
        started = descendants(head.pid)
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(20)
        except subprocess.TimeoutExpired:
            head.kill()
        # What has outlived the head: a process id with its start time is never used again.
        for pid in started:
            if started[pid] == _start_time(pid):
                os.kill(pid, signal.SIGKILL)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/api/gcs_healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _start_time(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None


def free_ports(count: int) -> list[int]:
    """Ports of this machine where nothing listens."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
