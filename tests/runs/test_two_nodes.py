"""Gangs on a cluster of two nodes, both on this host, with the fast fake engine."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster
from rich.console import Console

from tests.fake_engine import FAKE_ENGINE
from tests.outputs import entries
from tests.processes import descendants
from tests.waiting import wait_until
from vidgen_dist.runtime.driver.render import render
from vidgen_dist.runtime.scheduling.gang import Gang, Member
from vidgen_dist.runtime.scheduling.launcher import Launcher
from vidgen_dist.runtime.worker.actor import Placement
from vidgen_dist.spec import RunSpec

SIZE: dict[str, Any] = {"object_store_memory": 80 * 2**20, "num_cpus": 2, "resources": {"NPU": 2}}


SOON_MISSED = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 3,
}
"""With Ray's defaults, it takes a quarter of a minute until Ray notices that a node is gone."""


@pytest.fixture
def two_nodes(_ray_environment: None) -> Iterator[Cluster]:
    """A cluster of two nodes with two NPUs each."""
    import ray

    ray.shutdown()
    head = {**SIZE, "include_dashboard": False, "_system_config": SOON_MISSED}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(**SIZE)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def record_placements(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Name of a gang -> Ray's ids of its members' nodes, as they are reported."""
    nodes: dict[str, list[str]] = {}
    register_placement = Launcher.register_placement

    def record(
        launcher: Launcher, gang: Gang, member: Member, placement: Placement, others: list[Gang]
    ) -> None:
        nodes.setdefault(gang.name, []).append(placement.node)
        register_placement(launcher, gang, member, placement, others)

    monkeypatch.setattr(Launcher, "register_placement", record)
    return nodes


def kill(node: Any) -> None:
    """All processes of a node at once, as when its power is cut."""
    raylet = node.all_processes["raylet"][0].process
    for pid in (raylet.pid, *descendants(raylet.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_rows_of_a_killed_node_go_back_and_a_node_that_joins_gets_work(
    two_nodes: Cluster,
    make_spec: Callable[..., RunSpec],
    make_manifest: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each gang is on one node; the gang that is lost is launched again on the node that joined."""
    placements, lost_node = record_placements(monkeypatch), []
    has_lost_node = Launcher.has_lost_node

    def record(launcher: Launcher, gang: Gang) -> bool:
        lost_node.append(has_lost_node(launcher, gang))
        return lost_node[-1]

    monkeypatch.setattr(Launcher, "has_lost_node", record)
    joined = tmp_path / "joined"
    begun = [tmp_path / f"begun-{i}" for i in range(6)]

    prompts = [f"touch:{file} wait:{joined}" for file in begun]
    flags = {"topology__device": "ascend", "topology__ulysses": 2, "topology__address": two_nodes.address}
    spec = make_spec(make_manifest(*prompts), **flags)
    with ThreadPoolExecutor(1) as pool:
        # Ray can add nodes only in the main thread.
        running = pool.submit(render, spec, Console(file=io.StringIO()), engine=FAKE_ENGINE)
        # Each gang has begun a row that it will not end before there is a third gang.
        wait_until(lambda: sum(file.exists() for file in begun) == 2)
        (node,) = two_nodes.worker_nodes
        kill(node)
        for file in begun:
            file.unlink(missing_ok=True)
        two_nodes.add_node(**SIZE)
        wait_until(lambda: any(file.exists() for file in begun))
        joined.touch()
        result = running.result()
    assert (result.done, result.failed, result.exit_status) == (6, 0, 0)
    found = entries(tmp_path / "out")
    assert sorted((entry["id"], entry["status"]) for entry in found) == [(i, "done") for i in "abcdef"]
    assert lost_node == [True]
    # Three gangs, each on a node of its own; the third one is on the node that joined.
    *_, late = placements
    assert [len(nodes) for nodes in placements.values()] == [2, 2, 2]
    assert [len(set(nodes)) for nodes in placements.values()] == [1, 1, 1]
    assert len({node for nodes in placements.values() for node in nodes}) == 3
    assert late in {entry["worker"] for entry in found}
