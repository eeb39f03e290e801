"""Gangs on a cluster of two nodes, both on this host, with the fast fake engine."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from rich.console import Console

from tests.runtime.conftest import FAKE_ENGINE
from vidgen_dist.runtime.driver import render
from vidgen_dist.runtime.gang import Gang, Hiring, Member, Place
from vidgen_dist.spec import RunSpec


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster of two nodes with two NPUs each."""
    import ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.shutdown()
    size = {"object_store_memory": 80 * 2**20, "num_cpus": 2, "resources": {"NPU": 2}}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    try:
        cluster.add_node(**size)
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_each_gang_is_on_one_node(
    two_nodes: str,
    make_spec: Callable[..., RunSpec],
    make_manifest: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places: dict[str, list[str]] = {}
    placed = Hiring.placed

    def note(boss: Hiring, gang: Gang, member: Member, place: Place, others: list[Gang]) -> None:
        places.setdefault(gang.name, []).append(place.node)
        placed(boss, gang, member, place, others)

    monkeypatch.setattr(Hiring, "placed", note)
    # Each waits for the other: both gangs are there.
    one, two = tmp_path / "one", tmp_path / "two"
    manifest = make_manifest(f"touch:{one} wait:{two}", f"touch:{two} wait:{one}")
    spec = make_spec(manifest, topology__device="ascend", topology__ulysses=2, topology__address=two_nodes)
    assert render(spec, Console(file=io.StringIO()), engine=FAKE_ENGINE).done == 2
    nodes = [set(where) for where in places.values()]
    assert [len(where) for where in places.values()] == [2, 2]
    assert all(len(where) == 1 for where in nodes)
    assert nodes[0] != nodes[1]
