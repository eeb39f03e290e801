"""How cores are divided between replicas."""

from __future__ import annotations

import socket

import pytest
import ray

from vidgen_dist.errors import Refused
from vidgen_dist.runtime.cluster import connected, cores_of, cpu_share
from vidgen_dist.spec import Topology


@pytest.mark.parametrize(
    ("nodes", "replicas", "share"),
    [
        ([2], 1, 2),
        ([2], 2, 1),
        ([2], 4, 0.5),
        ([8], 3, 2),
        ([64, 64], 2, 64),
        ([64, 64], 3, 32),
        ([10, 4], 3, 4),
        ([1], 3, 0.3333),
    ],
)
def test_cpu_share(nodes: list[float], replicas: int, share: float) -> None:
    found = cpu_share(nodes, replicas)
    assert found == share
    assert sum(int(cpus / found + 1e-9) for cpus in nodes) >= replicas


def test_more_replicas_than_cpus_can_hold() -> None:
    with pytest.raises(Refused, match=r"topology\.replicas: 20001 ranks .* room for 20000"):
        cpu_share([2], 20001)


def test_cores_are_divided_without_overlap() -> None:
    cores = [4, 5, 6, 7, 8, 9, 10, 11]
    taken = [cores_of(slot, 2, cores) for slot in range(4)]
    assert taken == [(4, 5), (6, 7), (8, 9), (10, 11)]


def test_replicas_share_cores_when_there_are_more_of_them() -> None:
    assert [cores_of(slot, 0.5, [0, 3]) for slot in range(4)] == [(0,), (3,), (0,), (3,)]


def test_a_share_larger_than_the_node_is_the_node() -> None:
    assert cores_of(0, 8, [0, 1]) == (0, 1)


def test_an_address_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests may have connected this process.
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as taken:
        # Bound, never listening: a connection is refused.
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        message = f"topology.address: {address}: no Ray cluster answers"
        with pytest.raises(Refused, match=message), connected(Topology(address=address)):
            raise AssertionError("connected")


def test_a_local_ray_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("Timed out while waiting for GCS to become available.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(Refused, match="no local Ray can be started: Timed out"), connected(Topology()):
        pass
