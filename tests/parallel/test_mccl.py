"""The collectives over MCCL: the same checks as in test_collectives.py.

A process starts MCCL once, so each size has processes of its own, which do everything in one run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from mindspore import mint

from tests.parallel import mccl
from tests.parallel.ranks import Ranks
from tests.parallel.test_collectives import (
    begin_two_wait_backwards,
    first_two,
    gather,
    give_and_take,
    numbers,
    shifted,
)
from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.parallel.collectives import PeerLost
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh


def in_turn(mesh: Mesh, bodies: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
    results = []
    for body, args in bodies:
        mesh.traffic.clear()
        results.append(body(mesh, *args))
    return results


def gather_into(mesh: Mesh) -> tuple[bool, np.ndarray]:
    """Whether the result is in the given memory, and the result."""
    out = nn.zeros((2 * mesh.size, 3))
    pending = mesh.gang.all_gather(
        nn.from_numpy(numbers(mesh.rank, 0, (2, 3))), [2] * mesh.size, what="test", out=out
    )
    return pending.wait() is out, nn.to_numpy(out)


def views_and_halves(mesh: Mesh) -> np.ndarray:
    """The values of a transposed view and of a bfloat16 view are sent."""
    x = nn.from_numpy(numbers(mesh.rank, 0, (3, 2)))
    turned = mesh.gang.all_gather(x.permute(1, 0), [2] * mesh.size, what="test").wait()
    halves = mesh.gang.all_gather(x[:, 1:].astype(nn.bfloat16), [3] * mesh.size, what="test").wait()
    return np.concatenate([nn.to_numpy(turned).reshape(-1), nn.to_numpy(halves).reshape(-1)])


def as_sent(size: int) -> np.ndarray:
    xs = [numbers(r, 0, (3, 2)) for r in range(size)]
    halves = [nn.to_numpy(nn.from_numpy(x[:, 1]).astype(nn.bfloat16)) for x in xs]
    return np.concatenate([*(x.T.reshape(-1) for x in xs), *halves])


@pytest.fixture
def mccl_ranks() -> Iterator[Ranks]:
    processes = Ranks(mccl.open_rendezvous)
    yield processes
    processes.close()


def test_two_ranks(mccl_ranks: Ranks) -> None:
    bodies = [(give_and_take, ()), (begin_two_wait_backwards, ()), (gather_into, ()), (views_and_halves, ())]
    for r, results in enumerate(mccl_ranks.run(in_turn, bodies, degrees=Degrees(2))):
        (taken, sent), (second, first), (there, whole), values = results
        check_taken(taken, sent, r, 2)
        for k, array in ((0, first), (1, second)):
            expected = np.concatenate([numbers(r, k, (2**18,)) for r in range(2)])[:: 2**17]
            np.testing.assert_array_equal(array, expected)
        assert there
        np.testing.assert_array_equal(whole, np.concatenate([numbers(r, 0, (2, 3)) for r in range(2)]))
        np.testing.assert_array_equal(values, as_sent(2))


def check_taken(taken: list[np.ndarray], sent: dict[str, int], r: int, size: int) -> None:
    for p, array in enumerate(taken):
        np.testing.assert_array_equal(array, numbers(p, r, (p + r, 3)))
    assert sent == {"test": sum((r + p) * 3 * 4 for p in range(size) if p != r)}


def test_three_ranks_and_groups_of_them(mccl_ranks: Ranks) -> None:
    lengths = (3, 0, 1)
    bodies = [(give_and_take, ()), (gather, (lengths,)), (shifted, ()), (first_two, ())]
    whole = np.concatenate([numbers(r, 0, (n, 2, 2)) for r, n in enumerate(lengths)])
    told = mccl_ranks.run(in_turn, bodies, degrees=Degrees(ring=3))
    for r, ((taken, sent), (array, gathered), neighbours, _) in enumerate(told):
        check_taken(taken, sent, r, 3)
        np.testing.assert_array_equal(array, whole)
        assert gathered == {"test": 2 * lengths[r] * 4 * 4}
        before = (r - 1) % 3
        assert neighbours == {"gang": before, "sequence": before, "ring": before, "ulysses": r, "cfg": r}
    assert [results[-1] for results in told] == [(0, 1), (0, 1), None]


def test_what_mccl_raises_of_a_dead_peer_is_peer_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    # The real error takes MCCL 30 seconds.
    def fail(*_: object) -> None:
        raise RuntimeError("Recv failed.\n\n- C++ Call Stack: (For framework developers)")

    transport = mccl.McclTransport(0, None)
    pending = transport.all_to_all((0, 1), [nn.zeros((2,)), nn.zeros((0,))], [(2,), (3,)])
    monkeypatch.setattr(mint.distributed, "irecv", fail)
    with pytest.raises(PeerLost, match=r"^rank 0: Recv failed\.$"):
        pending.wait()


def test_an_ipv6_host_is_refused() -> None:
    with pytest.raises(Refused, match="'::1' is not allowed; MindSpore's process groups take IPv4 only"):
        mccl.open_rendezvous("::1")
