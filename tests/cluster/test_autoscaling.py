"""A run on a cluster without workers: Ray's autoscaler adds nodes for gangs that wait for NPUs."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from docs.generate import ROOT
from tests.cluster.manifests import cluster_spec, groups, objects
from tests.cluster.test_slurm import free_port
from tests.commands import fake_vidgen
from tests.outputs import entries
from tests.processes import descendants
from tests.runs.test_ctrl_c import assert_all_gone
from tests.waiting import PATIENCE, wait_until

SECURITY = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

HEAD = "f" * 51 + "00000"
"""What the provider of nodes on this machine calls the head."""

NPUS = 2
"""Of a node. The file has 8; each rank is a process here."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for Ray: paths of sockets must be short."""
    path = Path(tempfile.mkdtemp(prefix="vg-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def autoscaling(address: str) -> dict[str, object]:
    """The autoscaler's config: node types as KubeRay's of `raycluster.yaml`, nodes on this machine."""
    from ray.autoscaler._private.kuberay import autoscaling_config

    (thing,) = objects("raycluster.yaml")
    groups(thing)[1]["rayStartParams"]["resources"] = f'"{{\\"NPU\\": {NPUS}}}"'
    cluster = {"metadata": {"name": "vidgen", "namespace": "default"}, "spec": cluster_spec(thing)}
    config = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)
    head, worker = (config["available_node_types"][name] for name in ("headgroup", "npu"))
    # This machine has neither the cores nor the memory of such nodes.
    small = {"CPU": 2, "NPU": worker["resources"]["NPU"], "object_store_memory": 80 * 10**6}
    return {
        **config,
        "provider": {
            **config["provider"],
            "type": "fake_multinode",
            "gcs_address": address,
            "head_node_id": HEAD,
            # All have the same one.
            "use_node_id_as_ip": True,
        },
        "available_node_types": {
            "ray.head.default": {**head, "resources": {"CPU": 0}, "min_workers": 0, "max_workers": 0},
            "npu": {**worker, "resources": small},
        },
        "head_node_type": "ray.head.default",
    }


@contextmanager
def growing_cluster(folder: Path) -> Iterator[str]:
    """A head without CPUs and NPUs, and Ray's autoscaler, which starts nodes on this machine."""
    port = free_port()
    head = subprocess.run(["hostname", "--ip-address"], capture_output=True, text=True, check=True)
    address = f"{head.stdout.split()[0]}:{port}"
    config = folder / "autoscaling.json"
    config.write_text(json.dumps(autoscaling(address)))
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", f"--port={port}", "--block"]
    command += [f"--node-ip-address={head.stdout.split()[0]}", f"--temp-dir={folder}", "--num-cpus=0"]
    command += ["--include-dashboard=false", f"--ray-client-server-port={free_port()}"]
    command += ["--dashboard-agent-listen-port=0", "--object-store-memory=80000000"]
    command += [f"--autoscaling-config={config}"]
    environment = {
        **os.environ,
        **SECURITY,
        "RAY_FAKE_CLUSTER": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
    }
    with (folder / "head.log").open("w") as log:
        ray = subprocess.Popen(command, env=environment, stdout=log, stderr=log, process_group=0)
    try:
        yield address
    finally:
        # With the nodes that the autoscaler has started.
        children = descendants(ray.pid)
        ray.send_signal(signal.SIGTERM)
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ray.kill()
        ray.wait()
        assert_all_gone(children)


def answers(address: str) -> bool:
    """Whether the head listens."""
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=10):
        return True
    return False


def test_a_run_gets_nodes_for_its_gangs(
    make_manifest: Callable[..., str], tmp_path: Path, folder: Path
) -> None:
    """Two gangs of two NPUs each need two nodes; there is none when the run starts."""
    signs, output = tmp_path / "signs", tmp_path / "out"
    signs.mkdir()
    # Both gangs render at the same time.
    prompts = [
        f"sign:{signs} touch:{tmp_path}/{name} wait:{tmp_path}/{other}" for name, other in ("ab", "ba")
    ]
    command = [*fake_vidgen(), "render", make_manifest(*prompts), str(output), "--model", "fake"]
    command += ["--format", "npy", "--replicas", "2", "--ulysses", "2", "--shard-size", "1", "--npus", "4"]
    with growing_cluster(folder) as address:
        wait_until(lambda: answers(address))
        ran = subprocess.run(
            [*command, "--address", address],
            cwd=ROOT,
            env={**os.environ, **SECURITY},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        nodes = {entry["worker"] for entry in entries(output)}
    assert sorted(entry["status"] for entry in entries(output)) == ["done", "done"]
    assert len(nodes) == 2
    assert len(list(signs.iterdir())) == 4
